"""AdaMerging++: TIES decides which values of each task survive; every task then has a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging import _ties
from explorer.merging._api import Stat, method, per_task
from explorer.merging._statistics import Statistics
from explorer.params import PerBlock, PerTask, Range


@method(
    title="AdaMerging++",
    paper="AdaMerging: Adaptive Model Merging for Multi-Task Learning",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + Σₜ λₜ τ̂ₜ,  τ̂ₜ = trimmed τₜ where its sign is that of Σₛ trimmed τₛ",
    when="You have, or want to set by hand, one coefficient per task after TIES has removed conflicts.",
    when_not="All coefficients are equal: that is TIES with a sum.",
)
def adamerging_pp(
    deltas: Tensor,
    *,
    scale: Annotated[
        float,
        Range(-1, 2, step=0.01),
        PerTask(),
        PerBlock(),
        "λ: coefficient of this task's surviving values; never a vote",
    ] = 0.3,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), PerTask(), "fraction of the task vector kept, largest first"
    ] = 0.2,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Sums the values that survive TIES, each task with its own coefficient.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. Trimming and election are the paper's TIES and do not
    depend on the coefficients, unlike in `ties`, where a scale weighs the vote. The paper learns the coefficients on
    unlabelled data and starts them at 0.3; its variant without trimming is task arithmetic.
    """
    trimmed = parts.trim(deltas, stats["threshold"])
    positive = parts.elected_positive(parts.task_sum(trimmed), stats["elected"] > 0)
    survives = torch.where(positive, trimmed > 0, trimmed < 0)
    return parts.weighted_sum(torch.where(survives, trimmed, 0), per_task(scale, deltas))


@adamerging_pp.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    return _ties.prepare(statistics, _ties.Rule(reduce="sum"), density=parameters["density"])
