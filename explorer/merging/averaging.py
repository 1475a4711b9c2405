"""Averages of the fine-tuned models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.errors import ParameterError, sentence
from explorer.merging._api import Stat, method, per_task
from explorer.merging._fused import Steps
from explorer.merging._parts import weighted_sum
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
    if parameters["normalize"] and sum(parameters["weight"]) == 0:
        must = "weight must be above 0 for at least one task"
        raise ParameterError(sentence("weight_average", must, "0 for all", "Raise one of them."))
    return {}


@weight_average.fused
def _(*, weight: Tensor, normalize: bool) -> Steps | None:
    return Steps("sum", weight / weight.sum()) if normalize else None
