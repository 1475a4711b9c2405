"""Reversible merging of low-rank updates: a small basis for every row and column position of the factors."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._api import Shapes, method, per_task
from explorer.merging._matrices import is_matrix, singular
from explorer.merging._parts import column
from explorer.merging.tsv import Excluded
from explorer.params import PerTask, Range


@method(
    title="Reversible model merging of low-rank updates",
    paper="Towards Reversible Model Merging For Low-rank Weights",
    granularity="matrix",
    output="per_task",
    formula="θ̂ₜ = θ₀ + λₜ Âₜ B̂ₜ,  τₜ ≈ AₜBₜ of rank r,  x̂ₜ = μ + W Wᵀ (xₜ − μ) for each row xₜ of Aₜ, column of Bₜ",
    when="The fine-tunes are LoRAs, or nearly of low rank, and every task's model is wanted back from little.",
    when_not="Updates are of full rank: cutting them to rank r loses most; use `reversible`.",
    other_tensors="Tensors that are no matrices, and embeddings, are kept in full.",
)
def reversible_low_rank(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "factor of this task's rebuilt update"] = 1.0,
    rank: Annotated[int, Range(1, 256, step=1), "r: rank of the factors; that of the LoRAs loses nothing"] = 16,
    components: Annotated[
        int, Range(0, 30, step=1), "p: directions kept per position beside the mean; min(r, T − 1) rebuild exactly"
    ] = 1,
    excluded: Excluded = "embeddings",
    name: str,
) -> Tensor:
    """Each task's low-rank factors projected, place by place, onto their mean and the main directions around it.

    Shapes: deltas [T, m, n], scale [T]; returns [T, m, n]. τ = U S Vᵀ is split evenly, A = U √S and B = √S Vᵀ, with
    the largest entry of each column of U positive: a basis means something only between factors that are oriented
    alike, and any pair (A R, R⁻¹ B) gives the same update. Each row of A (column of B) is one position with T
    vectors of r numbers; of these the mean and p principal directions are kept. p = 0 averages A and B apart, which
    the paper shows to fail. Stored per position are r numbers for the mean, p · r for the directions and p · T
    coefficients, so more than all factors once p is near r T / (r + T).
    """
    factors = column(per_task(scale, deltas), deltas)
    if not is_matrix(name, deltas[0], excluded):
        return deltas * factors
    rows, columns = deltas.shape[1:]
    kept = min(rank, rows, columns)
    left = torch.zeros((len(deltas), rows, kept), dtype=torch.float64, device=deltas.device)
    right = torch.zeros((len(deltas), columns, kept), dtype=torch.float64, device=deltas.device)
    for task, delta in enumerate(deltas):
        u, s, v = singular(delta, kept)
        signs = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True))).view(-1) * s.sqrt()
        left[task, :, : len(s)], right[task, :, : len(s)] = u * signs, v.T * signs
    rebuilt = _projected(left, components) @ _projected(right, components).transpose(1, 2)
    return rebuilt.to(deltas.dtype) * factors


def _projected(vectors: Tensor, components: int) -> Tensor:
    """x̂ [T, positions, r]: at each position the T vectors on their mean and main `components` directions."""
    tasks, _, rank = vectors.shape
    if components >= min(rank, tasks - 1):
        return vectors
    around = vectors - vectors.mean(0)
    grams = torch.einsum("tpr,upr->ptu", around, around)
    _, main = torch.linalg.eigh(grams)
    weights = main[:, :, tasks - components :]
    return vectors.mean(0) + torch.einsum("ptk,puk,upr->tpr", weights, weights, around)


@reversible_low_rank.stored
def _(shapes: Shapes, tasks: int, parameters: Mapping[str, Any]) -> float:
    total = kept = 0.0
    for name, shape in shapes.items():
        size = prod(shape)
        total += tasks * size
        if not is_matrix(name, torch.empty(shape, device="meta"), parameters["excluded"]):
            kept += tasks * size
            continue
        rank = min(parameters["rank"], *shape)
        exact = parameters["components"] >= min(rank, tasks - 1)
        p = parameters["components"]
        kept += sum(shape) * (tasks * rank if exact else p * (rank + tasks) + rank)
    return kept / max(1.0, total)
