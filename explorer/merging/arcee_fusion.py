"""Arcee Fusion: copy from one donor only the weights that stand out."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from explorer.merging._api import method, per_task
from explorer.params import PerTask, Range


@method(
    title="Arcee Fusion",
    paper="none; Arcee AI, as implemented in mergekit",
    granularity="tensor",
    max_tasks=1,
    formula="θ = θ₀ + λ · τ where |τ| · KL(softmax θ₁ ‖ softmax θ₀) ≥ median + 1.5 · interquartile range, row by row",
    when="One donor model whose few outstanding changes should enter the base.",
    when_not="Siblings that differ little: the divergence is then at rounding level and the choice hardly meaningful.",
)
def arcee_fusion(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of the copied changes"] = 1.0,
    outlier_factor: Annotated[
        float, Range(0, 10, step=0.1), "how many interquartile ranges above the median a change must lie"
    ] = 1.5,
    base: Tensor,
) -> Tensor:
    """The base with those changes of one donor whose importance is an outlier in its tensor.

    Shapes: deltas [1, *shape], base [*shape]; returns [*shape]. The divergence is computed in float64 along the last
    dimension, quantiles exactly; mergekit computes in the models' precision and samples quantiles of large tensors at
    random. Scalars and rows of one entry have no divergence and are copied. Empty tensors stay empty.
    """
    delta = deltas[0]
    if delta.numel() == 0:
        return delta.clone()
    rows, change = (x.reshape(-1, x.shape[-1] if x.dim() else 1) for x in (base.double(), delta.double()))
    old, new = (torch.softmax(x, -1) + 1e-8 for x in (rows, rows + change))
    importance = (change.abs() * (new * (new / old).log()).sum(-1, keepdim=True)).view(-1)
    low, middle, high = (importance.kthvalue(int(q * (importance.numel() - 1)) + 1).values for q in (0.25, 0.5, 0.75))
    chosen = importance.view(delta.shape) >= middle + outlier_factor * (high - low)
    return torch.where(chosen, delta, 0) * per_task(scale, deltas)[0]
