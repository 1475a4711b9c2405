"""Localize-and-Stitch without data: each task brings only its largest changes; shared places are averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._statistics import Statistics
from explorer.params import PerBlock, PerTask, Range


@method(
    title="Localize-and-Stitch",
    paper="Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + Σₜ λₜ mₜ ⊙ τₜ / Σₜ mₜ,  mₜ = the largest entries of |τₜ|",
    when="A few percent of each task vector carry the task, and little should change besides them.",
    when_not="The tasks need dense updates: most of each task vector is thrown away.",
)
def localize_and_stitch(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), PerBlock(), "λ: factor of this task's values"] = 1.0,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), PerTask(), "fraction of the whole model that this task claims"
    ] = 0.05,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Puts each task's largest changes into the base and averages where several tasks claim a weight.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. A task claims the changes that are larger than its
    int(density·n)-th largest one of the whole model: one fewer than that as published, and fewer still with ties. At
    density 1 it claims all that it changed, so a weight becomes the mean over the tasks that changed it.
    Without data the masks come from magnitudes; the paper also learns them. A task of scale 0 still claims its places.
    """
    claimed = deltas.abs() > parts.column(stats["threshold"], deltas)
    total = parts.weighted_sum(torch.where(claimed, deltas, 0), per_task(scale, deltas))
    return total / claimed.sum(0).clamp_(min=1)


@localize_and_stitch.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    return {"threshold": statistics.magnitude_threshold(parameters["density"], count_rule="exact")}
