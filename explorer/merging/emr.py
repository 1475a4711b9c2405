"""EMR-Merging: one unified update; each task gets it back through a mask and a single factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._statistics import Statistics
from explorer.merging.tall_masks import one_update_and_masks
from explorer.params import Choice, PerTask, Range


@method(
    title="EMR-Merging",
    paper="EMR-Merging: Tuning-Free High-Performance Model Merging",
    granularity="elementwise+threshold",
    output="per_task",
    formula="θ̂ₜ = θ₀ + λₜ rₜ mₜ ⊙ τ_uni,  τ_uni = γ · max |τₜ| over the tasks with the elected sign γ,  mₜ = τₜ γ > 0",
    when="You know each input's task and want its own model from one update, one bit per weight and one number.",
    when_not="You need a single model for all tasks.",
)
def emr(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of this task's rebuilt update"] = 1.0,
    rescaler: Annotated[
        str,
        Choice("paper", "published", labels=("whole model", "tensor means")),
        "rₜ: Σ|τₜ| / Σ|mₜ ⊙ τ_uni| over all weights (paper), or of the sums of each tensor's mean (authors' code, "
        "where a small tensor weighs as much as a large one)",
    ] = "paper",
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Each task's model rebuilt from the unified update, the task's mask and its rescaler.

    Shapes: deltas [T, n], scale [T]; returns [T, n]. Where the task vectors cancel exactly the elected sign is −, as
    published. One task is rebuilt exactly. A task whose mask is empty, or that equals the base, gets the base.
    """
    unified, masks = _unified(deltas)
    factors = per_task(scale, deltas) * stats["rescaler"].to(deltas.dtype)
    return torch.where(masks, unified, 0).mul_(parts.column(factors, deltas))


@emr.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    def sums(deltas: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        unified, masks = _unified(deltas)
        own = deltas.double().abs().sum(1)
        return torch.stack([own, torch.where(masks, unified, 0).double().abs().sum(1)])

    per_tensor = statistics.sum("emr", sums, scope="tensor")
    assert isinstance(per_tensor, dict)
    if not per_tensor:
        return {"rescaler": torch.ones(len(statistics.source.tasks), dtype=torch.float64)}
    sizes = {n: torch.Size(statistics.source.shape(n)).numel() for n in per_tensor}
    mean = parameters["rescaler"] == "published"
    own, rebuilt = torch.stack([v / sizes[n] if mean else v for n, v in per_tensor.items()]).sum(0)
    return {"rescaler": torch.where(rebuilt > 0, own / rebuilt.clamp(min=1e-300), 1.0)}


def _unified(deltas: Tensor) -> tuple[Tensor, Tensor]:
    """The unified update [n] and which of its entries have the sign of each task's own, [T, n]."""
    positive = parts.elected_positive(parts.task_sum(deltas), False)
    magnitudes = parts.agreeing(deltas, positive)
    return parts.with_sign(parts.disjoint_max(magnitudes), positive), magnitudes > 0


emr.stored(one_update_and_masks)
