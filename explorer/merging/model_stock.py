"""Model Stock: how far to trust the average of some fine-tunes, from the angle between them."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from explorer.merging._api import method
from explorer.merging._matrices import gram
from explorer.merging._parts import task_sum
from explorer.params import Advanced, Choice


@method(
    title="Model Stock",
    paper="Model Stock: All we need is just a few fine-tuned models",
    granularity="tensor",
    formula="θ = θ₀ + t · Σₜ τₜ / T,  t = T cos φ / (1 + (T−1) cos φ)",
    when="Two or more runs of the same task: their average is drawn towards the base as far as the runs disagree.",
    when_not="Different tasks: their updates are nearly at right angles, so hardly anything but the base is left.",
    other_tensors="Every tensor is one vector, whatever its shape; by rows, scalars and 1-D tensors are one vector.",
)
def model_stock(
    deltas: Tensor,
    *,
    ratio: Annotated[
        str,
        Choice("clamped", "published", labels=("kept in 0 … 1", "as published, unlimited")),
        "the interpolation ratio t: kept between base and average, or as the published formula gives it",
    ] = "clamped",
    group: Annotated[
        str,
        Choice("tensor", "row", labels=("whole tensor", "each row")),
        Advanced(),
        "what has an angle of its own: the tensor (paper: the layer), or each row along its last axis",
    ] = "tensor",
) -> Tensor:
    """The average of the task vectors, shortened by how much they agree; φ is their mean angle.

    Shapes: deltas [T, *shape]; returns [*shape]. cos φ is the mean of the cosines of all pairs; the paper leaves open
    how to take it for more than two. cos φ = 1 gives the average, 0 the base. Tasks that point against each other
    make t negative: `published` then extrapolates beyond the base, `clamped` stays at it. Where the tasks cancel,
    1 + (T−1) cos φ = 0, both give the base. A pair with an unchanged member counts as
    cosine 0. One task has no angle: the result is that task's model.
    """
    count = deltas.shape[0]
    mean = task_sum(deltas) / count
    if count == 1:
        return mean
    by_row = group == "row" and deltas.dim() > 2
    cosine = _row_cosine(deltas) if by_row else _cosine(gram(deltas))
    below = 1 + (count - 1) * cosine
    singular = below.abs() < 1e-6
    t = torch.where(singular, 0, count * cosine / torch.where(singular, 1, below))
    if ratio == "clamped":
        t = t.clamp(0, 1)
    return mean * t.to(deltas.dtype)


def _cosine(products: Tensor) -> Tensor:
    """Mean cosine of all pairs from inner products [..., T, T]; a zero vector has cosine 0 with any other."""
    count = products.shape[-1]
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = lengths[..., None] * lengths[..., None, :]
    cosines = (products / torch.where(scale > 0, scale, 1)).clamp(-1, 1)
    pairs = torch.ones(count, count, device=products.device).triu(1).bool()
    return cosines[..., pairs].mean(-1)


def _row_cosine(deltas: Tensor) -> Tensor:
    rows = deltas.double().movedim(0, -2)
    return _cosine(rows @ rows.transpose(-1, -2)).unsqueeze(-1)
