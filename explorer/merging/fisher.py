"""Fisher merging: every weight is averaged with how much each task's predictions depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._api import Stat, method, per_task
from explorer.merging._inputs import require_some_weight
from explorer.merging._parts import weighted_sum
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, Choice, PerTask, Range


@method(
    title="Fisher merging",
    paper="Merging Models with Fisher-Weighted Averaging",
    granularity="data",
    formula="θ = θ₀ + Σₜ wₜ Fₜ τₜ / Σₜ wₜ Fₜ",
    when="Few models, and some examples of every task: weights that a task relies on keep its values.",
    when_not="There is no data, or the tasks rely on the same weights: then it is an average.",
    needs_data=("fisher",),
)
def fisher(
    deltas: Tensor,
    *,
    weight: Annotated[
        float, Range(0, 10, step=0.05), PerTask(), "share of this task beside its Fisher values; only ratios count"
    ] = 1.0,
    normalize: Annotated[
        str,
        Choice("model", "tensor", "none"),
        "divide each task's Fisher values by their norm over the model or the tensor, so that none drowns the others",
    ] = "model",
    floor: Annotated[
        float,
        Range(0, 1, step=0.000001),
        PerTask(),
        Advanced(),
        "smallest Fisher value of this task; above 0 for one task only, it decides where no task has any",
    ] = 1e-6,
    add: Annotated[
        float, Range(0, 1, step=0.000001), Advanced(), "added to every Fisher value, and to the norms"
    ] = 0.0,
    given: Mapping[str, Tensor | None],
    stats: Mapping[str, Tensor],
) -> Tensor:
    """The average of the fine-tuned models, each weight weighted by the tasks' diagonal Fisher values.

    Shapes: deltas [T, ...], weight and floor [T], given["fisher"] like deltas; returns [...]. F of the formula is
    (max(F, floor) + add) / (norm of F + add), in float64. Where it is 0 for all tasks, and for tensors without
    Fisher values, the weighted average, which is where a vanishing floor leads. A task without any Fisher value above
    0 is not normalised. One task gives that task's model.

    Published settings: the authors' code puts a floor of 1e-6 under one favoured task and 0 under the others, and adds
    nothing; the RegMean repository (normalize "none", "tensor", "model") and FusionBench ("none", "model") have no
    floor and add 1e-6. Their normalisation fails on scalars, the former's also on convolutions; this one does not.
    """
    weights = per_task(weight, deltas)
    mean = weighted_sum(deltas, weights / weights.sum())
    values = given["fisher"]
    if values is None:
        return mean
    factors = weights.double() / _norms(values, normalize, add, stats.get("norm"))
    return _weighted(deltas, values, mean, factors, per_task(floor, deltas), add)


def _weighted(deltas: Tensor, values: Tensor, mean: Tensor, factors: Tensor, floor: Tensor, add: float) -> Tensor:
    """Σ f_t F_t δ_t / Σ f_t F_t [...], F raised to its floor; the mean where the divisor is 0. In float64."""
    total = torch.zeros(values.shape[1:], dtype=torch.float64, device=values.device)
    update = torch.zeros_like(total)
    for own, delta, least, factor in zip(values, deltas, floor.tolist(), factors.tolist(), strict=True):
        share = own.double().clamp_(min=least).add_(add).mul_(factor)
        total += share
        update += share.mul_(delta)
    known = total > 0
    return torch.where(known, update / torch.where(known, total, 1), mean.double()).to(deltas.dtype)


def _norms(values: Tensor, normalize: str, add: float, model: Tensor | None) -> Tensor:
    """What each task's Fisher values are divided by, [T] float64."""
    if normalize == "none":
        return torch.ones(len(values), dtype=torch.float64, device=values.device)
    norms = _squares(values).sqrt() if model is None else model.to(values.device)
    return torch.where(norms > 0, norms + add, 1)


def _squares(values: Tensor) -> Tensor:
    """Sum of squares of each task's values, [T] float64, without widening all tasks at once."""
    return torch.stack([own.double().square_().sum() for own in values])


@fisher.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    require_some_weight("fisher", parameters["weight"])
    if parameters["normalize"] != "model":
        return {}
    return {"norm": statistics.given_squares("fisher").sqrt()}
