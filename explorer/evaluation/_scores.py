"""What was answered so far: one value per model and task, and one per step of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TaskScore:
    """Answers of one model to the examples of one task that were scored so far.

    `indices` [n] are positions in the split, ascending; `predictions` [n] label numbers (-1: no finite score);
    `correct` [n] bool; `n_total` the size of the split.
    """

    task: str
    indices: np.ndarray
    predictions: np.ndarray
    correct: np.ndarray
    n_total: int

    @property
    def n(self) -> int:
        """Examples scored so far."""
        return len(self.indices)

    @property
    def n_correct(self) -> int:
        """Examples answered correctly."""
        return int(self.correct.sum())

    @property
    def accuracy(self) -> float:
        """correct / n, 0-1; NaN before the first example."""
        return self.n_correct / self.n if self.n else float("nan")

    @property
    def complete(self) -> bool:
        """True once the whole split is scored."""
        return self.n == self.n_total


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


def score_of(task: str, parts: list[tuple[np.ndarray, np.ndarray]], answers: np.ndarray) -> TaskScore:
    """Blocks of (indices, predictions) as one score, in the order of the split."""
    indices = np.concatenate([i for i, _ in parts])
    predictions = np.concatenate([p for _, p in parts])
    order = np.argsort(indices)
    indices, predictions = indices[order], predictions[order]
    return TaskScore(task, indices, predictions, predictions == answers[indices], len(answers))
