"""DARE: drop changes at random, enlarge the rest so that each keeps its expectation, then merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.compute.source import Chunk
from explorer.merging import _draws
from explorer.merging._api import Stat, method, per_task
from explorer.merging._combine import Elect, Reduce, Weight, combine, steps
from explorer.merging._fused import Steps
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, Choice, PerBlock, PerTask, Range


@method(
    title="DARE",
    paper="Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + Σₜ λₜ rₜ mₜ ⊙ τₜ,  mₜ ~ Bernoulli(densityₜ),  rₜ = 1 / densityₜ",
    when="Fine-tunes of a large model with tiny changes; also to see how redundant a task vector is.",
    when_not="Large changes or small models: dropping at random then adds noise instead of removing interference.",
)
def dare(
    deltas: Tensor,
    *,
    scale: Annotated[
        float, Range(-1, 2, step=0.01), PerTask(), PerBlock(), "λ: how much of this task's vector is added"
    ] = 0.3,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), PerTask(), "fraction of entries kept: 1 − the paper's drop rate p"
    ] = 0.5,
    rescale: Annotated[
        str,
        Choice("density", "l1", "none", labels=("divide by density", "restore the absolute sum", "leave as is")),
        "how kept entries grow: by 1 / density (paper), until each tensor has its old absolute sum (mergekit), not",
    ] = "density",
    elect: Elect = "none",
    reduce: Reduce = "sum",
    weight: Weight = 1.0,
    drop: Annotated[
        str,
        Choice("random", "smallest"),
        Advanced(),
        "which entries go: random ones (DARE), or each tensor's smallest ones, the paper's comparison",
    ] = "random",
    stats: Mapping[str, Tensor],
    seeds: tuple[int, ...] = (),
    offset: int = 0,
) -> Tensor:
    """Adds task vectors of which a random part was dropped and the rest enlarged.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. What is dropped depends on the recipe's seed, the task's
    name, the tensor's name and the position, on nothing else. With rescale density every entry keeps its expectation.
    Density 1 drops and rescales nothing: task arithmetic, bit for bit. A tensor of which nothing is kept adds nothing.
    Under l1 a small tensor may grow far more than 1 / density.
    """
    shares = stats["density"].tolist()
    if drop == "smallest":
        kept = torch.where(deltas.abs() >= stats["threshold"].view(-1, 1), deltas, 0)
    else:
        kept = _dropped(deltas, shares, seeds, offset)
    if rescale == "l1":
        kept = kept * stats["grow"].to(deltas.dtype).view(-1, 1)
    scales, weights = per_task(scale, deltas), per_task(weight, deltas)
    if rescale == "density" and elect == "none" and reduce == "sum":
        # One factor per task: a product of λ and 1 / density cannot overflow where the merged value does not.
        scales = scales / per_task(density, deltas)
    elif rescale == "density":
        kept = kept / per_task(density, deltas).view(-1, 1)
    return combine(kept, scales, weights, elect=elect, reduce=reduce)


@dare.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    densities = parameters["density"]
    # float64, because float32 would move the limit that a draw is compared with.
    stats: dict[str, Stat] = {"density": torch.tensor(densities, dtype=torch.float64)}
    smallest = parameters["drop"] == "smallest"
    if smallest:
        keys = [("smallest", d) for d in densities]
        (found,) = statistics.magnitudes_at(
            lambda t, n: [n - int((1 - densities[t]) * n + 1e-9 * n)], keys=keys, scope="tensor"
        )
        assert isinstance(found, dict)
        full = torch.tensor([d == 1 for d in densities], device=statistics.source.device)
        stats["threshold"] = {name: torch.where(full, 0, value) for name, value in found.items()}
    if parameters["rescale"] == "l1":

        def sums(chunk: Chunk, deltas: Tensor, given: Mapping[str, Tensor]) -> Tensor:
            if smallest:
                kept = torch.where(deltas.abs() >= given["threshold"].view(-1, 1), deltas, 0)
            else:
                kept = _dropped(deltas, densities, statistics.seeds(chunk.name), chunk.start)
            return torch.stack([x.double().abs().sum(1) for x in (deltas, kept)])

        key = f"dare {densities} {smallest} {statistics.seed}"
        total = statistics.sum_chunks(key, sums, scope="tensor", given=stats)
        assert isinstance(total, dict)
        grow = {name: torch.where(s[1] > 0, s[0] / s[1].clamp(min=1e-300), 1.0) for name, s in total.items()}
        stats["grow"] = grow
    return stats


def _dropped(deltas: Tensor, densities: list[float], seeds: tuple[int, ...], offset: int) -> Tensor:
    """Task vectors [T, n] with entries kept at random, 0 elsewhere."""
    out = torch.empty_like(deltas)
    for row, density, seed, into in zip(deltas, densities, seeds, out, strict=True):
        keep = _draws.keep(seed, offset, row.numel(), density, row.device)
        torch.mul(row, keep, out=into)
    return out


@dare.fused
def _(
    *,
    scale: Tensor,
    density: Tensor,
    rescale: str,
    elect: str,
    reduce: str,
    weight: Tensor,
    drop: str,
    stats: Mapping[str, Tensor],
    **_: Any,
) -> Steps:
    sparsify: dict[str, Any] = {"keep": stats["density"].tolist()}
    if drop == "smallest":
        sparsify = {"low": stats["threshold"]}
    if rescale == "l1":
        sparsify["times"] = stats["grow"].to(scale.dtype)
    elif rescale == "density" and elect == "none" and reduce == "sum":
        scale = scale / density
    elif rescale == "density":
        sparsify["over"] = density
    return steps(scale, weight, elect=elect, reduce=reduce, **sparsify)
