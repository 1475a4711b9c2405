"""Conflict map: whether two tasks put large changes at the same weights, whatever their signs."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._sums import gram, pairs, ratio, row_sums
from explorer.results import fraction, number, text


@metric(
    title="Conflict map",
    on="raw",
    higher_is_worse=True,
    paper="Task Arithmetic in Trust Region",
    unit="cosine of the absolute changes, 0 to 1",
    how="1: both tasks need the same weights to the same degree, so that merging one disturbs the other. Two vectors "
    "of spread-out sizes overlap much by chance (0.64 if normal): read it against its null, per layer or tensor.",
    columns=(
        text("task_a", "first task of the pair"),
        text("task_b", "second task of the pair"),
        fraction("conflict", "sum of |τ_a| |τ_b| / product of the norms"),
        fraction("null", "the same after each task vector is permuted on its own"),
        number("lift", "conflict / null", 0.0),
        number("mass", "sum of |τ_a| |τ_b|", 0.0),
    ),
)
def conflict_map(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
    """Overlap of the sizes of two tasks' changes, per pair: a data-free stand-in for the trust-region conflict.

    conflict = Σ_i |τ_a,i| |τ_b,i| / (‖τ_a‖ ‖τ_b‖), in [0, 1]; higher means more interference. The published map takes
    a task's gradient in place of one of the vectors; without data, its task vector stands for it.
    Null: Σ over chunks of (Σ|τ_a|) (Σ|τ_b|) / n, over the norms: exactly the mean over independent permutations of
    each task vector within its chunk, so differences of scale between tensors do not count as conflict.
    lift = conflict / null. Partial sums of deltas [T, n]: Gram matrix of |τ|, [T, T], and its expectation.
    Edges: a zero task vector gives NaN; one task gives no rows; one weight gives conflict = null = 1.
    Paper: Task Arithmetic in Trust Region, equation of Ω (the data-free form and the null are ours).
    """
    size = (deltas[:, :0] if context.unchanged else deltas).to(torch.float64).abs()
    sums = row_sums(size)
    return {"dots": gram(size), "null_dots": torch.outer(sums, sums) / max(deltas.shape[1], 1)}


@conflict_map.fused("sizes")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    dots = found.gram[2] + np.diag(found.gram[0].diagonal())
    return {"dots": dots, "null_dots": np.outer(found.lengths, found.lengths) / found.n}


@conflict_map.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    dots, null_dots = total["dots"], total["null_dots"]
    rows = []
    for a, b in pairs(len(tasks)):
        norms = sqrt(dots[a, a]) * sqrt(dots[b, b])
        conflict, null = ratio(dots[a, b], norms), ratio(null_dots[a, b], norms)
        rows.append(
            {
                "task_a": tasks[a],
                "task_b": tasks[b],
                # rounding may pass 1 by a unit in the last place; NaN passes through
                "conflict": 1.0 if conflict > 1 else conflict,
                "null": 1.0 if null > 1 else null,
                "lift": ratio(conflict, null) if null == null else null,
                "mass": float(dots[a, b]),
            }
        )
    return rows
