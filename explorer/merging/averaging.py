"""Averages of the fine-tuned models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._api import Stat, method, per_task
from explorer.merging._fused import Steps
from explorer.merging._inputs import require_some_weight
from explorer.merging._parts import task_sum, weighted_sum
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, PerTask, Range


@method(
    title="Weight average",
    paper="Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing "
    "inference time",
    granularity="elementwise",
    formula="θ = θ₀ + Σₜ wₜ τₜ / Σₜ wₜ",
    when="The fine-tunes share a base and solve the same or closely related tasks.",
    when_not="The tasks differ much: every task then keeps only its share wₜ / Σ w of its update.",
)
def weight_average(
    deltas: Tensor,
    *,
    weight: Annotated[
        float, Range(0, 10, step=0.05), PerTask(), "share of this task in the average; only ratios count"
    ] = 1.0,
    normalize: Annotated[
        bool, Advanced(), "divide by the sum of the weights; without it the result is Σ w θ, base included"
    ] = True,
    base: Tensor,
) -> Tensor:
    """The weighted average of the fine-tuned models.

    Shapes: deltas [T, n], weight [T], base [n]; returns [n]. With one task the result is that task's model, to one
    float rounding. Without `normalize` the result is Σₜ wₜ θₜ, whose distance from the base is
    Σₜ wₜ τₜ + (Σₜ wₜ − 1) θ₀. Raises ParameterError when the weights sum to 0 and are to be normalised.
    """
    weights = per_task(weight, deltas)
    if normalize:
        return weighted_sum(deltas, weights / weights.sum())
    return weighted_sum(torch.cat([deltas, base[None]]), torch.cat([weights, weights.sum().view(1) - 1]))


@weight_average.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    if parameters["normalize"]:
        require_some_weight("weight_average", parameters["weight"])
    return {}


@weight_average.fused
def _(*, weight: Tensor, normalize: bool) -> Steps | None:
    return Steps("sum", weight / weight.sum()) if normalize else None


@method(
    title="Run average",
    paper="Free Lunch: Robust Cross-Lingual Transfer via Model Checkpoint Averaging",
    granularity="elementwise",
    formula="θ = θ₀ + mean over runs r of (mean over the checkpoints t of run r of τₜ)",
    when="Several checkpoints of several training runs of one task: every run counts the same.",
    when_not="Different tasks: averaging their updates leaves each only its share.",
)
def run_average(
    deltas: Tensor,
    *,
    run: Annotated[
        int, Range(1, 99, step=1), PerTask(), "number of the training run that this checkpoint comes from"
    ] = 1,
) -> Tensor:
    """The average over training runs of the average over each run's checkpoints.

    Shapes: deltas [T, n], run [T]; returns [n]. Checkpoint t of a run with K checkpoints, among R runs, has the share
    1 / (R·K); the shares sum to 1, so equal models give that model. Runs with equally many checkpoints (one each, or
    all of one run) give the plain average. A number that no checkpoint has is no run. The paper keeps the head the
    same across runs; heads are not part of a merge here.
    """
    runs = per_task(run, deltas).tolist()
    shares = [1 / (len(set(runs)) * runs.count(r)) for r in runs]
    return weighted_sum(deltas, torch.tensor(shares, dtype=deltas.dtype, device=deltas.device))


@method(
    title="Linear interpolation (LERP)",
    paper="SPHINX: The Joint Mixing of Weights, Tasks, and Visual Embeddings for Multi-modal Large Language Models",
    granularity="elementwise",
    formula="θ = (1 − t) θ₁ + t θ₂",
    when="Two fine-tunes of one base, with one slider from the first to the second.",
    when_not="More than two models, or updates that should both be kept in full: use task arithmetic.",
    order_sensitive=True,
    min_tasks=2,
    max_tasks=2,
)
def lerp(
    deltas: Tensor,
    *,
    t: Annotated[float, Range(0, 1, step=0.01), "position on the line: 0 is the first task's model, 1 the second's"] = (
        0.5
    ),
) -> Tensor:
    """The point at t on the straight line from the first task's model to the second's.

    Shapes: deltas [2, n]; returns [n]. The base cancels, as the shares sum to 1. t = 0 and t = 1 give the models
    themselves, to one float rounding; t = 0.5 is the plain average, for which the order does not matter.
    """
    return task_sum(torch.stack([deltas[0] * (1 - t), deltas[1] * t]))
