"""Mask overlap: whether two tasks rely on the same weights of the merged update (TALL masks)."""

from __future__ import annotations

from typing import Any

import numpy as np

from explorer.interference._api import Totals, metric
from explorer.interference._levels import THRESHOLDS, RowThreshold, at_least, mask_counts, shown_thresholds
from explorer.interference._sums import pairs
from explorer.results import fraction, number, text

mask_overlap = metric(
    name="mask_overlap",
    title="Mask overlap",
    on="raw",
    higher_is_worse=None,
    paper="Localizing Task Information for Improved Model Merging and Compression",
    unit="weights in both masks / weights in either mask",
    how="A task's mask holds the weights where its own change stands out against what the other tasks add. Compare "
    "the overlap with its null: dense masks overlap by chance. A lift above 1 means shared weights.",
    columns=(
        number("threshold", "mask threshold λ: a larger one makes masks sparser", 0.0),
        text("task_a", "first task of the pair"),
        text("task_b", "second task of the pair"),
        fraction("density_a", "share of weights in the first task's mask"),
        fraction("density_b", "share of weights in the second task's mask"),
        fraction("iou", "weights in both masks / weights in either mask (Jaccard)"),
        fraction("null", "iou when each task's entries are drawn on their own"),
        fraction("independent", "iou if masks of these densities were placed independently"),
        number("lift", "iou / null", 0.0),
    ),
)(mask_counts)


@mask_overlap.finish
def _(
    total: Totals,
    tasks: tuple[str, ...],
    parameters: dict[str, Any],
    *,
    mask_threshold: RowThreshold = 0.4,
) -> dict[str, Any]:
    """Overlap of the TALL masks of two tasks, per pair and mask threshold.

    m_t = 1[|τ_t| > λ |τ_MTL − τ_t|] with τ_MTL = Σ τ_t (strict, as in the authors' code); iou = |m_a ∧ m_b| /
    |m_a ∨ m_b|, in [0, 1]. Neither end alone means interference: shared weights may help or hurt both tasks.
    Null: the iou when every position holds, of each τ_t, an entry drawn on its own from the chunk, and τ_MTL is formed
    anew; it keeps every task's distribution of sizes and signs, not its place. In models of more than 4 million
    weights, 1 position in 16 is drawn: the standard error of a share p is √(p (1 − p) / positions drawn).
    independent = d_a d_b / (d_a + d_b − d_a d_b).
    lift = iou / null, ≥ 0.
    Rows come at λ = 0.05, 0.10, … 2.00 for model, layers, kinds and cells; single tensors get the grid threshold
    nearest to `mask_threshold` only, which keeps the table to 40 x pairs x scopes however many tensors there are.
    `denominator` changed counts (and draws from) only positions that some task changed.
    Edges: two empty masks give a NaN iou; a null of 0 gives a NaN lift; one task gives no rows; two identical tasks
    have λ* = 1: full masks below λ = 1, empty ones from there on.
    Paper: Localizing Task Information for Improved Model Merging and Compression, section 4 (the pairwise overlap
    and the permuted null are ours).
    """
    chosen = shown_thresholds(total.level, mask_threshold)
    first = np.array([a for a, _ in pairs(len(tasks))], dtype=int)
    second = np.array([b for _, b in pairs(len(tasks))], dtype=int)
    size = at_least(total["task"]).T[chosen]
    iou = _iou(size, at_least(total["pair"]).T[chosen], first, second)
    null = _iou(at_least(total["null_task"]).T[chosen], at_least(total["null_pair"]).T[chosen], first, second)
    density = _divide(size, np.broadcast_to(total["n"], size.shape))
    density_a, density_b = density[:, first], density[:, second]
    both = density_a * density_b
    names = np.array(tasks, dtype=object)
    return {
        "threshold": np.repeat(THRESHOLDS[chosen], len(first)),
        "task_a": np.tile(names[first], len(chosen)),
        "task_b": np.tile(names[second], len(chosen)),
        "density_a": density_a.ravel(),
        "density_b": density_b.ravel(),
        "iou": iou.ravel(),
        "null": null.ravel(),
        "independent": _divide(both, density_a + density_b - both).ravel(),
        "lift": _divide(iou, null).ravel(),
    }


def _iou(size: np.ndarray, both: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jaccard overlap [thresholds, pairs] from mask sizes [thresholds, T] and intersections [thresholds, pairs]."""
    return _divide(both, size[:, first] + size[:, second] - both)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
