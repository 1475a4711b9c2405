"""DELLA: drop changes at random, the smaller the likelier, then elect signs and merge."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _draws
from explorer.merging._api import method, per_task
from explorer.merging._combine import Elect, Reduce, Weight, combine, steps
from explorer.merging._fused import Steps
from explorer.params import Choice, PerBlock, PerTask, Range


@method(
    title="DELLA",
    paper="DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling",
    granularity="tensor",
    formula="θ = θ₀ + λ · mean of mₜ ⊙ τₜ / pₜ over the tasks with the elected sign,  mₜ ~ Bernoulli(pₜ),  "
    "pₜ linear in the rank of |τₜ| within its row",
    when="You like DARE but want large changes to survive more often than small ones.",
    when_not="You need the same result for every seed, or the fine-tunes moved far from the base.",
)
def della(
    deltas: Tensor,
    *,
    scale: Annotated[
        float, Range(-1, 2, step=0.01), PerTask(), PerBlock(), "λ: how much of this task's vector is added"
    ] = 1.0,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), PerTask(), "mean probability that an entry is kept"
    ] = 0.7,
    density_spread: Annotated[
        float,
        Range(0, 0.5, step=0.01),
        PerTask(),
        "ε: a row's smallest change is kept with probability density − ε, its largest with density + ε",
    ] = 0.1,
    rescale: Annotated[
        str,
        Choice("probability", "l1", "none", labels=("divide by its probability", "restore the absolute sum", "leave")),
        "how kept entries grow: each by 1 / its own probability (paper), until the tensor has its old absolute sum "
        "(mergekit), not",
    ] = "probability",
    elect: Elect = "mass",
    reduce: Reduce = "mean",
    weight: Weight = 1.0,
    seeds: tuple[int, ...] = (),
) -> Tensor:
    """Adds task vectors of which entries were dropped at random according to their rank within a row.

    Shapes: deltas [T, *shape], per-task values [T]; returns [*shape]. A row is what the first dimension counts; scalars
    and one-dimensional tensors are one row, and a row of one entry has the mean probability. ε is cut to
    min(1 − density, 0.9 · density), so every probability is above 0 and at most 1 and their mean is the density;
    mergekit refuses such settings. Entries of equal size are ranked by position. With rescale probability every entry
    keeps its expectation. Density 1 drops nothing; ε = 0 is DARE. What is dropped depends on the recipe's seed, the
    task's name, the tensor's name and the position, on nothing else.
    """
    count, shape = deltas.shape[0], deltas.shape[1:]
    rows = deltas.reshape(count, shape[0] if len(shape) > 1 else 1, -1)
    middles = per_task(density, deltas).tolist()
    spreads = _cut(middles, per_task(density_spread, deltas).tolist())
    kept = torch.empty_like(rows)
    for task, (middle, spread, seed) in enumerate(zip(middles, spreads, seeds, strict=True)):
        kept[task] = _sampled(rows[task], middle, spread, seed, rescale)
    flat = kept.view(count, -1)
    merged = combine(flat, per_task(scale, deltas), per_task(weight, deltas), elect=elect, reduce=reduce)
    return merged.view(shape)


@della.fused
def _(
    *,
    scale: Tensor,
    density: Tensor,
    density_spread: Tensor,
    rescale: str,
    elect: str,
    reduce: str,
    weight: Tensor,
    **_: Any,
) -> Steps | None:
    if rescale == "l1":  # a sum over the whole tensor comes first
        return None
    middles = density.tolist()
    spreads = _cut(middles, density_spread.tolist())
    over = rescale == "probability"
    return steps(scale, weight, elect=elect, reduce=reduce, keep=middles, spread=spreads, over_chance=over)


def _cut(densities: list[float], spreads: list[float]) -> list[float]:
    """ε of every task, so that all of its probabilities are above 0 and at most 1."""
    return [min(spread, 1 - middle, 0.9 * middle) for middle, spread in zip(densities, spreads, strict=True)]


def _sampled(rows: Tensor, density: float, spread: float, seed: int, rescale: str) -> Tensor:
    """One task vector [rows, columns] after dropping and rescaling."""
    if density >= 1 or rows.numel() == 0:
        return rows
    probability = keep_probability(rows, density, spread)
    uniform = _draws.uniform(seed, 0, rows.numel(), rows.device).view_as(rows)
    kept = torch.where(uniform < probability, rows, 0)
    if rescale == "probability":
        limit = torch.finfo(rows.dtype).max
        return kept.div_(probability).clamp_(-limit, limit)  # division alone must not make a finite change infinite
    if rescale == "l1":
        before, after = (float(x.double().abs().sum()) for x in (rows, kept))
        return kept * (before / after) if after else kept
    return kept


def keep_probability(rows: Tensor, density: float, spread: float) -> Tensor:
    """Each entry's chance [rows, columns]: density − spread for a row's smallest |δ| to density + spread, by rank."""
    columns = rows.shape[1]
    if columns == 1 or spread == 0:
        return torch.full_like(rows, density)
    by_rank = _draws.chances(density, spread, columns, dtype=rows.dtype, device=rows.device)
    return torch.empty_like(rows).scatter_(1, _ascending(rows), by_rank.expand_as(rows))


def _ascending(rows: Tensor) -> Tensor:
    """Columns of each row by size, smallest first, equal sizes by position; int64 [rows, columns]."""
    if rows.dtype != torch.float32:
        return rows.abs().argsort(dim=1, stable=True)
    # Size and column in one whole number: plain sorting of those is several times faster than a stable argsort.
    keys = rows.abs().view(torch.int32).to(torch.int64).bitwise_left_shift_(32)
    keys.bitwise_or_(torch.arange(rows.shape[1], device=rows.device))
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)
    else:
        keys = keys.sort(dim=1).values
    return keys.bitwise_and_((1 << 32) - 1)
