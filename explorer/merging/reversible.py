"""Reversible merging: one mean update and a few directions from which every task's own update can be had back."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._api import Shapes, Stat, method, per_task
from explorer.merging._parts import column, weighted_sum
from explorer.merging._statistics import Statistics
from explorer.params import Choice, PerTask, Range


@method(
    title="Reversible model merging",
    paper="Towards Reversible Model Merging For Low-rank Weights",
    granularity="elementwise",
    output="per_task",
    formula="θ̂ₜ = θ₀ + λₜ · (μ + W Wᵀ (τₜ − μ)),  μ = Σₜ τₜ / T,  W = top p principal directions of the τₜ",
    when="You want all tasks back from fewer stored vectors than there are tasks, and can say which task is asked for.",
    when_not="You need a single model for all tasks; p = 0 is the plain average.",
    other_tensors="Every tensor takes part, whatever its shape.",
)
def reversible(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "factor of this task's rebuilt update"] = 1.0,
    components: Annotated[
        int, Range(0, 30, step=1), "p: principal directions kept beside the mean; T − 1 rebuild every task exactly"
    ] = 1,
    scope: Annotated[
        str,
        Choice("model", "tensor", labels=("whole model", "each tensor")),
        "what a task is one vector of: the whole model, or each tensor by itself",
    ] = "model",
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Each task vector projected onto the mean and the main directions in which the tasks differ.

    Shapes: deltas [T, n], scale [T]; returns [T, n]. Of all sets of p directions these leave the least squared error
    over all tasks. p ≥ T − 1 gives every task back exactly. Stored are p + 1 vectors and T·p numbers instead of T
    vectors. The paper keeps a basis per row and column of LoRA factors; for dense updates a principal component
    analysis over tasks is its counterpart, found here from the T × T inner products alone. Where principal values are
    equal any of their directions may be kept.
    """
    rows = [weighted_sum(deltas, row) for row in stats["projection"].to(deltas.dtype)]
    return torch.stack(rows).mul_(column(per_task(scale, deltas), deltas))


@reversible.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    scope, components = parameters["scope"], parameters["components"]
    count = len(statistics.source.tasks)
    if components >= count - 1:
        return {"projection": torch.eye(count, dtype=torch.float64, device=statistics.source.device)}
    found = statistics.sum("gram", lambda d, _: d.double() @ d.double().T, scope=scope)
    if isinstance(found, Tensor):
        return {"projection": projection(found, components)}
    return {"projection": {name: projection(gram, components) for name, gram in found.items()}}


@reversible.stored
def _(shapes: Shapes, tasks: int, parameters: Mapping[str, Any]) -> float:
    vectors = min(tasks, parameters["components"] + 1)
    sizes = [prod(s) for s in shapes.values()]
    groups = 1 if parameters["scope"] == "model" else len(sizes)
    return vectors / tasks + groups * (vectors - 1) / max(1, sum(sizes))


def projection(gram: Tensor, components: int) -> Tensor:
    """P [T, T] with x̂_t = Σ_s P[t, s] x_s, from the inner products [T, T] of the x_t; each row sums to 1."""
    if not bool(torch.isfinite(gram).all()) or gram.dim() == 0:
        return gram  # no number, or no tensor at all: the merge itself names what is not finite
    count = len(gram)
    mean = torch.full_like(gram, 1 / count)
    centre = torch.eye(count, dtype=gram.dtype, device=gram.device) - mean
    _, vectors = torch.linalg.eigh(centre @ gram @ centre)
    kept = vectors[:, count - components :]
    return mean + kept @ (kept.T @ centre)
