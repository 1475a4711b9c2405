"""Row-space interference: whether two tasks read the same directions of a matrix's input, weighed by strength."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.interference._api import Totals, metric
from explorer.interference._matrices import EQUAL_SHARE, MOST_RANK, MatrixContext
from explorer.interference._sums import pairs, ratio
from explorer.params import Range
from explorer.results import count, fraction, text


@metric(
    title="Row-space interference",
    on="matrix",
    higher_is_worse=True,
    paper="Revisiting Weight Averaging for Model Merging",
    unit="0 to 1",
    how="How strongly two tasks react to the same input directions. 0: each reads what the other ignores, so neither "
    "disturbs the other. 1: both read one and the same direction. Random directions give the null, about 1/√n for "
    "n inputs; more than that is evidence.",
    columns=(
        text("task_a", "first task of the pair"),
        text("task_b", "second task of the pair"),
        fraction("interference", "‖Σ_a V_aᵀ V_b Σ_b‖ / (‖Σ_a‖ ‖Σ_b‖) over the kept directions"),
        fraction("null", "the same (root of its mean square) when one task's input directions are turned at random"),
        fraction("kept_a", "share of the first task's squared norm in the kept directions"),
        fraction("kept_b", "share of the second task's squared norm in the kept directions"),
        count("n_matrices", "matrices that both tasks changed"),
        count("n_sketched", "matrices of which only the strongest directions are known"),
    ),
)
def row_space_interference(
    deltas: Tensor,
    *,
    rank: Annotated[int, Range(0, MOST_RANK, step=1), EQUAL_SHARE] = 0,
    context: MatrixContext,
) -> dict[str, Tensor]:
    """How strongly two tasks react to the same directions of their input, per pair.

    I = ‖Σ̃_a V_aᵀ V_b Σ̃_b‖ (Frobenius) with the k strongest right singular vectors as columns of V_t and Σ̃ = Σ / ‖Σ‖;
    in [0, 1], higher means more interference. It equals ‖τ_a τ_bᵀ‖ / (‖τ_a‖ ‖τ_b‖) of the matrices reduced to rank k.
    The paper sums it over ordered pairs; the formula as it is often copied, (Σ̃ V)ᵀ(Σ̃ V), does not depend on the
    directions at all. Several matrices: √(Σ ‖τ_a τ_bᵀ‖² / Σ ‖τ_a‖² ‖τ_b‖²).
    Null: an input space turned at random, whose mean square is 1/n exactly for a matrix with n columns.
    Partial sums of deltas [T, m, n]: [P] each, one for every pair, and squared norms [T].
    Edges: a task that changed nothing gives NaN; two identical tasks give 1 only where they have one direction; one
    task gives no rows. Paper: Revisiting Weight Averaging for Model Merging, section 3; the null is ours.
    """
    kept = context.kept(rank)
    parts = [context.singular(t) for t in range(len(context.tasks))]
    scaled = [p.right(kept) * p.values[:kept] for p in parts]
    inside = torch.stack([s.square().sum() for s in scaled]) if scaled else torch.zeros(0, dtype=torch.float64)
    crossed, whole = [], []
    for a, b in pairs(len(parts)):
        crossed.append(float((scaled[a].T @ scaled[b]).square().sum()))
        whole.append(float(inside[a] * inside[b]))
    both = torch.tensor(whole, dtype=torch.float64)
    return {
        "crossed": torch.tensor(crossed, dtype=torch.float64),
        "whole": both,
        "chance": both / max(1, deltas.shape[2]),
        "used": (both > 0).to(torch.int64),
        "inside": inside,
        "squares": torch.tensor([p.squared_norm for p in parts], dtype=torch.float64),
        "sketched": context.sketched,
    }


@row_space_interference.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    shares = [min(value, 1.0) if value else value for value in map(ratio, total["inside"], total["squares"])]
    return [
        {
            "task_a": tasks[a],
            "task_b": tasks[b],
            "interference": sqrt(ratio(total["crossed"][i], total["whole"][i])),
            "null": sqrt(ratio(total["chance"][i], total["whole"][i])),
            "kept_a": shares[a],
            "kept_b": shares[b],
            "n_matrices": int(total["used"][i]),
            "n_sketched": int(total["sketched"]),
        }
        for i, (a, b) in enumerate(pairs(len(tasks)))
    ]
