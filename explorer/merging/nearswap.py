"""NearSwap: take over another model's weights where they are near the base's."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import method, per_task
from explorer.params import PerTask, Range


@method(
    title="NearSwap",
    paper="none; alchemonaut/QuartetAnemoi-70B, as implemented in mergekit",
    granularity="elementwise",
    max_tasks=1,
    formula="θ = θ₀ + λ · sign(τ) · min(|τ|, largest_step)",
    when="One donor model that should colour the base without ever moving a weight far.",
    when_not="The donor's large changes are what you want: they are cut to the smallest step of all.",
)
def nearswap(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of the limited change"] = 1.0,
    largest_step: Annotated[
        float, Range(0, 1, open_low=True, step=1e-4), "t: no weight moves further than this"
    ] = 0.0001,
) -> Tensor:
    """The base moved towards one donor by at most a fixed step per weight.

    Shapes: deltas [1, n]; returns [n]. Weights nearer than the step become the donor's, others move by the step;
    mergekit writes the same as an interpolation with weight t / |τ|, at most 1.
    """
    return parts.weighted_sum(deltas.clamp(-largest_step, largest_step), per_task(scale, deltas))
