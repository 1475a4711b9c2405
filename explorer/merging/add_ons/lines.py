"""LiNeS: earlier blocks move less than later ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._add_ons import MergedSum, add_on
from explorer.merging._api import Stat
from explorer.merging._parts import task_sum
from explorer.merging._statistics import Statistics
from explorer.params import Choice, Range


@add_on(
    title="LiNeS",
    paper="LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
    formula="τ ← (α + β · ℓ / (L − 1)) · τ for block ℓ of L;  τ ← α · τ outside the blocks",
    when="The merge hurts general features: early blocks hold what all tasks share, so they should move less.",
    when_not="The blocks are not in a row from input to output, or the depth was tuned already.",
)
def lines(
    merged: Tensor,
    *,
    alpha: Annotated[float, Range(0, 2, step=0.01), "α: factor of the first block and of all outside the blocks"] = 0.5,
    beta: Annotated[float, Range(0, 2, step=0.01), "β: what the factor gains from the first block to the last"] = 0.5,
    alpha_from: Annotated[
        str,
        Choice("given", "norms", labels=("the value given", "the ratio of L1 norms: α = ‖Σₜ τₜ‖₁ / (T ‖τ‖₁)")),
        "where α comes from; the paper takes the norms when several tasks are merged",
    ] = "given",
    depth: float | None,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Scales the merged task vector by the depth of the block: little at the input, more at the output.

    Shapes: merged [n] or [T, n]; returns one factor. A model with one block counts as its first. A tensor's block is
    the first numbered one in its name (`blocks.1.mlp.0` lies in block 1; the published code takes it for block 0);
    encoder and decoder are counted apart. α + β should be the scale that one would use without LiNeS.
    """
    return stats["alpha"].to(merged) + beta * (depth or 0.0)


@lines.prepare
def _(statistics: Statistics, merged_sum: MergedSum, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    if parameters["alpha_from"] == "given":
        return {"alpha": torch.tensor(parameters["alpha"], dtype=torch.float64)}
    together = statistics.sum("lines", lambda deltas, _: task_sum(deltas).abs().double().sum())
    merged = merged_sum(lambda values: values.abs().double().sum())
    tasks = len(statistics.source.tasks)
    assert isinstance(together, Tensor)
    # Where the merge changes nothing, any factor does.
    return {"alpha": torch.where(merged > 0, together.double() / (tasks * merged), 1.0)}
