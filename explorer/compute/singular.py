"""Singular values and vectors of one matrix: from the Gram matrix of its smaller side, or from a random sketch.

A full decomposition of a 4096 x 14336 matrix takes minutes. Up to `EXACT_SIDE` the eigenvectors of the smaller Gram
matrix, in float64, are as good; beyond it only the strongest `SKETCH` directions are found, with a stated bound.
Which way is taken depends on the shape alone, so results do not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

EXACT_SIDE = 2048
"""Matrices whose smaller side is at most this are decomposed through their Gram matrix; larger ones by a sketch."""
SKETCH = 128
"""Directions kept of a larger matrix."""
OVERSAMPLING = 32
"""Further random directions of a sketch, which only make the kept ones better."""
POWER_STEPS = 2
"""Times a sketch is multiplied by τ τᵀ: each step makes what it misses weaker."""
FLOOR = 1e-6
"""Singular values at or below this share of the largest count as 0: their squares are lost in float64, and changes
that are stored in 32 bits hold no more."""


@dataclass(eq=False)
class Singular:
    """Singular values of τ [m, n], largest first, and the vectors that belong to them.

    `values` [r] float64 are above `FLOOR` of the largest, so r is the rank, or of a sketch at most SKETCH. A sketch
    never overstates: σ̂_j ≤ σ_j, and Σ_{j≤k} (σ_j² − σ̂_j²) ≤ unseen · ‖τ‖² for every k, because τᵀτ = BᵀB + RᵀR with
    B the part of τ inside the sketched space and R the rest. `unseen` = ‖R‖² / ‖τ‖², in [0, 1]; 0 where exact.
    Vectors of the other side are formed when asked for: v_j = τᵀ u_j / σ_j. They are orthonormal to about
    1e-16 (σ_1 / σ_j)².
    """

    matrix: Tensor = field(repr=False)
    values: Tensor
    squared_norm: float
    unseen: float
    wide: bool
    vectors: Tensor = field(repr=False)
    _others: Tensor | None = field(default=None, repr=False)

    @property
    def exact(self) -> bool:
        """Whether every singular value is known (a sketch that leaves nothing out is exact too)."""
        return self.unseen == 0

    def left(self, rank: int) -> Tensor:
        """The strongest `rank` left vectors as columns, [m, min(rank, r)], float64."""
        return self.vectors[:, :rank] if self.wide else self._other(rank)

    def right(self, rank: int) -> Tensor:
        """The strongest `rank` right vectors as columns, [n, min(rank, r)], float64."""
        return self._other(rank) if self.wide else self.vectors[:, :rank]

    def _other(self, rank: int) -> Tensor:
        rank = min(rank, len(self.values))
        if self._others is None or self._others.shape[1] < rank:
            across = self.matrix.double() if not self.wide else self.matrix.double().T
            self._others = across @ self.vectors[:, :rank] / self.values[:rank]
        return self._others[:, :rank]


def decompose(matrix: Tensor, seed: int) -> Singular:
    """Singular values and vectors of a matrix [m, n]; a zero or empty matrix has none.

    `seed` draws the sketch of a matrix whose smaller side is above `EXACT_SIDE`; others need no chance.
    Papers: Finding Structure with Randomness: Probabilistic Algorithms for Constructing Approximate Matrix
    Decompositions, algorithms 4.4 and 5.1; the bound is Ky Fan's inequality.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    across = (matrix if wide else matrix.T).double()
    squared_norm = float(across.square().sum())
    if not squared_norm:
        none = torch.zeros((across.shape[0], 0), dtype=torch.float64, device=matrix.device)
        return Singular(matrix, none.new_zeros(0), 0.0, 0.0, wide, none)
    if across.shape[0] <= EXACT_SIDE:
        values, vectors = _of_gram(across @ across.T)
        return Singular(matrix, values, squared_norm, 0.0, wide, vectors)
    basis = _sketch(across, seed)
    inside = basis.T @ across
    values, turned = _of_gram(inside @ inside.T)
    unseen = max(0.0, 1 - float(inside.square().sum()) / squared_norm)
    if unseen < 1e-12 and len(values) <= SKETCH:  # a matrix of low rank lies in the sketched space as a whole
        unseen = 0.0
    return Singular(matrix, values[:SKETCH], squared_norm, unseen, wide, basis @ turned[:, :SKETCH])


def _of_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values above the floor, descending, and their vectors as columns, from A Aᵀ."""
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp(min=0).sqrt()
    kept = int((values > FLOOR * values[0]).sum())
    return values[:kept], vectors.flip(1)[:, :kept]


def _sketch(across: Tensor, seed: int) -> Tensor:
    """An orthonormal basis of a random part of the column space, bent towards the strongest directions."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((across.shape[1], SKETCH + OVERSAMPLING), dtype=torch.float64, generator=generator)
    basis = torch.linalg.qr(across @ drawn.to(across.device))[0]
    for _ in range(POWER_STEPS):
        basis = torch.linalg.qr(across @ torch.linalg.qr(across.T @ basis)[0])[0]
    return basis
