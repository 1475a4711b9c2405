"""Mask agreement: how many tasks rely on each weight of the merged update (TALL masks)."""

from __future__ import annotations

from typing import Any

import numpy as np

from explorer.interference._api import Totals, metric
from explorer.interference._levels import THRESHOLDS, RowThreshold, at_least, mask_counts, shown_thresholds
from explorer.results import count, fraction, number, text

mask_agreement = metric(
    name="mask_agreement",
    title="Mask agreement",
    on="raw",
    higher_is_worse=None,
    paper="Localizing Task Information for Improved Model Merging and Compression",
    unit="share of weights",
    how="How many tasks need each weight. 0: catastrophic, in the merge but of use to no task. 1: selfish, of use to "
    "one. All: universal. Consensus merging drops the first two. Compare each share with its null.",
    columns=(
        number("threshold", "mask threshold λ: a larger one makes masks sparser", 0.0),
        count("k", "number of tasks whose mask holds a weight"),
        text("role", "catastrophic (k = 0), selfish (1), shared (2 or more) or universal (all of several tasks)"),
        fraction("share", "share of weights that are in exactly k masks"),
        fraction("null", "the same when each task's entries are drawn on their own"),
    ),
)(mask_counts)


@mask_agreement.finish
def _(
    total: Totals,
    tasks: tuple[str, ...],
    parameters: dict[str, Any],
    *,
    mask_threshold: RowThreshold = 0.4,
) -> dict[str, Any]:
    """Share of weights that are in exactly k of the T TALL masks, for k = 0 … T and every mask threshold.

    share(k) = #{i : Σ_t m_t[i] = k} / n with m_t = 1[|τ_t| > λ |τ_MTL − τ_t|], in [0, 1]; sums to 1 over k. k = 0 is
    catastrophic, 1 selfish, T ≥ 2 universal, anything between shared: shares of one role add up. Many catastrophic
    and selfish weights mean interference; no single share is the measure. Under `denominator` all, weights that no
    task changed count as k = 0.
    Null: the same shares when every position holds, of each τ_t, an entry drawn on its own from the chunk, and τ_MTL is
    formed anew. In models of more than 4 million weights, 1 position in 16 is drawn.
    Rows come at λ = 0.05, 0.10, … 2.00 for model, layers, kinds and cells; single tensors get the grid threshold
    nearest to `mask_threshold` only.
    Edges: no weights give NaN; one task has k = 0 (unchanged) and 1 (changed) at every λ.
    Paper: Localizing Task Information for Improved Model Merging and Compression, section 4 (the null is ours).
    """
    chosen = shown_thresholds(total.level, mask_threshold)
    n = int(total["n"])
    return {
        "threshold": np.repeat(THRESHOLDS[chosen], len(tasks) + 1),
        "k": np.tile(np.arange(len(tasks) + 1), len(chosen)),
        "role": np.tile(np.array(_roles(len(tasks)), dtype=object), len(chosen)),
        "share": _shares(total["rank"], n)[chosen].ravel(),
        "null": _shares(total["null_rank"], n)[chosen].ravel(),
    }


def _roles(count: int) -> list[str]:
    """The field's word for weights in exactly k = 0 … T masks, [T + 1]; of one task, k = 1 is selfish."""
    middle = ["shared"] * (count - 2)
    return ["catastrophic", "selfish", *middle, "universal"][: count + 1]


def _shares(rank: np.ndarray, n: int) -> np.ndarray:
    """Share of positions in exactly k masks, [thresholds, T + 1], from histograms of the k-th largest level."""
    reached = at_least(rank).T
    everywhere, nowhere = np.full((len(reached), 1), n), np.zeros((len(reached), 1), dtype=np.int64)
    bounds = np.concatenate([everywhere, reached, nowhere], axis=1)
    exactly = bounds[:, :-1] - bounds[:, 1:]
    return exactly / n if n else np.full(exactly.shape, np.nan)
