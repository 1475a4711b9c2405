"""Mask patterns: which of at most six tasks rely on the same weights of the merged update (TALL masks)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._levels import (
    LEVELS_MAX,
    THRESHOLDS,
    at_least,
    drawn_entries,
    histograms_of,
    mask_levels,
    shown_thresholds,
)
from explorer.interference._sets import chosen_places
from explorer.params import Choice, PerTask, Range
from explorer.results import count, fraction, number, text

Chosen = Annotated[
    int,
    Range(0, 1, step=1),
    PerTask(),
    "1 for a task whose mask makes the patterns, 0 for one that is summed over; more than six give no rows",
]


@metric(
    title="Mask patterns",
    on="raw",
    higher_is_worse=None,
    paper="Localizing Task Information for Improved Model Merging and Compression",
    unit="share of weights",
    how="Which weights are needed by exactly these tasks and none of the other chosen ones. Compare each share with "
    "its null: dense masks meet by chance. Choose at most six tasks.",
    columns=(
        number("threshold", "mask threshold λ: a larger one makes masks sparser", 0.0),
        text("pattern", "names of the tasks that need the weight, in alphabetical order, as a JSON list; [] for none"),
        count("k", "number of tasks in the pattern"),
        fraction("share", "share of weights needed by exactly these of the chosen tasks"),
        fraction("null", "the same when each task's entries are drawn on their own"),
        fraction("independent", "the same if masks of these densities were placed independently"),
    ),
)
def mask_patterns(
    deltas: Tensor,
    *,
    chosen: Chosen = 1,
    denominator: Annotated[
        str,
        Choice("all", "changed", labels=("all weights", "weights that any task changed")),
        "which weights the shares are of",
    ] = "all",
    context: Context,
) -> dict[str, Tensor]:
    """Histograms of the smallest TALL-mask level in every set of the chosen tasks, [2^C, 41], and of the null.

    Row s holds, for the tasks of its bits, #{i : min level = j}; from that follows how many positions are in all of
    their masks at every threshold. More than six chosen tasks give [0, 41].
    """
    kept = chosen_places(chosen, context.tasks)
    n_all = deltas.shape[1]
    live = deltas[:, :0] if context.unchanged else deltas
    if denominator == "changed":
        live = live[:, (live != 0).any(0)]
        n_all = live.shape[1]
    drawn, weight = drawn_entries(live, context)
    held, null = _held(live, kept), _held(drawn, kept).double() * weight
    held[1:, 0] += n_all - live.shape[1]  # what is not live is at level 0 for every task
    null[1:, 0] += n_all - live.shape[1]
    return {"n": torch.tensor(n_all), "held": held, "null_held": null}


@mask_patterns.fused("masks")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    n = found.live if values["denominator"] == "changed" else found.n
    kept = chosen_places(values["chosen"], found.tasks)
    sets = (
        [] if kept is None else [tuple(t for i, t in enumerate(kept) if s >> i & 1) for s in range(1, 1 << len(kept))]
    )
    empty = np.zeros((int(kept is not None), LEVELS_MAX + 1), np.int64)
    held, null = (
        np.concatenate([empty, histograms_of(reached.of(sets), n)])
        for reached in (found.reached, found.null_reached[values["denominator"]])
    )
    return {"n": np.array(n), "held": held, "null_held": null.astype(np.float64)}


@mask_patterns.finish
def _(
    total: Totals,
    tasks: tuple[str, ...],
    parameters: dict[str, Any],
    *,
    mask_threshold: Annotated[
        float, Range(0.05, 2.0, step=0.05), "λ that rows of tensors and cells are given at; wider scopes hold the grid"
    ] = 0.4,
) -> dict[str, Any]:
    """Share of weights that are in the TALL masks of exactly these of the chosen tasks, per pattern and threshold.

    share(S) = #{i : {t ∈ C : m_t[i] = 1} = S} / n with m_t = 1[|τ_t| > λ |τ_MTL − τ_t|] and τ_MTL = Σ τ_t over *all*
    tasks, in [0, 1]; sums to 1 over the 2^|C| patterns S of the chosen tasks C. A task that is not chosen is summed
    over. No single share is a measure of interference; a pattern far above its null is shared ground.
    From the counts of positions that all tasks of a set hold, exact patterns follow by inclusion and exclusion.
    Null: the same shares when every position holds, of each τ_t, an entry drawn on its own from the chunk, and τ_MTL is
    formed anew: the draws of mask agreement. In models of more than 4 million weights, 1 position in 16 is drawn.
    independent = Π_{t ∈ S} d_t Π_{t ∈ C∖S} (1 − d_t), d_t the density of the task's mask.
    Rows come at λ = 0.05, 0.10, … 2.00 for model, layers and kinds; cells and single tensors get the grid threshold
    nearest to `mask_threshold` only. `denominator` changed counts (and draws from) only positions that some task
    changed.
    Edges: more than six chosen tasks give no rows, none the one pattern []; no weights give NaN.
    Paper: Localizing Task Information for Improved Model Merging and Compression, section 4 (patterns and both
    chance levels are ours).
    """
    kept = chosen_places(parameters["chosen"], tasks)
    if kept is None:
        return {}
    names = [tasks[t] for t in kept]
    at = shown_thresholds("tensor" if total.level in ("cell", "tensor") else total.level, mask_threshold)
    n = int(total["n"])
    held = at_least(total["held"]).T[at]
    held[:, 0] = n
    null = at_least(total["null_held"]).T[at]
    null[:, 0] = n
    patterns = [tuple(t for t in range(len(names)) if s >> t & 1) for s in range(1 << len(names))]
    return {
        "threshold": np.repeat(THRESHOLDS[at], len(patterns)),
        "pattern": np.tile(
            np.array([json.dumps(sorted(names[t] for t in p)) for p in patterns], dtype=object), len(at)
        ),
        "k": np.tile([len(p) for p in patterns], len(at)),
        "share": _shares(_exactly(held), n).ravel(),
        "null": _shares(_exactly(null), n).ravel(),
        "independent": _independent(_shares(held, n), len(names)).ravel(),
    }


def _held(deltas: Tensor, kept: Sequence[int] | None) -> Tensor:
    """Histogram of the smallest level in every set of tasks, [2^C, 41]; row 0, the empty set, holds zeros."""
    sets = 0 if kept is None else 1 << len(kept)
    counts = torch.zeros((sets, LEVELS_MAX + 1), dtype=torch.int64, device=deltas.device)
    if not kept:
        return counts
    levels = mask_levels(deltas)[list(kept)]
    smallest: dict[int, Tensor] = {}
    for s in range(1, 1 << len(kept)):
        last = s.bit_length() - 1
        rest = s ^ (1 << last)
        smallest[s] = torch.minimum(smallest[rest], levels[last]) if rest else levels[last]
        counts[s] = torch.bincount(smallest[s], minlength=LEVELS_MAX + 1)
    return counts


def _exactly(held: np.ndarray) -> np.ndarray:
    """Positions in all masks of a set and in no other, from those in all masks of each set: [..., 2^C] -> same."""
    exact = held.copy()
    size = exact.shape[-1]
    for t in range(size.bit_length() - 1):
        without = [s for s in range(size) if not s >> t & 1]
        exact[..., without] -= exact[..., [s | 1 << t for s in without]]
    return exact


def _independent(share: np.ndarray, count_: int) -> np.ndarray:
    """Share of each pattern if every mask lay independently, from the shares held by each set, [..., 2^C]."""
    density = share[..., [1 << t for t in range(count_)]]
    out = np.ones_like(share)
    for s, t in itertools.product(range(1 << count_), range(count_)):
        out[..., s] *= density[..., t] if s >> t & 1 else 1 - density[..., t]
    return out


def _shares(counts: np.ndarray, n: int) -> np.ndarray:
    return counts / n if n else np.full(counts.shape, np.nan)
