"""KnOTS: merging low-rank updates in a basis that all tasks share, where their entries can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.compute.source import Chunk, Source, arithmetic_dtype, deltas, numel
from explorer.merging import _ties
from explorer.merging._api import Stat, method, per_task
from explorer.merging._matrices import is_matrix
from explorer.merging._parts import weighted_sum
from explorer.merging._statistics import Statistics
from explorer.merging.tsv import Excluded
from explorer.params import Advanced, Choice, PerTask, Range
from explorer.store import Store


@method(
    title="KnOTS",
    paper="Model merging with SVD to tie the Knots",
    granularity="matrix",
    formula="[τ₁ | … | τ_T] = U [Σ V₁ᵀ | … | Σ V_Tᵀ],  θ = θ₀ + U · merge(Σ V₁ᵀ, …, Σ V_Tᵀ)",
    when="LoRA fine-tunes, or other low-rank updates, that TIES merges poorly entry by entry.",
    when_not="An inner merge by sum or mean: rotating first then changes nothing.",
    other_tensors="Tensors that are no matrices, and embeddings, are merged by the same method unrotated.",
)
def knots(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), "λ: factor of this task's update"] = 0.6,
    inner: Annotated[
        str, Choice("ties", "sum", "mean", labels=("TIES", "sum", "mean")), "how the rotated updates are merged"
    ] = "ties",
    density: Annotated[
        float,
        Range(0, 1, open_low=True, step=0.01),
        PerTask(),
        "for TIES: fraction of each task's rotated entries kept, counted over the whole model",
    ] = 0.2,
    reduce: Annotated[str, Choice("mean", "sum", "max"), "for TIES: how agreeing entries are combined"] = "mean",
    basis: Annotated[
        str,
        Choice("inputs", "outputs", labels=("side by side: common output directions", "stacked: common inputs")),
        Advanced(),
        "along which side the updates are joined before the decomposition",
    ] = "inputs",
    singular_cutoff: Annotated[
        float, Range(0, 1, step=0.00001), Advanced(), "directions with singular values up to this are left out"
    ] = 1e-5,
    excluded: Excluded = "embeddings",
    name: str,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """The task vectors rotated into the directions that all of them together span, merged there, and rotated back.

    Shapes: deltas [T, m, n], per-task values [T]; returns [m, n]. A basis over outputs works for every shape (the
    published code only for square matrices), and every task has its own scale (the published code takes the first for
    all). Ties in the election take the majority sign of the whole model. Sum and mean do not depend on a basis, so
    they are taken without one. Matrices that no task changed have no directions and stay as in the base.
    """
    scales = per_task(scale, deltas)
    if inner != "ties":
        return weighted_sum(deltas, scales if inner == "sum" else scales / deltas.shape[0])
    rule = _ties.Rule(reduce=reduce)
    rows, directions = Rotation(basis, singular_cutoff, excluded)(name, deltas)
    merged = _ties.merge(rows.reshape(len(rows), -1), rule, torch.ones_like(scales), scales, stats).view(rows.shape[1:])
    if directions is None:
        return merged
    back = directions @ merged.double()
    return (back if basis == "inputs" else back.T).to(deltas.dtype)


@knots.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    if parameters["inner"] != "ties":
        return {}
    rotation = Rotation(parameters["basis"], parameters["singular_cutoff"], parameters["excluded"])
    turned = Rotated(statistics.source, rotation, statistics.cache)
    rule = _ties.Rule(reduce=parameters["reduce"])
    asked = replace(statistics, source=turned)
    return _ties.prepare(asked, rule, density=parameters["density"], scale=parameters["scale"])


@dataclass(frozen=True)
class Rotation:
    """How task vectors are turned into their common basis; field meanings: see the method."""

    basis: str
    cutoff: float
    excluded: str

    def __call__(self, name: str, deltas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Task vectors in their common basis, [T, k, n] like `deltas`, and its k directions [m, k], float64.

        For basis "outputs" the matrices are transposed first. Tensors that are no matrices, and such as hold no
        number (the merge itself then names the task), come back unchanged with None.
        """
        if not is_matrix(name, deltas[0], self.excluded) or not bool(torch.isfinite(deltas.sum())):
            return deltas, None
        matrices = deltas if self.basis == "inputs" else deltas.transpose(1, 2)
        directions = _directions(matrices, self.cutoff)
        rows = [directions.T @ matrix.double() for matrix in matrices]
        return torch.stack(rows).to(deltas.dtype), directions


def _directions(matrices: Tensor, cutoff: float) -> Tensor:
    """Orthonormal columns [m, k]: left singular vectors of the matrices side by side, values above `cutoff`."""
    if not bool(matrices.any()):
        return matrices[0, :, :0].double()
    joined = matrices.transpose(0, 1).flatten(1).double()
    wide = joined.shape[0] <= joined.shape[1]
    squares, vectors = torch.linalg.eigh(joined @ joined.T if wide else joined.T @ joined)
    values = squares.clamp(min=0).sqrt()
    # Squares near zero are only good to rounding: about 1e-8 of the largest value.
    kept = values > max(cutoff, 2e-8 * float(values.max()))
    return vectors[:, kept] if wide else joined @ vectors[:, kept] / values[kept]


@dataclass(eq=False)
class Rotated:
    """A source whose tasks are the rotated task vectors on a base of zeros; tensors are kept in `cache`."""

    source: Source
    rotation: Rotation
    cache: Store

    def __post_init__(self) -> None:
        self.tasks, self.names, self.device = self.source.tasks, self.source.names, self.source.device
        # The basis depends on all tasks, so even one task's statistics are those of this company only.
        self.digest = f"{self.source.digest}/{self.rotation}/{self.tasks}"

    def _rows(self, name: str) -> Tensor:
        def make() -> Tensor:
            found = deltas(self.source, Chunk(name, 0, numel(self.source, name)))
            return self.rotation(name, found.view(len(self.tasks), *self.source.shape(name)))[0]

        return self.cache.get_or_make(f"{self.digest}/{name}", make, lambda rows: rows.nbytes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one rotated task vector, [k, n]."""
        return tuple(self._rows(name).shape[1:])

    def dtype(self, name: str) -> torch.dtype:
        """Arithmetic precision."""
        return arithmetic_dtype(self.source, name)

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Zeros [stop - start]."""
        return torch.zeros(stop - start, dtype=self.dtype(name), device=self.device)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of one rotated task vector."""
        return self._rows(name)[index].reshape(-1)[start:stop]

    def given(self, kind: str, index: int, name: str) -> None:
        """Nothing: what was measured belongs to unrotated weights."""
        return None

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """No bytes."""
        return 0

    def holds_delta(self, index: int, name: str) -> bool:
        """Always: what is rotated are the differences."""
        return True

    def unchanged(self, index: int, name: str) -> bool:
        """Never known without reading."""
        return False
