"""Task kinds: how one sort of evaluation task turns examples and a module into answers.

A kind is one function in one file of `explorer/evaluation/tasks`. Its keyword-only signature declares its
parameters, which a task sets in its `task.json`:

    @task_kind(title="Text classification", needs=("tokenizer", "head"), fields=(Field("text", "text", "…"), LABEL))
    def text_classification(module, batch, head, *, max_length: Annotated[int, Range(1, 8192), "…"] = 64) -> Tensor: ...

    @text_classification.prepare      # rows -> examples, once per task
    @text_classification.collate      # examples -> one batch of tensors
    @text_classification.problem      # what is wrong with one row, in words, or None

The function returns outputs [n, k] of one batch. Unless the kind says otherwise, they are scores of k choices, the
answer is the choice with the highest one, it is right where it equals the row's label, and the metric is accuracy.
A kind says otherwise with `predict` (outputs -> predictions), `gold` (rows -> right answers), `outcomes` (predictions
and right answers -> what the metric is made of), `words` (a prediction in words) and `metric`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.evaluation._metrics import ACCURACY, TaskMetric
from explorer.params import Spec, specs_of
from explorer.registry import Registry

NEEDS = ("tokenizer", "images", "head", "own_head")
"""What a kind is handed beside module and batch. tokenizer, images: those of the base's folder. head: the task's frozen
matrix [labels, hidden]. own_head: the layers that a fine-tune put on top, kept with the task or with the fine-tune."""
FIELD_TYPES = ("text", "texts", "label", "number", "image", "tokens", "labels")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """One value of a row: what it is called, its type, and what it means.

    text; texts (a list of them); label (a whole number into the task's labels); number; image (a file inside the
    task's folder); tokens (a list of words); labels (one label per token). `names`: how files in the wild call the
    column, first the commonest, for guessing. `optional`: rows may lack it.
    """

    name: str
    type: str
    help: str
    names: tuple[str, ...] = ()
    optional: bool = False


LABEL = Field("label", "label", "the right label", ("label", "labels", "class", "category", "target", "y"))


@dataclass(frozen=True)
class Example:
    """One prepared example: values that `collate` understands, and its size, such as tokens."""

    values: Any
    size: int


Score = Callable[..., Tensor]
Prepare = Callable[[Sequence[Row], Any, Mapping[str, Any]], list[Example]]
Collate = Callable[[Sequence[Example], Any], dict[str, Tensor]]
Problem = Callable[[Row], "str | None"]
Chance = Callable[[Sequence[str]], float]
Parameters = Mapping[str, Any]
Metric = TaskMetric | Callable[[Parameters], TaskMetric]
Predict = Callable[[Tensor, Any, Parameters], np.ndarray]
Gold = Callable[[Sequence[Row], Parameters], np.ndarray]
Outcomes = Callable[[np.ndarray, np.ndarray, Parameters], np.ndarray]
Words = Callable[[Any, Sequence[str]], str]
Config = Callable[[Sequence[str], Parameters], Mapping[str, Any]]
Guess = Callable[[Sequence[Row], Parameters], float]


def uniform_chance(labels: Sequence[str]) -> float:
    """1 / number of labels: the accuracy of a guesser who knows the labels and nothing else."""
    return 1 / len(labels)


@dataclass(eq=False)
class TaskKind:
    """A registered kind: its function, its declared parameters, and how examples are prepared.

    `auto`: the transformers class that makes the module of a configuration, such as AutoModelForCausalLM.
    """

    name: str
    title: str
    function: Score
    specs: tuple[Spec, ...]
    fields: tuple[Field, ...]
    chance: Chance
    metric: Metric
    version: int
    needs: tuple[str, ...]
    auto: str
    help: str
    _hooks: dict[str, Any] = field(default_factory=dict, repr=False)

    def prepare(self, hook: Prepare) -> Prepare:
        """Decorator: `(rows, tokenizer, parameters) -> [Example]`; called once per task.

        `tokenizer` is what the kind needs: a tokenizer, image settings, or an object with `text.call` and `images`.
        `parameters` also hold the names of the task's `labels`.
        """
        return self._hook("prepare", hook)

    def collate(self, hook: Collate) -> Collate:
        """Decorator: `(examples, tokenizer) -> {name: Tensor}`; must depend on its arguments only."""
        return self._hook("collate", hook)

    def problem(self, hook: Problem) -> Problem:
        """Decorator: `(row) -> "text must be …; got …" or None`; the label itself is checked for every kind."""
        return self._hook("problem", hook)

    def predict(self, hook: Predict) -> Predict:
        """Decorator: `(outputs [n, k], tokenizer, parameters) -> predictions [n] or [n, k]` of numbers or texts."""
        return self._hook("predict", hook)

    def gold(self, hook: Gold) -> Gold:
        """Decorator: `(rows, parameters) -> right answers [n] or [n, k]`; called once per task."""
        return self._hook("gold", hook)

    def outcomes(self, hook: Outcomes) -> Outcomes:
        """Decorator: `(predictions, right answers, parameters) -> outcomes [n] or [n, k]` that the metric takes.

        The task's labels are among the parameters, as "labels".
        """
        return self._hook("outcomes", hook)

    def words(self, hook: Words) -> Words:
        """Decorator: `(prediction or right answer, labels) -> text` for tables of examples."""
        return self._hook("words", hook)

    def config(self, hook: Config) -> Config:
        """Decorator: `(labels, parameters) -> entries of config.json` that the task's own head needs."""
        return self._hook("config", hook)

    def guess(self, hook: Guess) -> Guess:
        """Decorator: `(rows, parameters) -> score of guessing`, where that depends on the rows."""
        return self._hook("guess", hook)

    @property
    def labelled(self) -> bool:
        """Whether rows carry labels, which task.json names."""
        return any(f.type in ("label", "labels") for f in self.fields)

    @property
    def chooses(self) -> bool:
        """Whether outputs are scores of choices, of which the highest is the answer."""
        return "predict" not in self._hooks

    def metric_of(self, parameters: Parameters) -> TaskMetric:
        """The metric under these parameters; a task hands its own over with its labels among them, as "labels"."""
        return self.metric if isinstance(self.metric, TaskMetric) else self.metric(parameters)

    def predictions(self, outputs: Tensor, tokenizer: Any, parameters: Parameters) -> np.ndarray:
        """Answers to one batch, from what the function returned."""
        hook = self._hooks.get("predict")
        return hook(outputs, tokenizer, parameters) if hook else answers_of(outputs).cpu().numpy()

    def confidences(self, outputs: Tensor) -> np.ndarray:
        """Softmax probability of the answer, [n] float32, 1/k to 1; NaN where outputs are not finite.

        NaN throughout for kinds that say themselves what outputs predict: those need not be scores of choices.
        """
        if "predict" in self._hooks or outputs.ndim != 2:
            return np.full(len(outputs), np.nan, dtype=np.float32)
        return outputs.float().softmax(dim=1).amax(dim=1).cpu().numpy()

    def right_answers(self, rows: Sequence[Row], parameters: Parameters) -> np.ndarray:
        """The right answers of rows, in the same order."""
        hook = self._hooks.get("gold")
        return hook(rows, parameters) if hook else np.array([row["label"] for row in rows], dtype=np.int64)

    def judged(self, predictions: np.ndarray, answers: np.ndarray, parameters: Parameters) -> np.ndarray:
        """Outcomes of predictions beside the right answers to the same examples."""
        hook = self._hooks.get("outcomes")
        return hook(predictions, answers, parameters) if hook else predictions == answers

    def in_words(self, answer: Any, labels: Sequence[str]) -> str:
        """A prediction or a right answer as a table of examples shows it; empty for no finite score."""
        hook = self._hooks.get("words")
        if hook:
            return str(hook(answer, labels))
        return labels[int(answer)] if labels and int(answer) >= 0 else ""

    def config_for(self, labels: Sequence[str], parameters: Parameters) -> Mapping[str, Any]:
        """Entries of config.json that the task's own head needs."""
        hook = self._hooks.get("config")
        return hook(labels, parameters) if hook else {}

    def chance_of(self, labels: Sequence[str], rows: Sequence[Row], parameters: Parameters) -> float:
        """The score of guessing on these rows."""
        hook = self._hooks.get("guess")
        return float(hook(rows, parameters)) if hook else self.chance(labels)

    def _hook(self, name: str, hook: Any) -> Any:
        if name in self._hooks:
            raise TypeError(f"task kind {self.name}: {name} is declared twice")
        self._hooks[name] = hook
        return hook

    def examples(self, rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
        """Rows as prepared examples, in the same order."""
        prepared: list[Example] = self._hooks["prepare"](rows, tokenizer, parameters)
        if len(prepared) != len(rows):
            raise TypeError(f"task kind {self.name}: prepare gave {len(prepared)} examples for {len(rows)} rows")
        return prepared

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
        """Examples as one batch of tensors, on the CPU."""
        batch: dict[str, Tensor] = self._hooks["collate"](examples, tokenizer)
        return batch

    def row_problem(self, row: Row) -> str | None:
        """What is wrong with a row, in words, or None."""
        problem: str | None = self._hooks["problem"](row)
        return problem

    def scores(self, module: nn.Module, batch: Mapping[str, Tensor], head: Tensor | None, **parameters: Any) -> Tensor:
        """Outputs [n, k] of one batch; the batch and the head are on the module's device."""
        with torch.inference_mode():
            return self.function(module, batch, head, **parameters)

    def describe(self) -> dict[str, Any]:
        """This kind as a plain row, for `--json` and the docs."""
        return {
            "name": self.name,
            "title": self.title,
            "help": self.help,
            "metric": self.metric_of({s.name: s.default for s in self.specs}).name,
            "fields": {f.name: f.help for f in self.fields},
            "chance": (self.chance.__doc__ or "").strip().splitlines()[0],
            "version": self.version,
            "needs": list(self.needs),
            "parameters": [s.describe() for s in self.specs],
        }


def answers_of(scores: Tensor) -> Tensor:
    """The choice with the highest score, [n] int64; the first one on an exact tie; -1 where a score is not finite.

    -1 matches no label: a merge that overflowed counts as wrong instead of answering whatever NaN sorts to.
    """
    finite = torch.isfinite(scores).all(dim=1)
    return torch.where(finite, scores.argmax(dim=1), -1)


KINDS: Registry[TaskKind] = Registry("task kind", "explorer.evaluation.tasks")


def task_kind(
    *,
    title: str,
    chance: Chance = uniform_chance,
    metric: Metric = ACCURACY,
    version: int = 1,
    needs: Sequence[str] = (),
    fields: Sequence[Field] = (LABEL,),
    auto: str = "AutoModel",
) -> Callable[[Score], TaskKind]:
    """Register the decorated function as a task kind of that name.

    `needs`: see NEEDS. `fields`: what a row holds. `auto`: the class of transformers that makes the module.
    `version` goes up whenever the same task would give other answers.
    Raises TypeError (a programming error) for a parameter without range or help, a missing docstring, or a taken name.
    """

    def register(function: Score) -> TaskKind:
        unknown = [n for n in needs if n not in NEEDS]
        if unknown or not function.__doc__:
            raise TypeError(
                f"task kind {function.__name__}: " + (f"unknown needs {unknown}" if unknown else "no docstring")
            )
        help = function.__doc__.strip().splitlines()[0]
        kind = TaskKind(
            name=function.__name__,
            title=title,
            function=function,
            specs=specs_of(function),
            chance=chance,
            fields=tuple(fields),
            metric=metric,
            version=version,
            needs=tuple(needs),
            auto=auto,
            help=help,
        )
        return KINDS.add(kind)

    return register
