"""TALL masks: which weights of a merged update matter to which task; and merging by consensus of the masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging import _ties
from explorer.merging._api import Shapes, Stat, method, per_task
from explorer.merging._fused import Steps
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, Choice, PerTask, Range

PAPER = "Localizing Task Information for Improved Model Merging and Compression"
TIES_SUM = _ties.Rule(reduce="sum")

MultiTaskVector = Annotated[
    str,
    Choice("task_arithmetic", "ties", labels=("sum of task vectors", "TIES with sum")),
    "the merged update that the masks select from",
]
MaskThreshold = Annotated[
    float,
    Range(0, 2, step=0.05),
    PerTask(),
    "λ of the mask: larger keeps fewer weights, those that matter more to this task than to the others",
]
TiesDensity = Annotated[
    float,
    Range(0, 1, open_low=True, step=0.01),
    PerTask(),
    Advanced(),
    "fraction of each task vector kept when the multi-task vector is TIES",
]


@method(
    title="TALL masks",
    paper=PAPER,
    granularity="elementwise+threshold",
    output="per_task",
    formula="θ̂ₜ = θ₀ + λₜ · mₜ ⊙ τ_MTL,  mₜ = |τₜ| > mask_threshold · |τ_MTL − τₜ|",
    when="You want every task's own model back from one merged update and one bit per weight and task.",
    when_not="You need a single model for all tasks: use consensus.",
)
def tall_masks(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "factor of this task's masked update"] = 1.0,
    mask_threshold: MaskThreshold = 0.4,
    multi_task_vector: MultiTaskVector = "task_arithmetic",
    density: TiesDensity = 0.2,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Each task's model rebuilt from the multi-task vector and the task's mask.

    Shapes: deltas [T, n], per-task values [T]; returns [T, n]. Masks compare the untrimmed task vectors with the
    unscaled multi-task vector, strictly. One task, and tasks that change different weights, are rebuilt exactly for
    every threshold above 0. The paper tunes the threshold per task among 0.2 … 0.6.
    """
    total = _multi_task_vector(deltas, multi_task_vector, stats)
    masks = parts.tall_masks(deltas, total, per_task(mask_threshold, deltas))
    return torch.where(masks, total, 0).mul_(parts.column(per_task(scale, deltas), deltas))


@method(
    title="Consensus merging",
    paper=PAPER,
    granularity="elementwise+threshold",
    formula="θ = θ₀ + m ⊙ Σₜ λₜ τₜ,  m = at least min_tasks of the TALL masks",
    when="Many tasks: weights that serve one task only, or none, are left as in the base.",
    when_not="Two or three tasks that share little: hardly anything has a consensus.",
)
def consensus(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: how much of this task's vector is added"] = 0.3,
    min_tasks: Annotated[
        int, Range(0, 30, step=1), "weights that fewer tasks claim stay as in the base; 0 keeps all"
    ] = 2,
    mask_threshold: MaskThreshold = 0.4,
    multi_task_vector: MultiTaskVector = "task_arithmetic",
    density: TiesDensity = 0.2,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """The multi-task vector, kept only where enough tasks claim the weight.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. The masks do not depend on the scales: a task of scale 0
    adds nothing but still has its say in the consensus. min_tasks 0 gives the multi-task vector itself; more than T
    gives the base. The paper scales the whole update by one λ; per-task scales are ours, and equal ones give the same.
    """
    total = _multi_task_vector(deltas, multi_task_vector, stats)
    mask = parts.consensus_mask(parts.tall_masks(deltas, total, per_task(mask_threshold, deltas)), min_tasks)
    scales = per_task(scale, deltas)
    if multi_task_vector == "ties":
        scaled = _ties.merge(deltas, TIES_SUM, torch.ones_like(scales), scales, _scaled(stats))
    else:
        scaled = parts.weighted_sum(deltas, scales)
    return torch.where(mask, scaled, 0)


@method(
    title="Magnitude masks",
    paper=PAPER,
    granularity="elementwise+threshold",
    output="per_task",
    formula="θ̂ₜ = θ₀ + λₜ · mₜ ⊙ Σₛ τₛ,  mₜ = the largest entries of |τₜ|",
    when="A baseline for TALL masks: the masks ignore what the other tasks do.",
    when_not="Anything but comparison; TALL masks rebuild the tasks better.",
)
def magnitude_masking(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "factor of this task's masked update"] = 1.0,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), PerTask(), "fraction of weights in this task's mask"
    ] = 0.1,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Each task's model from the summed task vectors, kept where the task's own vector is largest.

    Shapes: deltas [T, n], per-task values [T]; returns [T, n]. The fraction is counted over the whole model, as
    int(density·n) + 1 entries and every tie. A task vector with fewer changed entries keeps all weights in its mask.
    """
    total = parts.task_sum(deltas)
    masks = deltas.abs() >= parts.column(stats["threshold"], deltas)
    return torch.where(masks, total, 0).mul_(parts.column(per_task(scale, deltas), deltas))


@magnitude_masking.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    return {"threshold": statistics.magnitude_threshold(parameters["density"])}


@tall_masks.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    if parameters["multi_task_vector"] != "ties":
        return {}
    return _ties.prepare(statistics, TIES_SUM, density=parameters["density"])


@consensus.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    if parameters["multi_task_vector"] != "ties":
        return {}
    density = parameters["density"]
    unscaled = _ties.prepare(statistics, TIES_SUM, density=density)
    scaled = _ties.prepare(statistics, TIES_SUM, density=density, scale=parameters["scale"])
    return {**unscaled, "scaled_elected": scaled["elected"]}


@magnitude_masking.stored
@tall_masks.stored
def one_update_and_masks(shapes: Shapes, tasks: int, parameters: Mapping[str, Any]) -> float:
    """One update of 32 bits per weight and one bit per weight and task, of T updates."""
    return (32 + tasks) / (32 * tasks)


def _scaled(stats: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**stats, "elected": stats["scaled_elected"]}


def _multi_task_vector(deltas: Tensor, kind: str, stats: Mapping[str, Tensor]) -> Tensor:
    """The unscaled update of all tasks, [n]."""
    if kind == "task_arithmetic":
        return parts.task_sum(deltas)
    ones = per_task(1.0, deltas)
    return _ties.merge(deltas, TIES_SUM, ones, ones, stats)


@tall_masks.fused
def _(*, scale: Tensor, mask_threshold: Tensor, multi_task_vector: str, **_: Any) -> Steps | None:
    return Steps("tall", scale, mask_threshold=mask_threshold) if multi_task_vector == "task_arithmetic" else None


@consensus.fused
def _(*, scale: Tensor, min_tasks: int, mask_threshold: Tensor, multi_task_vector: str, **_: Any) -> Steps | None:
    if multi_task_vector != "task_arithmetic":
        return None
    return Steps("consensus", scale, mask_threshold=mask_threshold, min_tasks=min_tasks)
