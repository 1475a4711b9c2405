"""WUDI: the merged update that disturbs each task least on inputs like those its own update has learned from."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from explorer.merging._api import method, per_task
from explorer.merging._matrices import is_matrix, mean_of
from explorer.merging._parts import column, task_sum
from explorer.merging._ties import vote_weights
from explorer.merging.tsv import MEAN_OF_OTHERS, Excluded
from explorer.params import Advanced, PerTask, Range

PAPER = "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors"
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants, as in the published code."""


@method(
    title="WUDI (iterative)",
    paper=PAPER,
    granularity="matrix",
    formula="start at M = Σₜ τₜ, then Adam steps on Σₜ ‖(M − τₜ) τₜᵀ‖² / ‖τₜ‖²",
    when="Fully fine-tuned tasks and time: hundreds of steps for every matrix, best on a GPU.",
    when_not="You want to move sliders live: use wudi_closed_form or tsv_merge.",
    other_tensors=MEAN_OF_OTHERS,
)
def wudi(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of this task's part in the merge"] = 1.0,
    steps: Annotated[int, Range(0, 2000, step=10), "Adam steps; 0 gives the plain sum"] = 300,
    learning_rate: Annotated[
        float, Range(0, 0.01, open_low=True, step=0.000001), Advanced(), "how far one step moves a weight at most"
    ] = 1e-5,
    excluded: Excluded = "embeddings",
    name: str,
) -> Tensor:
    """The summed task vectors after some steps towards least disturbance, not at its minimum.

    Shapes: deltas [T, m, n] as stored, out × in, scale [T]; returns [m, n]. With λ the scale of largest magnitude the
    targets are (scaleₜ/λ)·τₜ and the result is multiplied by λ, so equal scales give λ times the paper's result. A
    weight moves by about steps · learning_rate at most. A task that leaves a matrix unchanged has no term in the loss
    there; matrices that no task changed stay as in the base (the published code gives NaN).
    """
    scales = per_task(scale, deltas)
    if not is_matrix(name, deltas[0], excluded):
        return mean_of(deltas, scales)
    if not bool(deltas.any()):
        return torch.zeros_like(deltas[0])
    factors, common = vote_weights(torch.ones_like(scales), scales)
    start, disturbance, inputs = (moment.to(deltas.dtype) for moment in _moments(deltas, factors))
    return (start + _adam(disturbance, inputs, steps, learning_rate)) * common


@method(
    title="WUDI (closed form)",
    paper=PAPER,
    granularity="matrix",
    formula="M = (Σₜ λₜ τₜ τₜᵀτₜ/‖τₜ‖²) (Σₜ τₜᵀτₜ/‖τₜ‖²)⁺",
    when="The least disturbance itself, exactly and at once; not the published result.",
    when_not="You want what the paper reports: use wudi, which stops long before the minimum.",
    other_tensors=MEAN_OF_OTHERS,
)
def wudi_closed_form(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of this task's target"] = 1.0,
    cutoff: Annotated[
        float,
        Range(0, 0.1, step=0.000001),
        Advanced(),
        "in input directions weaker than this share of the strongest the plain sum stays",
    ] = 1e-10,
    excluded: Excluded = "embeddings",
    name: str,
) -> Tensor:
    """The update of least weight disturbance: RegMean with the task vectors in place of input statistics.

    Shapes: deltas [T, m, n] as stored, out × in, scale [T]; returns [m, n]. Tasks whose rows are orthogonal to those
    of all others are added whole; one task is rebuilt. Input directions in which no task changed anything stay as in
    the base (the solution of least norm). `cutoff` compares eigenvalues, which are squares of singular values.
    Matrices that no task changed are skipped.
    """
    scales = per_task(scale, deltas)
    if not is_matrix(name, deltas[0], excluded):
        return mean_of(deltas, scales)
    start, disturbance, inputs = _moments(deltas, scales)
    squares, vectors = torch.linalg.eigh(inputs)
    spanned = squares > max(cutoff, 1e-14) * squares[-1].clamp(min=0)
    inverse = torch.where(spanned, 1 / torch.where(spanned, squares, 1), 0)
    return (start - (disturbance @ vectors) * inverse @ vectors.T).to(deltas.dtype)


def _moments(deltas: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """M₀ = Σ f_t τ_t, Σ (M₀ − f_t τ_t) τ_tᵀτ_t/‖τ_t‖² [m, n] and Σ τ_tᵀτ_t/‖τ_t‖² [n, n], float64.

    The second is half the gradient at M₀, taken term by term so that it is exactly zero where no task disturbs
    another. Unchanged tasks have no part in the sums.
    """
    wide = deltas.double()
    squares = wide.square().sum((1, 2))
    unit = wide * column(torch.where(squares > 0, squares, 1).rsqrt(), wide)
    scaled = wide * column(factors.double(), wide)
    start = task_sum(scaled)
    inputs, disturbance = torch.zeros_like(unit[0].T @ unit[0]), torch.zeros_like(start)
    for own, direction in zip(scaled, unit, strict=True):
        inputs += direction.T @ direction
        disturbance += (start - own) @ direction.T @ direction
    return start, disturbance, inputs


def _adam(disturbance: Tensor, inputs: Tensor, steps: int, learning_rate: float) -> Tensor:
    """How far Adam moves from the start along the gradient 2 (moved · inputs + disturbance)."""
    moved, first, second = (torch.zeros_like(disturbance) for _ in range(3))
    for step in range(1, steps + 1):
        gradient = torch.addmm(disturbance, moved, inputs, beta=2, alpha=2)
        first.lerp_(gradient, 1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = (second / (1 - BETA2**step)).sqrt_().add_(EPSILON)
        moved.addcdiv_(first, size, value=-learning_rate / (1 - BETA1**step))
    return moved
