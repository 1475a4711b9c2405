"""The consensus mask: only places that enough tasks need."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from explorer.merging._add_ons import add_on
from explorer.merging._parts import task_sum
from explorer.params import Choice, Range


@add_on(
    title="Consensus mask",
    paper="Localizing Task Information for Improved Model Merging and Compression",
    formula="τ ← 1[Σₜ mₜ ≥ k] · τ,  mₜ = 1[|τₜ| > λ |v − τₜ|],  v = Σₜ τₜ or the merged τ",
    when="The merge changes weights that only one task, or none, asked for.",
    when_not="There are few tasks: with two, the mask keeps only what both need.",
)
def consensus_mask(
    merged: Tensor,
    *,
    mask_threshold: Annotated[float, Range(0, 2, step=0.01), "λ of the TALL masks; lower keeps more weights"] = 0.4,
    min_tasks: Annotated[int, Range(0, 64, step=1), "k: a place stays when at least so many tasks' masks have it"] = 2,
    against: Annotated[
        str,
        Choice("sum", "merged", labels=("the sum of the task vectors", "the merged task vector")),
        "what each task vector is compared with",
    ] = "sum",
    deltas: Tensor,
) -> Tensor:
    """Keeps the merged change only where the TALL masks of at least k tasks agree that it is needed.

    Shapes: merged [n] or [T, n], deltas [T, n]; returns 0 or 1 per place. k = 0 keeps everything, k > T nothing.
    `merged` as the comparison makes Consensus TIES out of TIES with a sum at scale 1; elsewhere `sum` is the paper's.
    """
    multi_task_vector = task_sum(deltas) if against == "sum" else merged
    wanted = deltas.abs() > mask_threshold * (multi_task_vector - deltas).abs()
    return (wanted.sum(0) >= min_tasks).to(merged.dtype)
