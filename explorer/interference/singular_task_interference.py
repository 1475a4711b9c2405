"""Singular task interference: whether the strongest directions of different tasks get in each other's way."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.interference._api import Totals, metric
from explorer.interference._matrices import EQUAL_SHARE, MOST_RANK, MatrixContext
from explorer.interference._sums import ratio
from explorer.params import Range
from explorer.results import count, number


@metric(
    name="sti",
    title="Singular task interference",
    on="matrix",
    higher_is_worse=True,
    paper="Task Singular Vectors: Reducing Task Interference in Model Merging",
    unit="entrywise sum, as a multiple of the sum of the kept singular values",
    how="0: the strongest directions of the tasks are orthogonal, on the side of the inputs or of the outputs, and add "
    "up without harm. 1: two tasks that are the same. Random directions of a small matrix are far from orthogonal too, "
    "so only what exceeds the null says that tasks compete for the same directions.",
    columns=(
        number("sti", "‖(UᵀU − I) Σ (VᵀV − I)‖₁ / Σ σ, over all tasks", 0.0),
        number("null", "the same with random directions in place of every task's own", 0.0),
        number("raw", "‖(UᵀU − I) Σ (VᵀV − I)‖₁, not normalised", 0.0),
        number("rank", "singular directions kept, per task and matrix on average", 0.0),
        count("n_matrices", "matrices that any task changed"),
        count("n_sketched", "matrices of which only the strongest directions are known"),
    ),
)
def sti(
    deltas: Tensor,
    *,
    rank: Annotated[int, Range(0, MOST_RANK, step=1), EQUAL_SHARE] = 0,
    context: MatrixContext,
) -> dict[str, Tensor]:
    """How much the strongest singular directions of different tasks overlap at both ends at once.

    STI = ‖(UᵀU − I) Σ (VᵀV − I)‖₁ with U = [U_1 … U_T], V likewise (the k strongest vectors of each task side by side)
    and Σ the diagonal of their singular values; ≥ 0, higher means more interference. ‖·‖₁ is the sum of the sizes of
    all entries (the paper leaves open which norm is meant), and it is divided by Σ σ of what is kept, so that sizes
    do not count. Several matrices: sum of all ‖·‖₁ over sum of all Σ σ. T equal tasks give (T − 1)².
    Null: random orthonormal vectors of the same number for every task with the task's own singular values, one seeded
    draw per matrix; its sum runs over (T k)² entries, so one draw is enough.
    Partial sums of deltas [T, m, n]. Directions with a singular value of 0 do not exist and are left out. Where several
    singular values are equal their vectors are arbitrary, and so is this number.
    Edges: one task gives 0, tasks whose inputs or outputs are orthogonal give 0, no change at all gives NaN.
    Paper: Task Singular Vectors: Reducing Task Interference in Model Merging, equation 3; the null is ours.
    """
    kept = context.kept(rank)
    parts = [context.singular(t) for t in range(len(context.tasks))]
    values = [p.values[:kept] for p in parts]
    found = _crossed([p.left(kept) for p in parts], values, [p.right(kept) for p in parts])
    drawn = [context.generator(task) for task in context.tasks]
    sides = [
        [_random_directions(size, len(v), g).to(deltas.device) for v, g in zip(values, drawn, strict=True)]
        for size in deltas.shape[1:]
    ]
    return {
        "crossed": found,
        "null_crossed": _crossed(sides[0], values, sides[1]),
        "sigma": sum((v.sum() for v in values), found.new_zeros(())),
        "ranks": torch.tensor(sum(len(v) for v in values)),
        "matrices": torch.tensor(int(any(len(v) for v in values))),
        "sketched": context.sketched,
    }


@sti.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    matrices, sigma = int(total["matrices"]), float(total["sigma"])
    return [
        {
            "sti": ratio(float(total["crossed"]), sigma),
            "null": ratio(float(total["null_crossed"]), sigma),
            "raw": float(total["crossed"]) if matrices else float("nan"),
            "rank": ratio(float(total["ranks"]), matrices * len(tasks)),
            "n_matrices": matrices,
            "n_sketched": int(total["sketched"]),
        }
    ]


def _crossed(left: list[Tensor], values: list[Tensor], right: list[Tensor]) -> Tensor:
    """‖(UᵀU − I) Σ (VᵀV − I)‖₁; blocks of a task with itself are exactly 0, as its own vectors are orthonormal."""
    if not left:
        return torch.zeros((), dtype=torch.float64)
    owner = torch.cat([torch.full((len(v),), t, device=v.device) for t, v in enumerate(values)])
    other = owner[:, None] != owner
    grams = [(side := torch.cat(vectors, 1)).T @ side * other for vectors in (left, right)]
    return (grams[0] * torch.cat(values) @ grams[1]).abs().sum()


def _random_directions(size: int, kept: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns [size, kept], every rotation as likely as any other."""
    columns, upper = torch.linalg.qr(torch.randn((size, kept), dtype=torch.float64, generator=generator))
    return columns * torch.where(upper.diagonal() < 0, -1.0, 1.0)
