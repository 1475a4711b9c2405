"""How sparse task vectors become one: a plain sum or average, or only the values that have an elected sign."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._fused import Steps
from explorer.merging._ties import vote_weights
from explorer.params import Advanced, Choice, PerTask, Range

Elect = Annotated[
    str,
    Choice("none", "mass", labels=("all values count", "only the elected sign")),
    "none adds all values; mass keeps only values whose sign is that of the weighted sum (TIES)",
]
Reduce = Annotated[
    str,
    Choice("sum", "mean", "weighted_mean", labels=("sum", "mean", "mean by weight")),
    "sum of the values that count, their mean, or their sum divided by the weights that count",
]
Weight = Annotated[
    float, Range(0, 10, step=0.05), PerTask(), Advanced(), "factor of this task's values before the election"
]


def combine(values: Tensor, scale: Tensor, weight: Tensor, *, elect: str, reduce: str) -> Tensor:
    """Merged task vector [n] of values [T, n] with λ = scale [T].

    A vote is weight · scale / λ · value, λ being the scale of largest magnitude, as in TIES. Votes that cancel exactly
    elect +. Without an election a mean divides by the number of tasks whose vote weight is not 0, with one by the
    number of agreeing values. Sum without election and with weights 1 is task arithmetic, bit for bit.
    """
    if elect == "none" and reduce == "sum":
        return parts.weighted_sum(values, weight * scale)
    factors, common = vote_weights(weight, scale)
    if elect == "none":
        total = factors.sum() if reduce == "weighted_mean" else (factors != 0).sum()
        return parts.weighted_sum(values, factors) / torch.where(total == 0, 1, total) * common
    votes = values * parts.column(factors, values)
    positive = parts.elected_positive(parts.task_sum(votes), True)
    agreeing = parts.agreeing(votes, positive)
    if reduce == "sum":
        merged = parts.disjoint_sum(agreeing)
    else:
        merged = parts.disjoint_mean(agreeing, weight if reduce == "weighted_mean" else None)
    return parts.with_sign(merged, positive) * common


def steps(scale: Tensor, weight: Tensor, *, elect: str, reduce: str, **sparsify: Any) -> Steps:
    """The same for the compiled pass, which sparsifies first as its other fields say."""
    if elect == "none" and reduce == "sum":
        return Steps("sum", weight * scale, **sparsify)
    factors, common = vote_weights(weight, scale)
    if elect == "none":
        total = factors.sum() if reduce == "weighted_mean" else (factors != 0).sum()
        return Steps("sum", factors, divisor=float(total) or 1.0, common=float(common), **sparsify)
    kind = "elect_sum" if reduce == "sum" else "elect_mean"
    weights = weight if reduce == "weighted_mean" else None
    return Steps(kind, factors, weights=weights, common=float(common), **sparsify)
