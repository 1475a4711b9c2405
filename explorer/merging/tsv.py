"""Task singular vectors: every task keeps its strongest directions, and the directions of all tasks are untangled."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging._api import Shapes, method, per_task
from explorer.merging._matrices import is_matrix, mean_of, nearest_orthogonal, singular
from explorer.merging._parts import column
from explorer.params import Advanced, Choice, PerTask, Range

PAPER = "Task Singular Vectors: Reducing Task Interference in Model Merging"
Excluded = Annotated[
    str,
    Choice(
        "none",
        "embeddings",
        "embeddings_and_projections",
        labels=("nothing", "embeddings", "embeddings and text_projection (paper's code)"),
    ),
    Advanced(),
    "2-D tensors that are not treated as matrices",
]
MEAN_OF_OTHERS = "Tensors that are no matrices, and embeddings, get the mean of the scaled task vectors."


@method(
    title="TSV-Merge",
    paper=PAPER,
    granularity="matrix",
    formula="M = U⊥ Σ V⊥ᵀ: the top r/T singular triplets of every λₜτₜ side by side, U and V made orthogonal",
    when="Eight or more fully fine-tuned tasks, no data at hand.",
    when_not="Tasks with many more than r/T strong directions each, or matrices smaller than the number of tasks.",
    other_tensors=MEAN_OF_OTHERS,
)
def tsv_merge(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 3, step=0.01), PerTask(), "λ: factor of this task's singular values"] = 1.0,
    rank_rule: Annotated[
        str,
        Choice("shared", "full", labels=("an equal share of the rank (paper)", "everything")),
        "how many singular triplets each task keeps: the rank divided by the number of tasks, or all",
    ] = "shared",
    whiten: Annotated[bool, Advanced(), "make directions of different tasks orthogonal; off: the plain sum"] = True,
    excluded: Excluded = "embeddings_and_projections",
    name: str,
) -> Tensor:
    """The sum of low-rank task vectors after their singular vectors were made orthogonal to each other.

    Shapes: deltas [T, m, n], scale [T]; returns [m, n]. Each task keeps ⌊min(m, n)/T⌋ triplets, at least one (the
    published code keeps none where T is larger). The whitened vectors are the nearest orthonormal ones (Procrustes).
    Equal scales give λ times the paper's result. One task is rebuilt exactly. Directions that tasks share count once:
    equal task vectors give one copy (the published code adds directions of rounding noise there). A task of scale 0
    adds nothing but its directions are still kept free. Matrices that no task changed are skipped.
    """
    scales = per_task(scale, deltas)
    if not is_matrix(name, deltas[0], excluded):
        return mean_of(deltas, scales)
    size = min(deltas.shape[1:])
    rank = size if rank_rule == "full" else max(1, size // deltas.shape[0])
    parts = [singular(d, rank) for d in deltas]
    left, right = torch.cat([p[0] for p in parts], 1), torch.cat([p[2] for p in parts], 0)
    values = torch.cat([p[1] * s for p, s in zip(parts, scales.double(), strict=True)])
    if whiten:
        left, right = nearest_orthogonal(left), nearest_orthogonal(right)
    return (left * values @ right).to(deltas.dtype)


@method(
    title="TSV-Compress",
    paper=PAPER,
    granularity="matrix",
    output="per_task",
    formula="θ̂ₜ = θ₀ + λₜ · (the strongest singular triplets of τₜ)",
    when="You want every task's own model back from a small part of its update.",
    when_not="You need a single model for all tasks: use tsv_merge.",
    other_tensors="Tensors that are no matrices, and embeddings, are kept in full.",
)
def tsv_compress(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "factor of this task's compressed update"] = 1.0,
    rank_fraction: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), "share of the singular triplets kept of each matrix"
    ] = 0.1,
    excluded: Excluded = "embeddings",
    name: str,
) -> Tensor:
    """Each task vector with only its strongest singular directions.

    Shapes: deltas [T, m, n], scale [T]; returns [T, m, n]. ⌊rank_fraction · min(m, n)⌋ triplets are kept, at least
    one; of all approximations of that rank it is the nearest. The paper finds a tenth enough for 99 % of the accuracy.
    Storage per matrix and task is k (m + n + 1) numbers.
    """
    kept = deltas
    if is_matrix(name, deltas[0], excluded):
        kept = torch.stack([low_rank(d, rank_fraction) for d in deltas])
    return kept * column(per_task(scale, deltas), deltas)


@tsv_compress.stored
def _(shapes: Shapes, tasks: int, parameters: Mapping[str, Any]) -> float:
    return compressed_share(shapes, parameters["rank_fraction"], parameters["excluded"])


def compressed_share(shapes: Shapes, fraction: float, excluded: str) -> float:
    """Numbers of the kept singular triplets, and of all other tensors in full, by those of whole updates."""
    total = kept = 0
    for name, shape in shapes.items():
        size = prod(shape)
        matrix = fraction < 1 and is_matrix(name, torch.empty(shape, device="meta"), excluded)
        total += size
        kept += kept_count(fraction, min(shape)) * (sum(shape) + 1) if matrix else size
    return kept / max(1, total)


def kept_count(fraction: float, of: int) -> int:
    """⌊fraction · of⌋, at least 1; a product that is whole in decimals is not rounded below it."""
    return max(1, int(fraction * of + 1e-9))


def low_rank(matrix: Tensor, fraction: float) -> Tensor:
    """The nearest matrix of rank ⌊fraction · min(m, n)⌋, in the dtype of `matrix`; itself when all of it is kept."""
    if fraction == 1:
        return matrix
    left, values, right = singular(matrix, kept_count(fraction, min(matrix.shape)))
    return (left * values @ right).to(matrix.dtype)
