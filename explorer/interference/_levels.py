"""Counts behind TALL masks at a whole grid of thresholds at once.

A position's *level* for a task is the number of grid thresholds λ at which it is in the task's mask
m_t = 1[|τ_t| > λ |τ_MTL − τ_t|]. Masks only shrink as λ grows, so the level says everything: both tasks of a pair
hold a position at λ_j exactly when the smaller of their levels is at least j, and at least k tasks hold it exactly
when the k-th largest level is at least j. Histograms of levels are additive and small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference import _nulls
from explorer.interference._api import FUSED, Context, Fused
from explorer.interference._fused import Found
from explorer.interference._sums import pairs
from explorer.params import Choice, Range

STEPS_PER_UNIT = 20
LEVELS_MAX = 40
THRESHOLDS = np.arange(1, LEVELS_MAX + 1) / STEPS_PER_UNIT
"""The grid λ = 0.05, 0.10, … 2.00; level j means: in the mask at THRESHOLDS[:j]."""

RowThreshold = Annotated[
    float, Range(0.05, 2.0, step=0.05), "λ that rows of single tensors are given at; wider scopes hold the grid"
]


def mask_counts(
    deltas: Tensor,
    *,
    denominator: Annotated[
        str,
        Choice("all", "changed", labels=("all weights", "weights that any task changed")),
        "which weights the shares are of",
    ] = "all",
    context: Context,
) -> dict[str, Tensor]:
    """Histograms of TALL-mask levels: per task [T, 41], of pair minima [P, 41], of the k-th largest [T, 41].

    The same for independent task vectors (`null_…`, float64): at every position each task has an entry drawn on its
    own from its counted ones in the chunk, and the multi-task vector is formed anew. One position in
    `context.null_every` is drawn, and counts that often.
    """
    n_all = deltas.shape[1]
    live = deltas[:, :0] if context.unchanged else deltas
    if denominator == "changed":
        live = live[:, (live != 0).any(0)]
        n_all = live.shape[1]
    drawn, weight = drawn_entries(live, context)
    real, null = _histograms(mask_levels(live)), _histograms(mask_levels(drawn))
    counts = {"n": torch.tensor(n_all), **real}
    counts.update({f"null_{key}": value.double() * weight for key, value in null.items()})
    for key in real:  # what is not live is at level 0 for every task
        counts[key][:, 0] += n_all - live.shape[1]
        counts[f"null_{key}"][:, 0] += n_all - live.shape[1]
    return counts


def drawn_entries(live: Tensor, context: Context) -> tuple[Tensor, float]:
    """Positions of the null, [T, draws]: every task has an entry of its row in `live` [T, n] drawn on its own; and how
    many positions each of them stands for.
    """
    among = live.shape[1]
    draws = -(-among // context.null_every)
    drawn = torch.empty((live.shape[0], draws), dtype=live.dtype, device=live.device)
    for index, task in enumerate(context.tasks if draws else ()):
        words = _nulls.seed_words(context.tensor, context.start, task)
        drawn[index] = live[index].index_select(0, _nulls.places(words, draws, among).to(live.device))
    return drawn, among / max(draws, 1)


def _fused(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`mask_counts` from the numbers of the fused pass."""
    n = found.live if values["denominator"] == "changed" else found.n
    tasks = range(len(found.changed))
    groups: dict[str, list[tuple[int, ...]]] = {"task": [(t,) for t in tasks], "pair": [*pairs(len(tasks))]}
    sums: dict[str, np.ndarray] = {"n": np.array(n)}
    for prefix, reached in (("", found.reached), ("null_", found.null_reached[values["denominator"]])):
        sums |= {prefix + key: histograms_of(reached.of(sets), n) for key, sets in groups.items()}
        sums[prefix + "rank"] = histograms_of(reached.ranks(), n)
    return {key: value.astype(np.float64) if key.startswith("null_") else value for key, value in sums.items()}


def histograms_of(reached: np.ndarray, n: int) -> np.ndarray:
    """Positions at level 0 … 40 from how many of n reach level 1 … 40: [rows, 40] -> [rows, 41]."""
    out = np.empty((len(reached), LEVELS_MAX + 1), reached.dtype)
    out[:, 0], out[:, 1:] = n, reached
    out[:, :-1] -= reached
    return out


FUSED[mask_counts] = Fused(("masks",), _fused)


def mask_levels(deltas: Tensor) -> Tensor:
    """How many thresholds of the grid each entry passes, [T, n] -> uint8 [T, n] in 0 … 40.

    Equal, entry by entry, to counting `|τ_t| > λ_j · |τ_MTL − τ_t|` over the grid in the precision of `deltas` (for
    normal numbers; subnormal ones may be off). The rounded quotient names the only threshold in doubt, and the
    comparison itself settles it. τ_t = 0 has level 0; τ_MTL = τ_t ≠ 0 has level 40.
    The sum over tasks is rounded once, from float64, so that it does not depend on the order of the tasks.
    """
    together = torch.zeros(deltas.shape[1], dtype=torch.float64, device=deltas.device)
    for row in deltas:
        together += row
    multi_task_vector = together.to(deltas.dtype)
    levels = torch.empty(deltas.shape, dtype=torch.uint8, device=deltas.device)
    for index, row in enumerate(deltas):
        size, rest = row.abs(), (multi_task_vector - row).abs()
        # a zero rest must not divide: any positive stand-in sends the quotient to 0 or beyond the grid
        nearest = size / rest.clamp_min(torch.finfo(deltas.dtype).tiny)
        nearest = nearest.mul_(STEPS_PER_UNIT).round_().clamp_(max=LEVELS_MAX)
        passes = size > (nearest / STEPS_PER_UNIT).mul_(rest)
        levels[index] = nearest.sub_(1).add_(passes).clamp_(min=0)
    return levels


def at_least(histogram: np.ndarray) -> np.ndarray:
    """Counts of positions with level ≥ 1 … 40, that is in the mask at each threshold: [..., 41] -> [..., 40]."""
    return np.cumsum(histogram[..., ::-1], axis=-1)[..., ::-1][..., 1:]


def _histograms(levels: Tensor) -> dict[str, Tensor]:
    """Level counts [rows, 41] of tasks, pairs and ranks."""
    count = levels.shape[0]
    minima = (torch.minimum(levels[a], levels[b]) for a, b in pairs(count))
    made = {"task": map(_count, levels), "pair": map(_count, minima), "rank": map(_count, _descending(levels))}
    out = {}
    for key, histograms in made.items():
        rows = list(histograms)
        empty = torch.zeros((0, LEVELS_MAX + 1), dtype=torch.int64, device=levels.device)
        out[key] = torch.stack(rows) if rows else empty
    return out


def _count(levels: Tensor) -> Tensor:
    return torch.bincount(levels, minlength=LEVELS_MAX + 1)


def _descending(levels: Tensor) -> list[Tensor]:
    """Rows sorted per position, largest first, by compare and exchange: far faster than a sort for few rows."""
    rows = list(levels)
    for end in range(len(rows) - 1, 0, -1):
        for i in range(end):
            rows[i], rows[i + 1] = torch.maximum(rows[i], rows[i + 1]), torch.minimum(rows[i], rows[i + 1])
    return rows


def shown_thresholds(level: str, mask_threshold: float) -> np.ndarray:
    """Indices into THRESHOLDS that rows of a level are given at: the whole grid, or for tensors the nearest one."""
    if level != "tensor":
        return np.arange(LEVELS_MAX)
    return np.array([np.abs(THRESHOLDS - mask_threshold).argmin()])
