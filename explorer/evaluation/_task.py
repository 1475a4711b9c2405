"""Evaluation tasks: a folder with task.json, a frozen head, and one JSON-lines file per split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from explorer.errors import DataError, ParameterError, UnknownNameError, all_problems, near, sentence
from explorer.evaluation._api import KINDS, Row, TaskKind
from explorer.evaluation._metrics import TaskMetric
from explorer.evaluation._task_files import heads, rows_of, split_file
from explorer.params import check_values
from explorer.seeds import digest_of

SCHEMA = 1
_TEXTS = ("name", "kind", "source", "licence", "split_rule", "description", "head_source")
_KEYS = ("schema", "version", "labels", "label_texts", "head", "splits", *_TEXTS)
_SHOWN_AT_MOST = 20


@dataclass(frozen=True, eq=False)
class EvaluationTask:
    """One split of one task, checked. `answers` are the right answers, for labels [n] int64; `head` [classes, width]
    float32; `own_head` the layers on top of the backbone by name, empty where they stay with the fine-tune.

    `chance` is the score of guessing, `majority` that of always saying the commonest label (chance where there are no
    labels); both 0-1. `digest` changes with anything that can change an answer: data, heads, task.json, split.
    """

    name: str
    kind: str
    version: int
    split: str
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    answers: np.ndarray
    head: Tensor | None
    parameters: Mapping[str, Any]
    chance: float
    majority: float
    digest: str
    licence: str
    source: str
    folder: Path
    own_head: Mapping[str, Tensor] = field(default_factory=dict)
    label_texts: tuple[str, ...] = ()
    head_source: str = ""

    @property
    def n(self) -> int:
        """Examples of this split."""
        return len(self.rows)

    @property
    def metric(self) -> TaskMetric:
        """What this task's score is."""
        return KINDS.get(self.kind).metric_of({**self.parameters, "labels": self.labels})

    @property
    def config(self) -> Mapping[str, Any]:
        """Entries of config.json that the task's own head needs, such as the number of labels."""
        return KINDS.get(self.kind).config_for(self.labels, self.parameters)

    @property
    def told(self) -> Mapping[str, Any]:
        """What `prepare` is told beside rows: the parameters, and the names of the labels under `labels`."""
        return {**self.parameters, "labels": self.labels}

    @property
    def lacks_head(self) -> bool:
        """Whether layers on top must still be taken from a fine-tune, or a head made of the label texts."""
        needs = KINDS.get(self.kind).needs
        return ("own_head" in needs and not self.own_head) or ("head" in needs and self.head is None)

    def with_own_head(self, tensors: Mapping[str, Tensor], digest: str) -> EvaluationTask:
        """The task with the layers on top that a fine-tune holds; `digest` says which."""
        return replace(self, own_head=dict(tensors), digest=digest_of(self.digest, "own head", digest))

    def with_head(self, head: Tensor, digest: str) -> EvaluationTask:
        """The task with a frozen head [labels, hidden] made of its label texts; `digest` says by which base."""
        said = "made of label texts by the base"
        return replace(self, head=head, head_source=said, digest=digest_of(self.digest, "label texts", digest))

    def named(self, name: str) -> EvaluationTask:
        """The same task under another name, which is part of what it is kept under."""
        return self if name == self.name else replace(self, name=name, digest=digest_of(self.digest, "named", name))

    def outcomes(self, predictions: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """What the metric is made of, for answers to the examples at these positions."""
        known = {**self.parameters, "labels": self.labels}
        return KINDS.get(self.kind).judged(predictions, self.answers[indices], known)

    def in_words(self, answer: Any) -> str:
        """A prediction or a right answer as text."""
        return KINDS.get(self.kind).in_words(answer, self.labels)


def load_task(folder: Path | str, *, split: str = "test") -> EvaluationTask:
    """Reads and checks one split of a task folder; every problem is reported at once (at most 20 are spelled out).

    Raises DataError: a missing or unreadable file, a bad line (with its number), a label out of range, an empty
    text, an unknown split, kind or key (near names offered), a head of the wrong shape, a path outside the folder.
    """
    folder = Path(folder)
    problems: list[str] = []
    declared = _read_json(folder / "task.json")
    who = str(declared.get("name") or folder.name)
    kind = _kind(declared, who, problems)
    labels = _labels(declared, kind, who, problems)
    parameters = _parameters(declared, kind, who, problems)
    rows, row_digest = rows_of(split_file(folder, declared, split, who, problems), kind, len(labels), problems)
    head = heads(folder, declared, kind, len(labels), who, problems)
    if problems:
        shown = problems[:_SHOWN_AT_MOST]
        if len(problems) > _SHOWN_AT_MOST:
            shown.append(f"… and {len(problems) - _SHOWN_AT_MOST} more")
        raise DataError(all_problems(who, shown))
    assert kind is not None
    answers = kind.right_answers(rows, parameters)
    chance = kind.chance_of(labels, rows, parameters)
    plain = kind.labelled and answers.ndim == 1 and answers.dtype.kind == "i"
    return EvaluationTask(
        name=who,
        kind=kind.name,
        version=declared.get("version", 1),
        split=split,
        labels=labels,
        rows=tuple(rows),
        answers=answers,
        head=head.weight,
        parameters=parameters,
        chance=chance,
        majority=float(np.bincount(answers).max() / len(rows)) if plain else chance,
        digest=digest_of(json.dumps(declared, sort_keys=True), row_digest, head.digest, split),
        licence=str(declared.get("licence", "")),
        source=str(declared.get("source", "")),
        folder=folder,
        own_head=head.own,
        label_texts=tuple(declared.get("label_texts", ())),
        head_source=str(declared.get("head_source", "")),
    )


def find_tasks(root: Path | str) -> dict[str, Path]:
    """Task folders directly under `root`, name -> folder in name order; the name is the one in task.json.

    A folder whose task.json cannot be read goes by its own name, so that loading it says what is wrong.
    Raises DataError when `root` is no folder or two folders hold the same name.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(sentence(str(root), "must be a folder of task folders", "no such folder", "Check the path."))
    found: dict[str, Path] = {}
    for folder in sorted(p.parent for p in root.glob("*/task.json")):
        try:
            name = str(_read_json(folder / "task.json").get("name") or folder.name)
        except DataError:
            name = folder.name
        if name in found:
            got = f"{found[name].name} and {folder.name} both named {name!r}"
            raise DataError(sentence(str(root), "task names must differ", got, "Rename one in its task.json."))
        found[name] = folder
    return dict(sorted(found.items()))


def task_folder(root: Path | str, name: str) -> Path:
    """The folder of the task `name` under `root`. Raises UnknownNameError with near names."""
    known = find_tasks(root)
    if name not in known:
        raise UnknownNameError(sentence("task", "must be a known name", repr(name), near(name, known)))
    return known[name]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        got, advice = error.strerror or str(error), "A task is a folder with task.json, a head and its splits."
        raise DataError(sentence(str(path), "must be a readable file", got, advice)) from error
    except ValueError as error:
        raise DataError(sentence(str(path), "must be JSON in UTF-8", str(error), "Mend the line it names.")) from error
    if not isinstance(data, dict):
        raise DataError(sentence(str(path), "must hold a JSON object", type(data).__name__, "See the sample tasks."))
    return data


def _kind(declared: Mapping[str, Any], who: str, problems: list[str]) -> TaskKind | None:
    schema, version = declared.get("schema"), declared.get("version", 1)
    if schema != SCHEMA:
        problems.append(sentence(who, f"schema must be {SCHEMA}", repr(schema), f"Write schema {SCHEMA}."))
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        problems.append(sentence(who, "version must be a whole number from 1", repr(version), "Write version 1."))
    for key in _TEXTS:
        if not isinstance(declared.get(key, ""), str):
            problems.append(sentence(who, f"{key} must be text", repr(declared[key]), "Put it in quotes."))
    name = declared.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        advice = near(str(name), KINDS.names())
        problems.append(sentence(who, "kind must be a known task kind", repr(name), advice))
        return None
    return KINDS.get(name)


def _labels(declared: Mapping[str, Any], kind: TaskKind | None, who: str, problems: list[str]) -> tuple[str, ...]:
    labels = declared.get("labels")
    if labels is None and kind is not None and not kind.labelled:
        return ()
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(x, str) and x for x in labels):
        got = "nothing" if labels is None else f"{len(labels)} entries" if isinstance(labels, list) else repr(labels)
        problems.append(sentence(who, "labels must be a list of at least two names", got, 'Use ["ham", "spam"].'))
        return ()
    if len(set(labels)) < len(labels):
        twice = sorted({x for x in labels if labels.count(x) > 1})
        problems.append(sentence(who, "labels must differ", f"{', '.join(twice)} twice", "Rename one."))
    return tuple(labels)


def _parameters(declared: Mapping[str, Any], kind: TaskKind | None, who: str, problems: list[str]) -> dict[str, Any]:
    if kind is None:
        return {}
    names = [s.name for s in kind.specs]
    for key in declared:
        if key not in _KEYS and key not in names:
            advice = near(key, [*_KEYS, *names])
            problems.append(sentence(who, "task.json takes only known keys", repr(key), advice))
    try:
        return check_values(kind.specs, {k: v for k, v in declared.items() if k in names}, who=who)
    except ParameterError as error:
        problems.append(str(error))
        return {}
