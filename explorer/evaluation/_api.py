"""Task kinds: how one sort of evaluation task turns examples and a module into answers.

A kind is one function in one file of `explorer/evaluation/tasks`. Its keyword-only signature declares its
parameters, which a task sets in its `task.json`:

    @task_kind(title="Text classification", needs=("tokenizer", "head"))
    def text_classification(module, batch, head, *, max_length: Annotated[int, Range(1, 8192), "…"] = 64) -> Tensor: ...

    @text_classification.prepare      # rows -> examples, once per task
    @text_classification.collate      # examples -> one batch of tensors
    @text_classification.problem      # what is wrong with one row, in words, or None

The function returns scores [n, choices]; the answer is the choice with the highest score. That is one class per
label here, and as well one pooled logit per class, one image prototype, or one log-likelihood per choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from explorer.params import Spec, specs_of
from explorer.registry import Registry

NEEDS = ("tokenizer", "head")
Row = Mapping[str, Any]


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


def uniform_chance(labels: Sequence[str]) -> float:
    """1 / number of labels: the accuracy of a guesser who knows the labels and nothing else."""
    return 1 / len(labels)


@dataclass(eq=False)
class TaskKind:
    """A registered kind: its function, its declared parameters, and how examples are prepared."""

    name: str
    title: str
    function: Score
    specs: tuple[Spec, ...]
    chance: Chance
    metric: str
    higher_is_better: bool
    version: int
    needs: tuple[str, ...]
    help: str
    _hooks: dict[str, Any] = field(default_factory=dict, repr=False)

    def prepare(self, hook: Prepare) -> Prepare:
        """Decorator: `(rows, tokenizer, parameters) -> [Example]`; called once per task."""
        return self._hook("prepare", hook)

    def collate(self, hook: Collate) -> Collate:
        """Decorator: `(examples, tokenizer) -> {name: Tensor}`; must depend on its arguments only."""
        return self._hook("collate", hook)

    def problem(self, hook: Problem) -> Problem:
        """Decorator: `(row) -> "text must be …; got …" or None`; the label itself is checked for every kind."""
        return self._hook("problem", hook)

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
        """Scores [n, choices] of one batch; the batch and the head are on the module's device."""
        with torch.inference_mode():
            return self.function(module, batch, head, **parameters)

    def describe(self) -> dict[str, Any]:
        """This kind as a plain row, for `--json` and the docs."""
        return {
            "name": self.name,
            "title": self.title,
            "help": self.help,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
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
    metric: str = "accuracy",
    higher_is_better: bool = True,
    version: int = 1,
    needs: Sequence[str] = (),
) -> Callable[[Score], TaskKind]:
    """Register the decorated function as a task kind of that name.

    `needs` names what the function is handed beside module and batch: "tokenizer" (of the base), "head" (of the
    task). `version` goes up whenever the same task would give other answers.
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
            metric=metric,
            higher_is_better=higher_is_better,
            version=version,
            needs=tuple(needs),
            help=help,
        )
        return KINDS.add(kind)

    return register
