"""What was answered so far: one value per model and task, and one per step of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from explorer.evaluation._metrics import ACCURACY, TaskMetric

if TYPE_CHECKING:
    from explorer.evaluation._task import EvaluationTask


@dataclass(frozen=True, eq=False)
class TaskScore:
    """Answers of one model to the examples of one task that were scored so far.

    `indices` [n] are positions in the split, ascending; `predictions` [n] or [n, k] what was answered (label numbers,
    -1: no finite score; numbers; texts); `outcomes` [n] or [n, k] what `metric` is made of: for accuracy, whether each
    answer is right; `n_total` the size of the split; `confidences` [n] the softmax probability of each answer, NaN
    where it is not known.
    """

    task: str
    indices: np.ndarray
    predictions: np.ndarray
    outcomes: np.ndarray
    n_total: int
    metric: TaskMetric = ACCURACY
    confidences: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Examples scored so far."""
        return len(self.indices)

    @cached_property
    def score(self) -> float:
        """The metric of these answers, more is better; NaN before the first example."""
        return self.metric.value(self.outcomes)

    @property
    def correct(self) -> float:
        """score · n: for accuracy the number of right answers."""
        return float(self.outcomes.sum()) if self.metric.binary else self.score * self.n

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the score."""
        return self.metric.interval(self.outcomes)

    @property
    def complete(self) -> bool:
        """True once the whole split is scored."""
        return self.n == self.n_total

    def on(self, indices: np.ndarray) -> TaskScore:
        """The score on those of the given examples that were answered."""
        kept = np.isin(self.indices, indices)
        parts = {name: getattr(self, name)[kept] for name in ("indices", "predictions", "outcomes")}
        known = None if self.confidences is None else self.confidences[kept]
        return replace(self, **parts, confidences=known)


@dataclass(frozen=True, eq=False)
class Partial:
    """A run so far: scores per task, and how far it is.

    `task` was scored last; `round` (from 1) of `rounds`; `round_done` when every task has had this round.
    Round 1 is the quick balanced subset, so its accuracy is that of balanced classes.
    """

    scores: Mapping[str, TaskScore]
    task: str
    round: int
    rounds: int
    round_done: bool
    complete: bool
    done: int
    total: int
    seconds: float


def score_of(task: EvaluationTask, parts: list[tuple[np.ndarray, np.ndarray]]) -> TaskScore:
    """Blocks of (indices, `packed` answers) as one score, in the order of the split."""
    indices = np.concatenate([i for i, _ in parts])
    order = np.argsort(indices)
    predictions, confidences = (np.concatenate([p[name] for _, p in parts])[order] for name in _PACKED)
    indices = indices[order]
    outcomes = task.outcomes(predictions, indices)
    return TaskScore(task.name, indices, predictions, outcomes, task.n, task.metric, confidences)


_PACKED = ("prediction", "confidence")


def packed(predictions: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Predictions [n] or [n, k] beside their confidences as one array of records, which a file can hold."""
    plain = predictions.astype(np.str_) if predictions.dtype == object else predictions
    types = [(_PACKED[0], plain.dtype, plain.shape[1:]), (_PACKED[1], np.float32)]
    records = np.empty(len(plain), dtype=types)
    records[_PACKED[0]], records[_PACKED[1]] = plain, confidences
    return records
