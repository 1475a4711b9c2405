"""Resetting a random half of each fine-tune to the base before adding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.checkpoints.groups import group_of
from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._statistics import Statistics
from explorer.params import Choice, PerTask, Range
from explorer.seeds import stable_seed


@method(
    title="Half reset",
    paper="HFT: Half Fine-Tuning for Large Language Models",
    granularity="elementwise+threshold",
    stochastic=True,
    formula="θ = θ₀ + Σₜ λₜ bₜ ⊙ τₜ,  bₜ = 0 on a random half of the blocks",
    when="A fine-tune forgot what the base knew: half of its blocks often carry its task almost as well.",
    when_not="You need the same result for every seed, or every block of the task matters.",
)
def half_reset(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: how much of this task's vector is added"] = 1.0,
    reset_fraction: Annotated[
        float, Range(0, 1, step=0.05), PerTask(), "fraction of this task's blocks set back to the base"
    ] = 0.5,
    block: Annotated[
        str,
        Choice("module", "layer", labels=("modules of each layer", "whole layers")),
        "what is reset: in every layer some of its modules (attention query, mlp in …), or some whole layers",
    ] = "module",
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Adds task vectors of which whole blocks were set back to the base.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. Which blocks are reset depends on the recipe's seed, the
    task's name and the block, on nothing else. Of k blocks fraction · k are reset; a broken count is rounded at random,
    so every block has the same chance. Layers and modules are read from the tensors' names. The published recipe
    freezes half during training and draws again every round; this is its form for models that are already trained.
    """
    return parts.weighted_sum(deltas * parts.column(stats["kept"], deltas), per_task(scale, deltas))


@half_reset.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    source, layers = statistics.source, parameters["block"] == "layer"
    pools: dict[str, dict[str, list[str]]] = {}
    for name in source.names:
        group = group_of(name)
        pool, block = ("", group.layer) if layers else (group.layer, group.kind)
        pools.setdefault(pool, {}).setdefault(block, []).append(name)
    kept = {name: torch.ones(len(source.tasks), device=source.device) for name in source.names}
    for row, (task, fraction) in enumerate(zip(source.tasks, parameters["reset_fraction"], strict=True)):
        for pool, blocks in pools.items():
            for block in _drawn(sorted(blocks), fraction, (statistics.seed, task, pool)):
                for name in blocks[block]:
                    kept[name][row] = 0
    return {"kept": kept}


def _drawn(blocks: Sequence[str], fraction: float, seed: tuple[object, ...]) -> list[str]:
    """A random choice of fraction · len(blocks) of the blocks."""
    chance = stable_seed(*seed, "count") / 2**63
    return sorted(blocks, key=lambda b: stable_seed(*seed, "block", b))[: int(fraction * len(blocks) + chance)]
