"""Pure pieces that merge methods are made of. All take and give tensors over [T, n]; none changes its inputs.

Sums over tasks run from the first task to the last, element by element, so a chunk's bits do not depend on where
the tensor was cut (library reductions order their additions by vector width).
"""

from __future__ import annotations

import torch
from torch import Tensor


def task_sum(values: Tensor) -> Tensor:
    """Σ_t values[t], [n], in task order."""
    total = values[0].clone()
    for row in values[1:]:
        total.add_(row)
    return total


def weighted_sum(deltas: Tensor, weights: Tensor) -> Tensor:
    """Σ_t weights[t] · deltas[t], [n], in task order; each product is rounded before it is added."""
    factors = weights.tolist()
    total = deltas[0] * factors[0]
    product = torch.empty_like(total)
    for row, factor in zip(deltas[1:], factors[1:], strict=True):
        total.add_(torch.mul(row, factor, out=product))
    return total


def column(per_task: Tensor, like: Tensor) -> Tensor:
    """Per-task values [T] shaped to multiply `like` [T, ...]."""
    return per_task.view(-1, *[1] * (like.dim() - 1))


def trim(deltas: Tensor, threshold: Tensor) -> Tensor:
    """Entries with |δ| ≥ threshold[t], zero elsewhere; ties with the threshold stay, threshold 0 keeps all."""
    return torch.where(deltas.abs() >= column(threshold, deltas), deltas, 0)


def trim_outliers(deltas: Tensor, mean: Tensor, std: Tensor, factor: Tensor) -> Tensor:
    """Entries with |δ − mean[t]| > factor[t] · std[t], zero elsewhere."""
    far = (deltas - column(mean, deltas).to(deltas.dtype)).abs() > column(factor * std, deltas).to(deltas.dtype)
    return torch.where(far, deltas, 0)


def elected_positive(election: Tensor, zero_is_positive: Tensor | bool) -> Tensor:
    """True where the elected sign is +, [n]; where the election is exactly 0, the sign given for ties."""
    return (election > 0) | ((election == 0) & zero_is_positive)


def agreeing(votes: Tensor, positive: Tensor) -> Tensor:
    """Magnitudes of the votes whose sign is the elected one, 0 for all others, [T, n]."""
    sign = positive.to(votes.dtype).mul_(2).sub_(1)
    return (votes * sign).clamp_(min=0)


def with_sign(magnitude: Tensor, positive: Tensor) -> Tensor:
    """Magnitudes [n] with the elected sign."""
    return torch.where(positive, magnitude, -magnitude)


def disjoint_sum(magnitudes: Tensor) -> Tensor:
    """Sum over the agreeing tasks, [n]."""
    return task_sum(magnitudes)


def disjoint_mean(magnitudes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over the agreeing tasks divided by their number, or by the sum of their `weights` [T]; 0 if none."""
    agree = magnitudes != 0
    if weights is None:
        return task_sum(magnitudes) / agree.sum(0).clamp_(min=1)
    total = task_sum(agree * column(weights, magnitudes))
    return task_sum(magnitudes) / torch.where(total > 0, total, 1)


def disjoint_max(magnitudes: Tensor) -> Tensor:
    """The largest magnitude among the agreeing tasks, [n]; 0 where none agrees."""
    return magnitudes.amax(0)


def tall_masks(deltas: Tensor, multi_task_vector: Tensor, mask_threshold: Tensor) -> Tensor:
    """Which entries of the multi-task vector matter to each task: |τ_t| > λ_t · |τ_MTL − τ_t|, strict; bool [T, n].

    With λ = 0 the mask is where τ_t is not zero. Localizing Task Information for Improved Model Merging and
    Compression, equation 4; the paper writes ≥, its published code uses >, and so do we.
    """
    rest = (multi_task_vector - deltas).abs_()
    return deltas.abs() > rest.mul_(column(mask_threshold, deltas))


def consensus_mask(masks: Tensor, min_tasks: int) -> Tensor:
    """Positions that at least `min_tasks` tasks claim; bool [n]. 0 gives all, more than T gives none."""
    return masks.sum(0) >= min_tasks
