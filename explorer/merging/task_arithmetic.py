"""Task arithmetic: adding, negating and combining task vectors."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from explorer.merging._api import method, per_task
from explorer.merging._fused import Steps
from explorer.merging._parts import weighted_sum
from explorer.params import PerBlock, PerTask, Range


@method(
    title="Task arithmetic",
    paper="Editing Models with Task Arithmetic",
    granularity="elementwise",
    formula="θ = θ₀ + Σₜ λₜ τₜ",
    when="A first try for any set of fine-tunes; a negative scale makes the model forget a task.",
    when_not="Many tasks with large updates: opposite signs cancel and the sum drifts far from every task.",
)
def task_arithmetic(
    deltas: Tensor,
    *,
    scale: Annotated[
        float,
        Range(-1, 2, step=0.01),
        PerTask(),
        PerBlock(),
        "λ: how much of this task's vector is added; below 0 removes it",
    ] = 0.3,
) -> Tensor:
    """The base plus a scaled sum of the task vectors.

    Shapes: deltas [T, n], scale [T]; returns [n]. Linear in every scale. One task with scale 1 gives θ₀ + (θ₁ − θ₀),
    which is θ₁ wherever that float expression rounds back. Empty and one-element tensors need no special case.
    The default 0.3 is the usual choice for about eight tasks; the paper tunes it on held-out data.
    """
    return weighted_sum(deltas, per_task(scale, deltas))


@task_arithmetic.fused
def _(*, scale: Tensor) -> Steps:
    return Steps("sum", scale)
