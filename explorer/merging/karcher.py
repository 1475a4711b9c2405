"""The Karcher mean: the point on the sphere whose squared angles to all models are least."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from explorer.merging._api import method, per_task
from explorer.merging._matrices import gram
from explorer.merging.slerp import ANY_TENSOR, On, Weight, combined
from explorer.params import Advanced, Range


@method(
    title="Karcher mean",
    paper="Riemannian center of mass and mollifier smoothing",
    granularity="tensor",
    formula="θ = Σₜ wₜ ‖θₜ‖ · argmin_u Σₜ wₜ angle(u, θₜ)²,  ‖u‖ = 1",
    when="Several models far apart whose average would be too short.",
    when_not="Fine-tunes of one base: on whole weights the result is hardly more than their average.",
    other_tensors=ANY_TENSOR,
)
def karcher(
    deltas: Tensor,
    *,
    weight: Weight = 1.0,
    on: On = "weights",
    max_steps: Annotated[int, Range(1, 100, step=1), Advanced(), "at most so many steps towards the mean"] = 10,
    tolerance: Annotated[
        float, Range(0, 0.01, step=0.00001), Advanced(), "stop when a step turns the mean by less than this angle"
    ] = 1e-5,
    base: Tensor,
) -> Tensor:
    """The mean direction on the sphere, at the weighted mean length, tensor by tensor.

    Shapes: deltas [T, *shape], weight [T], base [*shape]; returns [*shape]. Starts at the normalised mean of the unit
    vectors and works on their inner products alone. A zero tensor has no direction; it counts in the mean length.
    Where directions cancel exactly no mean direction exists and the weighted mean is taken (the published code takes
    the first model). Weights that are all 0 count as equal.
    """
    weights = per_task(weight, deltas).double()
    weights = weights / weights.sum() if float(weights.sum()) > 0 else torch.full_like(weights, 1 / len(weights))
    products = gram(deltas if on == "task_vectors" else base + deltas)
    lengths = products.diagonal().sqrt()
    inverse = torch.where(lengths > 0, 1 / torch.where(lengths > 0, lengths, 1), 0)
    mean = _mean_direction(products * inverse * inverse[:, None], weights * (lengths > 0), max_steps, tolerance)
    shares = weights if mean is None else mean * inverse * (weights @ lengths)
    return combined(deltas, shares, None if on == "task_vectors" else base)


def _mean_direction(cosines: Tensor, weights: Tensor, max_steps: int, tolerance: float) -> Tensor | None:
    """Coefficients [T] over the unit vectors of the Karcher mean; None where they cancel or there are none."""
    total = weights.sum()
    if total == 0:
        return None
    weights = weights / total
    size = _norm(weights, cosines)
    if size < 1e-7:
        return None
    mean = weights / size
    for _ in range(max_steps):
        cosine = (cosines @ mean).clamp(-1, 1)
        angle = cosine.acos()
        pull = weights * torch.where(angle > 1e-7, angle / angle.sin().clamp(min=1e-12), 1)
        step = pull - (pull @ cosine) * mean
        length = _norm(step, cosines)
        if length < max(tolerance, 1e-15):
            break
        mean = length.cos() * mean + length.sin() * step / length
        mean = mean / _norm(mean, cosines)
    return mean


def _norm(coefficients: Tensor, cosines: Tensor) -> Tensor:
    return (coefficients @ cosines @ coefficients).clamp(min=0).sqrt()
