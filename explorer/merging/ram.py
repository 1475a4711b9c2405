"""RAM and RAM+: what one task alone changed is added whole, what several changed is averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._statistics import Statistics
from explorer.params import PerTask, Range

PAPER = "Reinforced Agent Merging"

Scale = Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of this task's values"]
Changed = Annotated[
    float, Range(0, 0.1, step=1e-5), "ε: a weight counts as changed by a task when it moved further than this"
]


@method(
    title="RAM",
    paper=PAPER,
    granularity="elementwise",
    formula="θ = θ₀ + Σₜ λₜ cₜ ⊙ τₜ / Σₜ cₜ,  cₜ = |τₜ| > ε",
    when="Fine-tunes that each changed few weights, such as after reinforcement learning.",
    when_not="Dense fine-tunes: every weight is then shared and the result is the plain average.",
)
def ram(deltas: Tensor, *, scale: Scale = 1.0, change_threshold: Changed = 1e-5) -> Tensor:
    """The mean over the tasks that changed a weight, weight by weight.

    Shapes: deltas [T, n], scale [T]; returns [n]. Changes of at most ε are dropped. A weight nobody changed keeps the
    base's value. A task of scale 0 still counts among those that changed a weight.
    """
    changed = deltas.abs() > change_threshold
    return _averaged(torch.where(changed, deltas, 0), changed.sum(0), per_task(scale, deltas))


@method(
    title="RAM+",
    paper=PAPER,
    granularity="elementwise+threshold",
    formula="θ = RAM, with unique changes of task t times 1 + r · min(sharedₜ / uniqueₜ, α), counted in each tensor",
    when="As RAM, when averaging the shared weights visibly weakens the tasks.",
    when_not="Tasks that share almost nothing, or almost everything: the factor is then 1 or at its limit everywhere.",
)
def ram_plus(
    deltas: Tensor,
    *,
    scale: Scale = 1.0,
    change_threshold: Changed = 1e-5,
    boost: Annotated[float, Range(0, 2, step=0.01), "r: how strongly unique changes grow with the shared share"] = 0.1,
    ratio_limit: Annotated[
        float, Range(0, 10, step=0.05), "α: the ratio of shared to unique changes is cut to this"
    ] = 0.2,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """RAM with the unique changes of a task enlarged to make up for its averaged ones.

    Shapes: deltas [T, n], scale [T]; returns [n]. Counted per tensor (mergekit's ramplus_tl). A tensor in which a task
    has shared but no unique changes has the ratio at its limit, which then enlarges nothing.
    """
    changed = deltas.abs() > change_threshold
    count = changed.sum(0)
    grown = deltas * parts.column((1 + boost * stats["ratio"].clamp(max=ratio_limit)).to(deltas.dtype), deltas)
    kept = torch.where(changed, torch.where(count == 1, grown, deltas), 0)
    return _averaged(kept, count, per_task(scale, deltas))


@ram_plus.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    threshold = parameters["change_threshold"]

    def counts(deltas: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        changed = deltas.abs() > threshold
        alone = changed.sum(0) == 1
        return torch.stack([(changed & ~alone).sum(1), (changed & alone).sum(1)])

    found = statistics.sum(f"ram {threshold}", counts, scope="tensor")
    assert isinstance(found, dict)
    return {"ratio": {n: c[0].double() / c[1].double().clamp(min=1e-5) for n, c in found.items()}}


def _averaged(values: Tensor, count: Tensor, scale: Tensor) -> Tensor:
    return parts.weighted_sum(values, scale) / count.clamp(min=1)
