"""Twin-Merging without its router: what all tasks share, and a compressed rest for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._api import Shapes, method, per_task
from explorer.merging._matrices import is_matrix
from explorer.merging._parts import column, weighted_sum
from explorer.merging.tsv import Excluded, compressed_share, kept_count, low_rank
from explorer.params import Choice, PerTask, Range


@method(
    title="Twin-Merging (static part)",
    paper="Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging",
    granularity="matrix",
    output="per_task",
    formula="θ̂ₜ = θ_S + wₜ · compress(θₜ − θ_S),  θ_S = θ₀ + Σₜ λₜ τₜ",
    when="The task of an input is known: one shared model and a small part per task come close to every expert.",
    when_not="You need a single model; and the router that would choose the parts by the input is not included.",
    other_tensors="Tensors that are no matrices keep the exclusive part in full.",
)
def twin_merging(
    deltas: Tensor,
    *,
    shared_scale: Annotated[
        float, Range(-1, 2, step=0.01), PerTask(), "λ: how much of this task's vector goes into the shared model"
    ] = 0.3,
    exclusive_weight: Annotated[
        float, Range(0, 1, step=0.01), PerTask(), "how much of its exclusive part this task's model gets back"
    ] = 1.0,
    rank_fraction: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), "share kept of the exclusive part: of its rank, or of its entries"
    ] = 0.1,
    compress: Annotated[
        str, Choice("svd", "magnitude", labels=("low rank", "largest entries")), "how exclusive parts are compressed"
    ] = "svd",
    excluded: Excluded = "embeddings",
    name: str,
) -> Tensor:
    """Each task's model from the shared model and the compressed difference between the two.

    Shapes: deltas [T, m, n], per-task values [T]; returns [T, m, n]. The exclusive part τₜ − Σ λτ keeps
    ⌊rank_fraction · min(m, n)⌋ singular triplets or ⌊rank_fraction · m·n⌋ entries, at least one; the published code
    computes the fraction as 1 − 0.9 in floating point and can end up one rank lower. rank_fraction 1 gives every
    expert back, exclusive_weight 0 the shared model to all. Entries as large as the smallest kept one are kept too.
    The router's weights depend on the input; here each task's own part has the weight given and all others 0.
    """
    shared = weighted_sum(deltas, per_task(shared_scale, deltas))
    exclusive = deltas - shared
    if is_matrix(name, deltas[0], excluded):
        kept = low_rank if compress == "svd" else _largest
        exclusive = torch.stack([kept(part, rank_fraction) for part in exclusive])
    return shared + exclusive * column(per_task(exclusive_weight, deltas), deltas)


@twin_merging.stored
def _(shapes: Shapes, tasks: int, parameters: Mapping[str, Any]) -> float:
    fraction, excluded = parameters["rank_fraction"], parameters["excluded"]
    if parameters["compress"] == "svd":
        return 1 / tasks + compressed_share(shapes, fraction, excluded)
    # A kept entry is a value and its place.
    sizes = {n: (prod(s), is_matrix(n, torch.empty(s, device="meta"), excluded)) for n, s in shapes.items()}
    kept = sum(min(size, 2 * kept_count(fraction, size)) if matrix else size for size, matrix in sizes.values())
    return 1 / tasks + kept / max(1, sum(size for size, _ in sizes.values()))


def _largest(matrix: Tensor, fraction: float) -> Tensor:
    """The largest entries by magnitude, zero elsewhere."""
    sizes = matrix.abs()
    drop = sizes.numel() - kept_count(fraction, sizes.numel())
    return torch.where(sizes >= sizes.view(-1).kthvalue(drop + 1).values, matrix, 0)
