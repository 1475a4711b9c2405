"""Subspace alignment: how much of a task's update lies in the strongest directions of the merged one."""

from __future__ import annotations

import torch
from torch import Tensor


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
