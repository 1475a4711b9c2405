"""RegMean: linear layers whose outputs stay near those of every task on that task's own inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._api import Stat, method, per_task
from explorer.merging._inputs import require_some_weight
from explorer.merging._parts import weighted_sum
from explorer.merging._statistics import Statistics
from explorer.params import PerTask, Range


@method(
    title="RegMean",
    paper="Dataless Knowledge Fusion by Merging Weights of Language Models",
    granularity="data",
    formula="W = (Σₜ wₜ Wₜ G̃ₜ)(Σₜ wₜ G̃ₜ)⁻¹,  Gₜ = XₜᵀXₜ with off-diagonal entries times a",
    when="Linear layers hold most of the weights, and some unlabelled inputs of every task are at hand.",
    when_not="There are no inputs to measure, or most weights lie in embeddings or convolutions: these are averaged.",
    other_tensors="weighted average of tensors without Gram matrices: embeddings, norms, biases, convolutions",
    needs_data=("gram",),
)
def regmean(
    deltas: Tensor,
    *,
    weight: Annotated[
        float, Range(0, 10, step=0.05), PerTask(), "share of this task in the regression; only ratios count"
    ] = 1.0,
    off_diagonal_factor: Annotated[
        float, Range(0, 1, step=0.05), "what is kept of the correlations between inputs; 0 looks at each input alone"
    ] = 0.9,
    given: Mapping[str, Tensor | None],
) -> Tensor:
    """Each linear layer by least squares: the weights that best repeat every task's layer on its own inputs.

    Shapes: deltas [T, m, n] as stored, out × in, weight [T], given["gram"] [T, n, n]; returns [m, n]. Solved in float64
    around the weighted average M of the updates: M + Σₜ wₜ (τₜ − M) G̃ₜ (Σₜ wₜ G̃ₜ)⁺, so equal Gram matrices give the
    average itself, also singular ones, and in directions that no task's inputs take the average stays (a plain
    inverse fails there). Off-diagonal entries are multiplied by `off_diagonal_factor`: 1 trusts the sample, 0 gives a
    weighted average for every input; published configurations use 0.9 or 0.1, depending on the model. One task gives
    that task's model. Weights that do not sum to 1 are divided by their sum everywhere; the published code does so
    for linear layers only.
    """
    weights = per_task(weight, deltas)
    mean = weighted_sum(deltas, weights / weights.sum())
    grams = given["gram"]
    if grams is None:
        return mean
    precision = torch.finfo(grams.dtype).eps * grams.shape[-1]
    inputs = torch.zeros(grams.shape[1:], dtype=torch.float64, device=grams.device)
    disturbance = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
    for delta, gram, factor in zip(deltas, grams, weights.tolist(), strict=True):
        kept = _shrunk(gram, off_diagonal_factor).mul_(factor)
        inputs += kept
        disturbance += (delta - mean).double() @ kept
    return (mean + _solved(disturbance, inputs, precision)).to(deltas.dtype)


def _shrunk(gram: Tensor, factor: float) -> Tensor:
    """The symmetric part of a Gram matrix, float64, with its off-diagonal entries multiplied."""
    wide = gram.double()
    diagonal = wide.diagonal().clone()
    shrunk = (wide + wide.T).mul_(factor / 2)
    shrunk.diagonal().copy_(diagonal)
    return shrunk


def _solved(right: Tensor, inputs: Tensor, precision: float) -> Tensor:
    """right · inputs⁺ [m, n]; eigenvalues below `precision` of the largest count as zero."""
    if not bool(inputs.any()):
        return torch.zeros_like(right)
    factor, failed = torch.linalg.cholesky_ex(inputs)
    steps = factor.diagonal().square()
    if not bool(failed) and bool(steps.min() > 1e3 * precision * steps.max()):
        return torch.cholesky_solve(right.T, factor).T
    values, vectors = torch.linalg.eigh(inputs)
    spanned = values > precision * values[-1]
    inverse = torch.where(spanned, 1 / torch.where(spanned, values, 1), 0)
    return (right @ vectors) * inverse @ vectors.T


@regmean.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    require_some_weight("regmean", parameters["weight"])
    return {}
