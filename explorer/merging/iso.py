"""Isotropic merging: the merged update keeps its directions, but all of them get the same strength."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from explorer.merging._api import method, per_task
from explorer.merging._matrices import is_matrix, mean_of, nearest_orthogonal, singular
from explorer.merging._parts import weighted_sum
from explorer.merging.tsv import MEAN_OF_OTHERS, Excluded
from explorer.params import Choice, PerTask, Range

PAPER = "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces"
Scale = Annotated[float, Range(-1, 3, step=0.01), PerTask(), "λ: factor of this task's vector before the merge"]


@method(
    title="Iso-C",
    paper=PAPER,
    granularity="matrix",
    formula="M = σ̄ · U Vᵀ,  U Σ Vᵀ = Σₜ λₜ τₜ,  σ̄ = mean of Σ",
    when="Many fully fine-tuned tasks: directions that only some tasks use become as strong as the common ones.",
    when_not="LoRA or other low-rank updates: strength is spread over directions that no task asked for.",
    other_tensors=MEAN_OF_OTHERS,
)
def iso_c(
    deltas: Tensor,
    *,
    scale: Scale = 1.0,
    directions: Annotated[
        str,
        Choice("all", "numerical_rank", labels=("all (paper)", "only those above float32 rounding")),
        "which singular directions take part: all, or for low-rank updates only those that are really there",
    ] = "all",
    excluded: Excluded = "embeddings_and_projections",
    name: str,
) -> Tensor:
    """The summed task vectors with all singular values replaced by their mean.

    Shapes: deltas [T, m, n], scale [T]; returns [m, n]. The sum of the singular values is kept. Equal scales give λ
    times the paper's result. Even one task alone is changed: its spectrum is made flat. Directions of exactly zero
    strength are arbitrary and left out. Matrices are summed, all other tensors averaged, as published.
    """
    scales = per_task(scale, deltas)
    if not is_matrix(name, deltas[0], excluded):
        return mean_of(deltas, scales)
    left, values, right = singular(weighted_sum(deltas, scales), cutoff=0 if directions == "all" else 1e-5)
    return _isotropic(left, values, right).to(deltas.dtype)


@method(
    title="Iso-CTS",
    paper=PAPER,
    granularity="matrix",
    formula="M = σ̄ · U⊥ V⊥ᵀ: the top directions of Σₜ λₜ τₜ, then each task's strongest outside of them",
    when="Very many tasks: each is sure of some directions of its own.",
    when_not="LoRA or other low-rank updates, or matrices smaller than the number of tasks.",
    other_tensors=MEAN_OF_OTHERS,
)
def iso_cts(
    deltas: Tensor,
    *,
    scale: Scale = 1.0,
    common_fraction: Annotated[
        float, Range(0, 1, step=0.05), "share of the directions taken from the sum; the rest is divided among tasks"
    ] = 0.8,
    excluded: Excluded = "embeddings_and_projections",
    name: str,
) -> Tensor:
    """Common directions of the summed task vectors and specific ones of each task, all of the same strength.

    Shapes: deltas [T, m, n], scale [T]; returns [m, n]. With r = min(m, n) each task gets round((1−f)·r/T) directions
    (halves to even; never more than r in all), the common ones get the rest. f = 1, or too few directions for one per
    task, is Iso-C. The vectors are made orthogonal by the nearest orthonormal ones; the strength is the mean over all
    directions. Those of exactly zero strength are arbitrary and left out of directions and mean. Equal scales give λ
    times the paper's result.
    """
    scales = per_task(scale, deltas)
    if not is_matrix(name, deltas[0], excluded):
        return mean_of(deltas, scales)
    total = weighted_sum(deltas, scales).double()
    size, count = min(total.shape), deltas.shape[0]
    own = min(round((size - int(size * common_fraction + 1e-9)) / count), size // count)
    common = singular(total, size - own * count)
    if own == 0:
        return _isotropic(*common).to(deltas.dtype)
    scaled = (d.double() * s for d, s in zip(deltas, scales.tolist(), strict=True))
    parts = [common, *(singular(_outside(d, common[0]), own) for d in scaled)]
    left, right = torch.cat([p[0] for p in parts], 1), torch.cat([p[2] for p in parts], 0)
    values = torch.cat([p[1] for p in parts])
    return _isotropic(nearest_orthogonal(left), values, nearest_orthogonal(right)).to(deltas.dtype)


def _isotropic(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """Mean singular value times U Vᵀ; zeros where there are no singular values."""
    return left @ right * (values.mean() if len(values) else 0.0)


def _outside(matrix: Tensor, left: Tensor) -> Tensor:
    """What of a matrix lies outside the span of orthonormal columns; exactly zero where only rounding is left."""
    rest = matrix - left @ (left.T @ matrix)
    return rest if rest.norm() > 1e-12 * matrix.norm() else torch.zeros_like(rest)
