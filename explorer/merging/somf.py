"""Subspace-oriented fusion: fine-tunes of an aligned model, reduced to the weights where they may differ from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._combine import Elect, Reduce, combine
from explorer.merging._derived import values_at
from explorer.merging._statistics import Statistics
from explorer.params import PerTask, Range


@method(
    title="Subspace-oriented fusion (SOMF)",
    paper="A safety realignment framework via subspace-oriented model fusion for large language models",
    granularity="tensor",
    formula="θ = θ₀ + merge({m ⊙ τₜ / mean(m)}),  θ₀ = the aligned model,  m one mask for all tasks",
    when="The base is a safety-aligned model and its fine-tunes should be drawn back to it on most weights.",
    when_not="No model is aligned, or you have no reason to trust the base more than the fine-tunes.",
    other_tensors="Every tensor alike; a one-element tensor is always kept whole.",
)
def somf(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: how much of this task's vector is added"] = 0.3,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), "fraction of each tensor that the mask keeps; the rest realigns"
    ] = 0.5,
    elect: Elect = "none",
    reduce: Reduce = "sum",
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Task vectors seen from an aligned base, masked by one common mask, rescaled by its mean, and merged.

    Shapes: deltas [T, *shape], scale [T]; returns [*shape]. The paper learns the mask from preference data; without
    data it keeps the round(density · n) largest values (at least one) of Σₜ |τₜ| of each tensor, and ties. That is
    our stand-in: it says where the fine-tunes differ most from the aligned model, not what is safe. A mask that was
    learned elsewhere goes through `fused`. Density 1 gives plain merging: task arithmetic with the defaults.
    """
    mask = parts.task_sum(deltas.abs()) >= stats["border"].to(deltas.dtype)
    return fused(deltas, mask, per_task(scale, deltas), elect=elect, reduce=reduce)


@somf.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    density = parameters["density"]
    border = values_at(
        statistics,
        f"somf {density}",
        lambda deltas, given, row: parts.task_sum(deltas.abs()),
        lambda name, row, n: [max(1, round(density * n))],
        rows=1,
        scope="tensor",
    )
    assert isinstance(border, dict)
    return {"border": {name: value.view(()) for name, value in border.items()}}


def fused(deltas: Tensor, mask: Tensor, scale: Tensor, *, elect: str = "none", reduce: str = "sum") -> Tensor:
    """merge({m ⊙ δₜ / mean(m)}) of one whole tensor with a mask that is given: learned elsewhere, or made by a rule.

    Shapes: deltas [T, *shape], scale [T], mask [*shape] of bools or of numbers in [0, 1] (a probability per weight);
    returns [*shape]. Every merge here passes a factor through, so the mean divides once, at the end. A mask without
    any weight gives zeros, where the published division by its mean gives NaN.
    Raises ValueError (a programming error) for a mask of another shape or with values outside [0, 1].
    """
    if mask.shape != deltas.shape[1:]:
        raise ValueError(f"fused: the mask must have shape {tuple(deltas.shape[1:])}; got {tuple(mask.shape)}")
    kept = mask.to(deltas.dtype)
    if not (bool((kept >= 0).all()) and bool((kept <= 1).all())):
        raise ValueError("fused: mask values must be in [0, 1]")
    mean = float(kept.double().mean()) if kept.numel() else 0.0
    if not mean:
        return torch.zeros_like(deltas[0])
    return combine(deltas * kept, scale, torch.ones_like(scale), elect=elect, reduce=reduce) / mean
