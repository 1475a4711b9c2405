"""Subspace overlap: whether two tasks use the same strongest inputs and outputs of a matrix."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.interference._api import Totals, metric
from explorer.interference._matrices import EQUAL_SHARE, MOST_RANK, MatrixContext
from explorer.interference._sums import pairs, ratio
from explorer.params import Range
from explorer.results import count, fraction, number, text


@metric(
    title="Subspace overlap",
    on="matrix",
    higher_is_worse=True,
    paper="Task Singular Vectors: Reducing Task Interference in Model Merging",
    unit="mean squared cosine of the principal angles, 0 to 1",
    how="Of the strongest directions that one task uses, the part that the other uses too. 0: nothing in common. 1: "
    "the same space. Two random spaces of k of m dimensions share k/m, which is the null: only more is evidence.",
    columns=(
        text("task_a", "first task of the pair"),
        text("task_b", "second task of the pair"),
        fraction("overlap", "mean of left and right"),
        fraction("null", "overlap expected of random spaces of the same dimension"),
        number("null_sd", "standard deviation of that overlap", 0.0),
        fraction("left", "overlap of the left singular spaces: what the tasks write"),
        fraction("null_left", "left overlap expected of random spaces"),
        fraction("right", "overlap of the right singular spaces: what the tasks read"),
        fraction("null_right", "right overlap expected of random spaces"),
        number("rank", "singular directions kept, per matrix on average", 0.0),
        count("n_matrices", "matrices that both tasks changed"),
        count("n_sketched", "matrices of which only the strongest directions are known"),
    ),
)
def subspace_overlap(
    deltas: Tensor,
    *,
    rank: Annotated[int, Range(0, MOST_RANK, step=1), EQUAL_SHARE] = 0,
    context: MatrixContext,
) -> dict[str, Tensor]:
    """Mean squared cosine of the principal angles between the strongest singular spaces, per pair.

    left = ‖U_aᵀ U_b‖² / k with U_t the k strongest left singular vectors as columns, right with V_t likewise, overlap
    their mean; all in [0, 1], higher means more interference (or more sharing: the directions say nothing about
    signs). Several matrices: sum of all ‖·‖² over sum of all k. Where a task changed a matrix in fewer than k
    directions, k is the smaller of both numbers.
    Null: k_a k_b / m (left) and k_a k_b / n (right) in place of ‖·‖²: two random spaces, one of them turned at will.
    Its variance is 2 p q (m − p)(m − q) / (m² (m − 1)(m + 2)) for dimensions p and q; both ends are independent.
    Partial sums of deltas [T, m, n]: [P] each, one for every pair.
    Edges: a task that changed nothing gives NaN; k = m gives 1 and a null of 1; one task gives no rows.
    Paper: Task Singular Vectors: Reducing Task Interference in Model Merging, section 3.2; nulls are ours.
    """
    kept = context.kept(rank)
    parts = [context.singular(t) for t in range(len(context.tasks))]
    rows, columns = deltas.shape[1:]
    found = []
    for a, b in pairs(len(parts)):
        p, q = (min(kept, len(parts[t].values)) for t in (a, b))
        shared = [
            float((side_a.T @ side_b).square().sum())
            for side_a, side_b in (
                (parts[a].left(p), parts[b].left(q)),
                (parts[a].right(p), parts[b].right(q)),
            )
        ]
        chance = [p * q / max(1, size) for size in (rows, columns)]
        spread = _variance(p, q, rows) + _variance(p, q, columns)
        found.append([*shared, *chance, spread, min(p, q), min(p, q) > 0])
    table = torch.tensor(found, dtype=torch.float64).reshape(-1, 7)
    keys = ("left", "right", "chance_left", "chance_right", "variance", "kept", "used")
    sums = {key: table[:, i] for i, key in enumerate(keys)}
    return {**sums, "sketched": context.sketched}


@subspace_overlap.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for i, (a, b) in enumerate(pairs(len(tasks))):
        kept = float(total["kept"][i])
        left, right, null_left, null_right = (
            # rounding may leave [0, 1] by the last digits; NaN passes through
            min(value, 1.0) if (value := ratio(total[key][i], kept)) == value else value
            for key in ("left", "right", "chance_left", "chance_right")
        )
        rows.append(
            {
                "task_a": tasks[a],
                "task_b": tasks[b],
                "overlap": (left + right) / 2,
                "null": (null_left + null_right) / 2,
                "null_sd": ratio(sqrt(total["variance"][i]), 2 * kept),
                "left": left,
                "null_left": null_left,
                "right": right,
                "null_right": null_right,
                "rank": ratio(kept, float(total["used"][i])),
                "n_matrices": int(total["used"][i]),
                "n_sketched": int(total["sketched"]),
            }
        )
    return rows


def _variance(p: int, q: int, size: int) -> float:
    """Variance of ‖U_aᵀ U_b‖² for random spaces of dimensions p and q in `size` dimensions; 0 in one dimension."""
    return 2 * p * q * (size - p) * (size - q) / (size**2 * (size - 1) * (size + 2)) if size > 1 else 0.0
