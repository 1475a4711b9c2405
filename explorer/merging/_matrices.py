"""Linear algebra for methods that see whole tensors: Gram matrices, singular vectors, nearest orthogonal factors.

All of it in float64: singular vectors of float32 matrices are only good to a few digits. None changes its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from explorer.checkpoints.groups import group_of
from explorer.merging._parts import column, task_sum

BLOCK = 1 << 18
STEEP = 1e-4
"""Below this share of the largest singular value, values squared in a Gram matrix have lost half their digits."""


def is_matrix(name: str, tensor: Tensor, excluded: str = "none") -> bool:
    """Whether a matrix method treats this tensor [rows, columns] as a matrix.

    `excluded`: "none" takes every 2-D tensor, "embeddings" leaves out what looks like a lookup table by its name,
    "embeddings_and_projections" also what is called text_projection, as the published code does.
    """
    if tensor.dim() != 2:
        return False
    if excluded == "none":
        return True
    table = group_of(name).kind == "embedding"
    return not table and (excluded == "embeddings" or "text_projection" not in name)


def mean_of(deltas: Tensor, scale: Tensor) -> Tensor:
    """Σ λ_t δ_t / T, in the shape of one task's tensor: what matrix methods do with all other tensors."""
    return task_sum(deltas * column(scale / deltas.shape[0], deltas))


def gram(vectors: Tensor) -> Tensor:
    """Inner products of T vectors [T, ...], float64 [T, T]; summed in blocks, so no second copy is widened at once."""
    flat = vectors.reshape(vectors.shape[0], -1)
    total = torch.zeros((flat.shape[0],) * 2, dtype=torch.float64, device=flat.device)
    for start in range(0, flat.shape[1], BLOCK):
        block = flat[:, start : start + BLOCK].double()
        total += block @ block.T
    return total


def singular(matrix: Tensor, rank: int | None = None, cutoff: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values with their vectors: U [m, k], s [k] descending, Vᵀ [k, n], float64.

    k is at most `rank` (None: min(m, n)); values at or below `cutoff` times the largest, and in any case those that
    are zero to float64 rounding, are left out, because their directions are arbitrary. A zero matrix gives k = 0.
    Uses the smaller Gram matrix where the wanted part of the spectrum is flat enough, a full decomposition otherwise.
    """
    wide = matrix.double()
    if wide.shape[0] > wide.shape[1]:
        right, values, left = singular(wide.T, rank, cutoff)
        return left.T, values, right.T
    if not bool(wide.any()):
        return wide[:, :0], wide[0, :0], wide[:0]
    most = wide.shape[0] if rank is None else min(rank, wide.shape[0])
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    values = squares.flip(0).clamp(min=0).sqrt()
    floor = max(cutoff, torch.finfo(torch.float64).eps * max(wide.shape)) * values[0]
    if values[most - 1] >= STEEP * values[0]:
        kept = int((values[:most] > floor).sum())
        left = vectors.flip(1)[:, :kept]
        return left, values[:kept], left.T @ wide / values[:kept, None]
    left, values, right = torch.linalg.svd(wide, full_matrices=False)
    kept = min(most, int((values > floor).sum()))
    return left[:, :kept], values[:kept], right[:kept]


def nearest_orthogonal(columns: Tensor) -> Tensor:
    """The polar factor of a matrix [m, k]: P Qᵀ of its decomposition P S Qᵀ, the nearest with orthonormal columns.

    Directions that the columns do not span stay out (the published codes fill them with arbitrary ones): dependent
    columns share what they have in common, so two equal unit columns become 1/√2 of it each.
    """
    if columns.shape[1] > columns.shape[0]:
        return nearest_orthogonal(columns.T).T
    squares, vectors = torch.linalg.eigh(columns.T @ columns)
    if squares.numel() == 0 or squares[-1] <= 0:
        return torch.zeros_like(columns)
    spanned = squares > 1e-10 * squares[-1]
    roots = torch.where(spanned, squares.clamp(min=1e-300).rsqrt(), 0)
    return columns @ ((vectors * roots) @ vectors.T)
