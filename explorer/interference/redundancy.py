"""Redundancy: how much of a task vector's length lies in its largest entries, at any density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from explorer.compute.select import kept_count
from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._magnitudes import BINS, entries_for, gaussian_kept, gaussian_part_for, histogram, norm_kept
from explorer.interference._sums import ratio
from explorer.params import Choice, Range
from explorer.results import fraction, number, text

DENSITIES = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9,
    1.0,
)  # fmt: skip
"""Densities that wider scopes than a tensor are given at, beside the one asked for."""
GOAL = 0.9
"""Share of the norm that `density_90` is about."""
_GAUSSIAN_90 = gaussian_part_for(GOAL)


@metric(
    title="Redundancy",
    on="raw",
    higher_is_worse=None,
    paper="Resolving Interference When Merging Models",
    unit="share of the task vector's norm",
    how="How much of a task's change its largest entries hold. Far above the null: a few weights carry the task, and "
    "trimming the rest loses little. At the null: sizes are spread as normal noise spreads them.",
    columns=(
        text("task", "task"),
        number("density", "fraction of the weights kept, by size", 0.0, 1.0),
        fraction("kept", "norm of the kept entries / norm of the task vector"),
        fraction("null", "kept by a vector of as many normal entries as the task changed weights"),
        fraction("bin_error", "the exact value lies within kept ± this"),
        fraction("effective_density", "share of the weights that are kept and changed; below density if few changed"),
        fraction("of_changed", "share of the weights the task changed that are kept"),
        fraction("changed", "share of the weights that the task changed"),
        fraction("density_90", "share of the weights, largest first, that holds 90 % of the norm"),
        fraction("density_90_error", "the exact share lies within density_90 ± this"),
        fraction("null_90", "density_90 of a vector of as many normal entries as the task changed weights"),
    ),
)
def redundancy(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
    """Histograms of |τ_t| in 512 bins of an eighth of an octave: counts and sums of squares, [T, 512] each."""
    live = deltas[:, :0] if context.unchanged else deltas
    counts = torch.zeros((len(live), BINS), dtype=torch.int64, device=live.device)
    energy = torch.zeros((len(live), BINS), dtype=torch.float64, device=live.device)
    for index, row in enumerate(live):
        counts[index], energy[index] = histogram(row)
    return {
        "counts": counts,
        "energy": energy,
        "n_any": (live != 0).any(0).sum(),
        "n": torch.tensor(deltas.shape[1]),
    }


@redundancy.fused("histogram")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        "counts": found.histogram[..., 0].astype(np.int64),
        "energy": found.histogram[..., 1],
        "n_any": np.array(found.live),
        "n": np.array(found.n),
    }


@redundancy.finish
def _(
    total: Totals,
    tasks: tuple[str, ...],
    parameters: dict[str, Any],
    *,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), "fraction kept in rows of single tensors; others add a grid"
    ] = 0.2,
    denominator: Annotated[
        str,
        Choice("all", "changed", labels=("all weights", "weights that any task changed")),
        "which weights the density is a fraction of",
    ] = "all",
) -> dict[str, Any]:
    """Share of each task vector's norm that its largest entries hold, per density.

    kept = ‖the k largest entries‖₂ / ‖τ_t‖₂ with k = int(density·n) + 1 (as TIES counts; at most n), in [0, 1];
    entries that tie with the last one are not added. Every row ranks the weights of its own scope. density_90 is the
    least share of all n weights with kept ≥ 0.9; the "sparsity needed" is 1 − density_90. Not a measure of
    interference by itself: it says how much a trim costs. All fractions but `of_changed` are of all n weights; under
    `denominator` changed, density is a fraction of the weights that any task changed.
    Null: √(p + 2zφ(z)), z the (1 − p/2) quantile: what a long vector of normal entries keeps, p = of_changed.
    Read from a histogram with eight bins per octave, so any density is answered without a new pass: `bin_error` and
    `density_90_error` bound the error (0.003 for normal entries; more if entries lie outside 2^-48 … 2^16).
    Rows: a grid of densities 0.001 … 1 and `density` for model, layers, kinds and cells; tensors at `density` only.
    Edges: a task that changed nothing gives NaN for kept, of_changed and density_90; no weights give NaN throughout.
    Paper: Resolving Interference When Merging Models, figure on redundant parameters (the null is ours).
    """
    shown = np.array([density] if total.level == "tensor" else sorted({*DENSITIES, density}))
    n, counted = int(total["n"]), int(total["n" if denominator == "all" else "n_any"])
    wanted = np.array([kept_count(float(d), counted) for d in shown])
    blocks = [_task(c, e, n, wanted) for c, e in zip(total["counts"], total["energy"], strict=True)]
    columns = {key: np.concatenate([b[key] for b in blocks]) for key in (blocks[0] if blocks else {})}
    names = np.array(tasks, dtype=object)
    return {"task": np.repeat(names, len(shown)), "density": np.tile(shown, len(tasks)), **columns}


def _task(counts: np.ndarray, energy: np.ndarray, n: int, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Every column of one task at the densities that keep `wanted` [D] entries."""
    changed = int(counts.sum())
    kept = np.minimum(wanted, changed)
    of_changed = np.array([ratio(k, changed) for k in kept])
    found = norm_kept(counts, energy, kept)
    needed, error = entries_for(counts, energy, GOAL)
    single = {
        "changed": ratio(changed, n),
        "density_90": ratio(needed, n),
        "density_90_error": ratio(error, n),
        "null_90": ratio(changed * _GAUSSIAN_90, n),
    }
    return {
        "kept": found.norm,
        "null": np.array([gaussian_kept(part) for part in of_changed]),
        "bin_error": found.error,
        "effective_density": np.array([ratio(k, n) for k in kept]),
        "of_changed": of_changed,
        **{key: np.full(len(wanted), value) for key, value in single.items()},
    }
