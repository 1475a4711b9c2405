"""Spherical interpolation: along the arc between models, or between their task vectors, instead of the chord."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from explorer.merging._api import method, per_task
from explorer.merging._matrices import gram
from explorer.merging._parts import column, task_sum
from explorer.params import Advanced, Choice, PerTask, Range

On = Annotated[
    str,
    Choice("task_vectors", "weights", labels=("task vectors", "whole weights")),
    "whose directions are meant: those of the task vectors, seen from the base, or of the models' weights",
]
Weight = Annotated[float, Range(0, 10, step=0.05), PerTask(), "share of this task; only ratios count"]
EPSILON = 1e-8
ANY_TENSOR = "Every tensor is one vector, whatever its shape; a one-element tensor is a vector of length one."


@method(
    title="SLERP",
    paper="Animating rotation with quaternion curves",
    granularity="tensor",
    formula="θ = sin((1−t)Ω)/sin Ω · θ₁ + sin(tΩ)/sin Ω · θ₂,  Ω = angle(θ₁, θ₂)",
    when="Two models whose weights point in clearly different directions.",
    when_not="Two fine-tunes of one base: their weights are almost parallel and the result is the plain average.",
    order_sensitive=True,
    min_tasks=2,
    max_tasks=2,
    other_tensors=ANY_TENSOR,
)
def slerp(
    deltas: Tensor,
    *,
    t: Annotated[float, Range(0, 1, step=0.01), "position on the arc: 0 is the first task's model, 1 the second's"] = (
        0.5
    ),
    lerp_above: Annotated[
        float, Range(0.9, 1, step=0.0001), Advanced(), "interpolate in a straight line where |cos Ω| is above this"
    ] = 0.9995,
    base: Tensor,
) -> Tensor:
    """The point at t on the arc from the first task's weights to the second's, tensor by tensor.

    Shapes: deltas [2, *shape], base [*shape]; returns [*shape]. The angle is that of the whole weights, so the base
    dominates it and siblings nearly always fall into the straight line; `nuslerp` takes the angle of the task vectors.
    Where one of the two is all zeros the angle counts as 90°. t = 0 and t = 1 give the models themselves. The first
    task is the first of the recipe.
    """
    products = gram(base + deltas)
    cosine = products[0, 1] / _nonzero((products[0, 0] * products[1, 1]).sqrt())
    first, second = _arc(cosine, t, (cosine.abs() > lerp_above) | _parallel(cosine))
    return combined(deltas, torch.stack([first, second]), base)


@method(
    title="NuSLERP",
    paper="Arcee's MergeKit: A Toolkit for Merging Large Language Models",
    granularity="tensor",
    formula="θ = θ₀ + sin((1−t)Ω)/sin Ω · τ₁ + sin(tΩ)/sin Ω · τ₂,  Ω = angle(τ₁, τ₂),  t = w₂/(w₁ + w₂)",
    when="Two fine-tunes of one base whose updates should keep their length while their direction turns.",
    when_not="More than two tasks, or updates that point against each other: the arc is then arbitrary.",
    min_tasks=2,
    max_tasks=2,
    other_tensors=ANY_TENSOR + " Along an axis, scalars and vectors are one group.",
)
def nuslerp(
    deltas: Tensor,
    *,
    weight: Weight = 1.0,
    on: On = "task_vectors",
    group: Annotated[
        str,
        Choice("tensor", "last_axis", "first_axis", labels=("whole tensor", "along the last axis", "along the first")),
        "what turns together: the whole tensor, or each of its vectors along one axis",
    ] = "tensor",
    base: Tensor,
) -> Tensor:
    """The point on the arc between two task vectors (or models) that the two weights ask for.

    Shapes: deltas [2, *shape], weight [2], base [*shape]; returns [*shape]. Vectors that are parallel or exactly
    opposite are interpolated in a straight line; where one of the two is zero the angle counts as 90°. Two weights of
    0 mean equal shares. `last_axis` turns each row of a matrix by itself, `first_axis` each column.
    """
    weights = per_task(weight, deltas).double()
    share = float(weights[1] / weights.sum()) if float(weights.sum()) > 0 else 0.5
    vectors = deltas if on == "task_vectors" else base + deltas
    axes = tuple(range(vectors.dim() - 1))
    along = axes if group == "tensor" or not axes else (axes[-1] if group == "last_axis" else axes[0],)
    first, second = vectors.double()
    length = (first.square().sum(along, True) * second.square().sum(along, True)).sqrt() if along else _length(vectors)
    cosine = ((first * second).sum(along, True) if along else first * second) / _nonzero(length)
    shares = _arc(cosine, share, _parallel(cosine))
    return combined(deltas, torch.stack(shares), None if on == "task_vectors" else base)


@method(
    title="Multi-SLERP",
    paper="Arcee's MergeKit: A Toolkit for Merging Large Language Models",
    granularity="tensor",
    formula="θ = θ₀ + Σₜ wₜ ‖τₜ‖ · u/‖u‖,  u = Σₜ wₜ τₜ/‖τₜ‖",
    when="Several tasks whose updates differ in size: directions count equally and the usual length is kept.",
    when_not="Updates that point against each other: what is left of the directions is blown up to full length.",
    other_tensors=ANY_TENSOR,
)
def multislerp(
    deltas: Tensor,
    *,
    weight: Weight = 1.0,
    on: On = "task_vectors",
    normalize: Annotated[
        bool, Advanced(), "divide by the sum of the weights; without it their sum also scales the length"
    ] = True,
    base: Tensor,
) -> Tensor:
    """The mean direction of the task vectors (or models), at their mean length, tensor by tensor.

    Shapes: deltas [T, *shape], weight [T], base [*shape]; returns [*shape]. The published code maps into a tangent
    space at the mean direction and back; the tangent vectors sum to zero there, so this is what it computes. Tensors
    that no task changed stay as in the base and directions that cancel give the weighted mean; the published code
    stops with an error at both. ε = 1e-8 is added to each length, as published, so of two exactly opposite directions
    of equal weight the longer one wins. A task that leaves a tensor unchanged has no direction there but counts in
    the mean length. Weights that are all 0 give the base.
    """
    weights = per_task(weight, deltas).double()
    if normalize and float(weights.sum()) > 0:
        weights = weights / weights.sum()
    vectors = (deltas if on == "task_vectors" else base + deltas).double()
    lengths = vectors.reshape(len(weights), -1).norm(dim=1)
    direction = torch.where(lengths > 0, weights / (lengths + EPSILON), 0)
    size = task_sum(vectors * column(direction, vectors)).norm()
    cancels = size < EPSILON
    shares = torch.where(cancels, weights, direction * (weights @ lengths) / _nonzero(size))
    return combined(deltas, shares, None if on == "task_vectors" else base)


def combined(deltas: Tensor, shares: Tensor, base: Tensor | None) -> Tensor:
    """Σ c_t δ_t, or with a base the task vector of Σ c_t θ_t, which is Σ c_t δ_t + (Σ c_t − 1) θ_0.

    Shapes: deltas [T, *shape], shares [T] or broadcastable [T, …], float64; returns [*shape] in the dtype of deltas.
    """
    factors = column(shares, deltas) if shares.dim() == 1 else shares
    # Where directions nearly cancel, shares are huge and only float64 keeps what is left of their sum.
    huge = bool((factors.abs() > 16).any())
    total = task_sum(deltas * (factors if huge else factors.to(deltas.dtype))).to(deltas.dtype)
    if base is None:
        return total
    rest = task_sum(shares) - 1
    # Shares that sum to 1 but for rounding must not move a weight on which all models agree.
    return total + base * torch.where(rest.abs() < 1e-12, 0, rest).to(deltas.dtype)


def _arc(cosine: Tensor, t: float, straight: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the two ends at t on the arc; where `straight`, those of the chord."""
    angle = cosine.clamp(-1, 1).acos()
    sine = torch.where(straight, 1, angle.sin())
    first, second = ((1 - t) * angle).sin() / sine, (t * angle).sin() / sine
    return torch.where(straight, 1 - t, first), torch.where(straight, t, second)


def _parallel(cosine: Tensor) -> Tensor:
    """Where the sine of the angle is below 1e-6: parallel or opposite, so that no arc is defined."""
    return 1 - cosine.square() < 1e-12


def _length(vectors: Tensor) -> Tensor:
    """Products of the two lengths where every vector is one number."""
    return (vectors[0].double() * vectors[1].double()).abs()


def _nonzero(values: Tensor) -> Tensor:
    return torch.where(values == 0, 1, values)
