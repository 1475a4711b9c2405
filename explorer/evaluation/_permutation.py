"""Whether two models' scores on the same examples differ by more than chance, for a metric of any form."""

from __future__ import annotations

import numpy as np

from explorer.evaluation._metrics import TaskMetric
from explorer.seeds import stable_seed

PERMUTATIONS = 999
"""Swaps of the two models' answers; the smallest p-value is 1 / 1,000, enough for Holm's correction of 49 tasks."""


def paired_permutation(metric: TaskMetric, first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value of the difference of a metric between two models' outcomes [n] or [n, k] of the same examples.

    Under the null it does not matter which model gave which of an example's two outcomes: each pair is swapped with
    probability ½, and p = (1 + #{swaps with |difference| ≥ the one found}) / (1 + swaps). Never below 1 / 1,000; the
    same seed gives the same p. 1 where the outcomes are equal; NaN where the metric is not defined for one of them.
    For right and wrong answers `mcnemar` is the exact form of the same test.
    Raises ValueError (a programming error) when the two do not hold the same examples.
    Paper: Noreen, Computer-Intensive Methods for Testing Hypotheses, 1989 (approximate randomization).
    """
    if first.shape != second.shape:
        raise ValueError(f"both models must have answered the same examples; got {first.shape} and {second.shape}")
    found = abs(metric.value(first) - metric.value(second))
    if not np.isfinite(found):
        return float("nan")
    differing = ~_equal(first, second)
    if not differing.any():
        return 1.0
    generator = np.random.default_rng(stable_seed("paired permutation", seed))
    swapped = generator.integers(0, 2, size=(PERMUTATIONS, int(differing.sum())), dtype=np.int8).astype(bool)
    if metric.mean:
        gaps = np.asarray(first, dtype=np.float64)[differing] - np.asarray(second, dtype=np.float64)[differing]
        drawn = np.abs((1.0 - 2.0 * swapped) @ gaps) / len(first)
    else:
        drawn = np.array([_swapped(metric, first, second, differing, one) for one in swapped])
    # A swap for which the metric is not defined counts as large: the p-value is rather too high than too low.
    large = ~(drawn < found - 1e-12)
    return float((1 + int(large.sum())) / (1 + PERMUTATIONS))


def _swapped(
    metric: TaskMetric, first: np.ndarray, second: np.ndarray, differing: np.ndarray, swapped: np.ndarray
) -> float:
    ours, theirs, places = first.copy(), second.copy(), np.flatnonzero(differing)[swapped]
    ours[places], theirs[places] = second[places], first[places]
    return abs(metric.of(ours) - metric.of(theirs))


def _equal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which examples have equal outcomes in both, [n]; NaN equals NaN."""
    same = (first == second) | ((first != first) & (second != second))
    return np.asarray(same.reshape(len(first), -1).all(axis=1), dtype=bool)
