"""Task arithmetic in the trust region: leave out the weights where tasks hurt one another most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._derived import values_at
from explorer.merging._statistics import Statistics
from explorer.params import PerBlock, PerTask, Range


@method(
    title="Trust-region task arithmetic (TATR)",
    paper="Task Arithmetic in Trust Region: A Training-Free Model Merging Approach to Navigate Knowledge Conflicts",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + m ⊙ Σₜ λₜ τₜ,  m = Ω below its quantile,  Ω = Σ over pairs s ≠ t of |τₛ| ⊙ |τₜ|",
    when="Task arithmetic nearly works and a few weights that several tasks change strongly spoil it.",
    when_not="The tasks share their important weights on purpose: those are exactly the ones left out.",
)
def tatr(
    deltas: Tensor,
    *,
    scale: Annotated[
        float, Range(-1, 2, step=0.01), PerTask(), PerBlock(), "λ: how much of this task's vector is added"
    ] = 0.3,
    trusted: Annotated[
        float, Range(0, 1, step=0.01), "fraction of the model's weights that are merged, those with the least conflict"
    ] = 0.99,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """The sum of the task vectors, except on the weights with the largest conflict.

    Shapes: deltas [T, n], scale [T]; returns [n]. Without data |τₛ| stands in for the gradient of task s, as in the
    published zero-shot variant. Weights that at most one task changed have no conflict and are always merged; the
    published code drops them when the quantile itself is 0, and with one task everything. Fraction 1 merges all but
    the weight of largest conflict and its ties.
    """
    conflict = _conflict(deltas)
    trusted_here = (conflict < stats["border"].to(conflict.dtype)) | (conflict == 0)
    return torch.where(trusted_here, parts.weighted_sum(deltas, per_task(scale, deltas)), 0)


@tatr.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    trusted = parameters["trusted"]
    border = values_at(
        statistics,
        f"tatr {trusted}",
        lambda deltas, given, row: _conflict(deltas),
        lambda name, row, n: [n - min(int(n * trusted), n - 1)],
        rows=1,
    )
    assert isinstance(border, Tensor)
    return {"border": border.view(())}


def _conflict(deltas: Tensor) -> Tensor:
    """Ω of each weight, [n]: the sum of |τₛ| |τₜ| over ordered pairs of different tasks."""
    limit = torch.finfo(deltas.dtype).max
    seen = deltas[0].double().abs()
    total = torch.zeros_like(seen)
    for row in deltas[1:]:
        size = row.double().abs()
        total.addcmul_(seen, size, value=2)
        seen.add_(size)
    return total.clamp_(max=limit).to(deltas.dtype)
