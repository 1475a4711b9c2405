"""Exclusive ownership: every weight belongs to one task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._statistics import Statistics
from explorer.params import Choice, PerTask, Range


@method(
    title="Exclusive ownership",
    paper="Exclusive Supermask Subnetwork Training for Continual Learning",
    granularity="elementwise+threshold",
    order_sensitive=True,
    formula="θ = θ₀ + Σₜ λₜ oₜ ⊙ τₜ,  oₜ = 1 for one task per weight",
    when="Tasks must not disturb one another: no weight is shared, so no update is mixed or averaged.",
    when_not="The tasks agree on many weights: their common knowledge is taken from one of them only.",
)
def ownership(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of this task's values"] = 1.0,
    owner: Annotated[
        str,
        Choice("largest", "first", labels=("largest change", "first come")),
        "who owns a weight that several tasks claim: the task that changed it most, or the one listed first",
    ] = "largest",
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), PerTask(), "fraction of the whole model that this task claims"
    ] = 1.0,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Adds task vectors cut so that no two of them touch the same weight.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. A task claims its int(density·n) largest changes of the
    whole model and every tie, never a weight that it left unchanged. Equally large changes go to the task listed
    first, so the order of the tasks matters. A task of scale 0 still owns its weights, which then stay as in the base.
    """
    size = deltas.abs()
    claims = (size >= parts.column(stats["threshold"], deltas)) & (deltas != 0)
    best = torch.where(claims, size, 0)[0] if owner == "largest" else claims[0]
    merged = torch.where(claims[0], deltas[0], 0) * per_task(scale, deltas)[0]
    for task in range(1, len(deltas)):
        if owner == "largest":
            wins = claims[task] & (size[task] > best)
            best = torch.where(wins, size[task], best)
        else:
            wins = claims[task] & ~best
            best = best | wins
        merged = torch.where(wins, deltas[task] * per_task(scale, deltas)[task], merged)
    return merged


@ownership.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    return {"threshold": statistics.magnitude_threshold(parameters["density"], count_rule="exact")}
