"""Subspace alignment: how much of a task's update lies in the strongest directions of the merged one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.compute.singular import Singular, decompose
from explorer.interference._api import Totals, metric
from explorer.interference._matrices import MOST_RANK, MatrixContext
from explorer.interference._sums import ratio
from explorer.params import Advanced, Range
from explorer.results import count, fraction, number, text
from explorer.seeds import stable_seed


@metric(
    name="sar",
    title="Subspace alignment ratio",
    on="matrix",
    higher_is_worse=False,
    paper="No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
    unit="share of the length of a task vector, 0 to 1",
    how="How much of a task's update lies in the strongest directions of the sum of all updates. Near 1: the merge "
    "keeps room for this task. Low: others' directions dominate, and the task will lose most. A task is part of the "
    "sum, so unrelated tasks lie in it too: the null says how much.",
    columns=(
        text("task", "task"),
        fraction("alignment", "‖Π τ_t‖ / ‖τ_t‖, Π the projection on the kept left directions of Σ τ_t"),
        fraction("null", "the same after rows and columns of every task were shuffled and got random signs"),
        number("rank", "directions of the sum that are kept, per matrix on average", 0.0),
        fraction("rank_share", "kept directions / all directions"),
        count("n_matrices", "matrices that the task changed"),
        count("n_sketched", "matrices of which only the strongest directions of the sum are known"),
    ),
)
def sar(
    deltas: Tensor,
    *,
    residual: Annotated[
        float,
        Range(0, 1, open_low=True, open_high=True, step=0.01),
        "keep the fewest directions of the sum that leave out at most this share of its length",
    ] = 0.05,
    rank: Annotated[
        int, Range(0, MOST_RANK, step=1), Advanced(), "keep this many directions; 0: as many as `residual` asks for"
    ] = 0,
    context: MatrixContext,
) -> dict[str, Tensor]:
    """How much of a task's update lies in the strongest directions of the merged one, per task.

    SAR_t = ‖Π τ_t‖ / ‖τ_t‖ with Π the projection on the strongest left singular vectors of M = Σ τ_t, in [0, 1]; low
    means more interference: the merge then leaves little of this task. `residual` 0.05 is the paper's; its figure
    script corresponds to 0.312 and one vector fewer. Several matrices: √(Σ ‖Π τ_t‖² / Σ ‖τ_t‖²).
    Null: rows and columns of every task shuffled on their own and given random signs, which keeps all singular values
    and sizes but no relation between tasks, then M formed anew; as many directions are kept as of the real M. One
    seeded draw per matrix. It is above √(k/m), as every task is part of M.
    Partial sums of deltas [T, m, n]: squared lengths [T]. Of a sum too large for an exact decomposition only the
    strongest directions are known, and no more can be kept.
    Edges: a task that changed nothing gives NaN; one task gives √(1 − residual²) or more; tasks that cancel exactly
    give 0. Paper: No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, equation 3.
    """
    merged = context.merged()
    kept = min(rank or _kept_for(merged, residual), len(merged.values))
    total = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
    for one in _all_shuffled(context):
        total += one
    null = decompose(total, stable_seed("sketch", "null", context.tensor))
    whole = torch.stack([d.double().square().sum() for d in deltas]) if len(deltas) else total.new_zeros(0)
    changed = whole > 0
    return {
        "inside": _inside(merged.left(kept), deltas),
        "null_inside": _inside(null.left(kept), _all_shuffled(context)),
        "whole": whole,
        "ranks": changed * kept,
        "sides": changed * context.side,
        "used": changed.to(torch.int64),
        "sketched": torch.tensor(int(not merged.exact)),
    }


@sar.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "alignment": _root_share(total["inside"][t], total["whole"][t]),
            "null": _root_share(total["null_inside"][t], total["whole"][t]),
            "rank": ratio(total["ranks"][t], total["used"][t]),
            "rank_share": ratio(total["ranks"][t], total["sides"][t]),
            "n_matrices": int(total["used"][t]),
            "n_sketched": int(total["sketched"]),
        }
        for t, task in enumerate(tasks)
    ]


def subspace_alignment_ratio(
    deltas: Tensor, merged: Tensor, *, rank: int | None = None, residual: float = 0.05
) -> Tensor:
    """‖Π τ_t‖ / ‖τ_t‖ for each task, Π the projection on the top left singular vectors of the merged matrix.

    Shapes: deltas [T, m, n], merged [m, n] (such as Σ τ_t); returns float64 [T] in [0, 1]. 1: the task's update lies
    in the space that the merge uses. `rank` vectors are used, or (None) as many as `residual` asks for, see
    `rank_for_residual`. Null: √(rank / m), what a random update of the same shape shows on average of its square.
    A task that changed nothing gives NaN; rank 0 gives 0. Raises ValueError (a programming error) for other shapes.
    Paper: No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, equation 3.
    """
    if deltas.dim() != 3 or merged.shape != deltas.shape[1:]:
        raise ValueError(f"needs deltas [T, m, n] and merged [m, n]; got {list(deltas.shape)}, {list(merged.shape)}")
    left, values, _ = torch.linalg.svd(merged.double(), full_matrices=False)
    basis = left[:, : _rank(values, residual) if rank is None else rank]
    wide = deltas.double()
    return (basis.T @ wide).flatten(1).norm(dim=1) / wide.flatten(1).norm(dim=1)


def rank_for_residual(matrix: Tensor, residual: float) -> int:
    """The least rank k with ‖M − M_k‖ / ‖M‖ ≤ residual, M_k the best matrix of rank k; 0 for a zero matrix.

    The paper takes residual 0.05 (99.75 % of the squared norm). Its figure script takes √(squared share) > 0.95, which
    is a residual of 0.312, and one vector fewer, as it counts positions from 0.
    """
    return _rank(torch.linalg.svdvals(matrix.double()), residual)


def _rank(values: Tensor, residual: float) -> int:
    squares = values.square()
    left = squares.flip(0).cumsum(0).flip(0)  # left[k]: what the k strongest directions leave
    return int((left > residual**2 * left[:1]).sum()) if bool(values.any()) else 0


def _kept_for(merged: Singular, residual: float) -> int:
    """The least rank that leaves at most `residual` of the length; all that are known where that is not enough."""
    if not merged.squared_norm:
        return 0
    left = merged.squared_norm - merged.values.square().cumsum(0)
    return min(1 + int((left > residual**2 * merged.squared_norm).sum()), len(merged.values))


def _inside(basis: Tensor, deltas: Iterable[Tensor]) -> Tensor:
    """‖Π τ_t‖² for each task, [T]."""
    squares = [(basis.T @ d.double()).square().sum() for d in deltas]
    return torch.stack(squares) if squares else basis.new_zeros(0)


def _all_shuffled(context: MatrixContext) -> Iterator[Tensor]:
    """Every task's matrix shuffled, one at a time and always the same: keeping them would cost T copies."""
    for delta, task in zip(context.deltas, context.tasks, strict=True):
        yield _shuffled(delta, context.generator(task))


def _shuffled(delta: Tensor, generator: torch.Generator) -> Tensor:
    """The matrix with rows and columns in random order and with random signs: the same singular values, float64."""
    for axis in (0, 1):
        size = delta.shape[axis]
        order = torch.randperm(size, generator=generator)
        signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1.0
        delta = delta.index_select(axis, order.to(delta.device))
        delta = delta * signs.to(delta)[:, None] if axis == 0 else delta * signs.to(delta)
    return delta.double()


def _root_share(part: float, whole: float) -> float:
    """√(part / whole), at most 1: rounding may leave the interval by the last digits; NaN passes through."""
    share = ratio(part, whole)
    return sqrt(share) if share < 1 else min(1.0, share) if share == share else share
