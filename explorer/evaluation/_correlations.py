"""How well numbers follow the right ones: what the kinds that answer with a number share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from explorer.evaluation._api import Field, Row
from explorer.evaluation._metrics import TaskMetric

VALUE = Field("value", "number", "the right number", ("value", "score", "label", "similarity", "target", "y"))


def no_relation(labels: Sequence[str]) -> float:
    """0: guesses have no relation to the right answers."""
    return 0.0


def pearson_of(outcomes: np.ndarray) -> float:
    """Pearson's correlation of answers and right numbers, outcomes [n, 2], in [-1, 1].

    r = Σ (x − x̄)(y − ȳ) / (‖x − x̄‖ ‖y − ȳ‖). NaN where the right numbers are all equal. 0 where the answers are: they
    say nothing. An answer that is not finite counts as the mean of the others, which says nothing either.
    """
    answers, right = _finite(outcomes[:, 0]), outcomes[:, 1]
    if np.ptp(right) == 0:
        return float("nan")
    x, y = answers - answers.mean(), right - right.mean()
    size = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(np.clip(x @ y / size, -1, 1)) if np.ptp(answers) > 0 and size > 0 else 0.0


def spearman_of(outcomes: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal values sharing their mean rank; edges as `pearson_of`.

    Whole numbers from 0 are taken for places in an order, which counting ranks without sorting them again.
    """
    places = outcomes if outcomes.dtype.kind == "i" else _places(outcomes[:, 0], outcomes[:, 1])
    return pearson_of(np.stack([_ranks(places[:, 0]), _ranks(places[:, 1])], axis=1))


def _places(answers: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Both in places [n, 2] of their orders, equal values in the same place."""
    return np.stack([np.unique(x, return_inverse=True)[1] for x in (_finite(answers), right)], axis=1)


def _ranks(places: np.ndarray) -> np.ndarray:
    """Mean ranks [n] of places."""
    counts = np.bincount(places)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _finite(answers: np.ndarray) -> np.ndarray:
    known = np.isfinite(answers)
    return answers if known.all() else np.where(known, answers, answers[known].mean() if known.any() else 0.0)


CORRELATIONS = {
    "spearman": TaskMetric("Spearman correlation", spearman_of, lowest=-1.0),
    "pearson": TaskMetric("Pearson correlation", pearson_of, lowest=-1.0),
}


def chosen_correlation(parameters: Mapping[str, Any]) -> TaskMetric:
    """The correlation that the parameter `correlation` names."""
    return CORRELATIONS[parameters["correlation"]]


def numbers_of(outputs: Tensor, tokenizer: Any, parameters: Mapping[str, Any]) -> np.ndarray:
    """Answers [n] float64 of outputs [n, 1]."""
    return outputs[:, 0].double().cpu().numpy()


def values_of(rows: Sequence[Row], parameters: Mapping[str, Any]) -> np.ndarray:
    """The right numbers [n] float64."""
    return np.array([row["value"] for row in rows], dtype=np.float64)


def beside(answers: np.ndarray, right: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    """Outcomes [n, 2]: the answer and the right number, or for ranks the places of both in their order."""
    ranked = parameters["correlation"] == "spearman"
    return _places(answers, right) if ranked else np.stack([answers, right], axis=1)


def in_figures(answer: Any, labels: Sequence[str]) -> str:
    """A number with four significant digits."""
    return f"{float(answer):.4g}"


def value_problem(row: Row) -> str | None:
    """What is wrong with the number of a row, in words, or None."""
    value = row.get("value")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"value must be a number; got {'nothing' if value is None else type(value).__name__}"
    return None if math.isfinite(value) else f"value must be finite; got {value}"
