"""Low-rank task vectors: slices of s · B @ A, several such products as one, and the best product of a chosen rank.

Products are computed in float64 and rounded once, so a float32 task vector is s · B @ A to half a unit in its last
place. A product is cut into the same blocks of rows whatever slice is asked for; so whole = split, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 15
"""Elements of one block of rows, at least one row: small, because a slice computes whole blocks."""


def product_slice(
    left: Callable[[int, int], Tensor], right: Tensor, scale: float, rows: int, start: int, stop: int
) -> Tensor:
    """Elements [start, stop) of scale · left @ right, flattened in C order, float64, [stop - start].

    `left(first, last)` gives rows [first, last) of the left factor, [last - first, r]; right is [r, columns]. Only
    the rows that cover the slice are asked for.
    """
    columns = right.shape[1]
    if start == stop:
        return torch.zeros(0, dtype=torch.float64)
    height = max(1, BLOCK_ELEMENTS // columns)
    first = start // columns // height * height
    last = min(rows, ((stop - 1) // columns // height + 1) * height)
    given, right = left(first, last), right.to(torch.float64, copy=True)
    out = torch.empty((last - first, columns), dtype=torch.float64)
    for row in range(0, last - first, height):
        # A copy, so that every block begins where a fresh tensor begins: products may differ with alignment.
        block = given[row : row + height].to(torch.float64, copy=True)
        out[row : row + height] = (block @ right).mul_(scale)
    return out.view(-1)[start - first * columns : stop - first * columns]


def concatenate(parts: Sequence[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One product that equals Σ scale · left @ right: (left [m, Σr], right [Σr, n]), float64, scales in the left."""
    lefts = [left.double() * scale for scale, left, _ in parts]
    return torch.cat(lefts, 1), torch.cat([right.double() for _, _, right in parts], 0)


def truncate(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of at most `rank`: (left [m, k], right [k, n]), float64, k = min(rank, m, n).

    left @ right is the truncated singular value decomposition (Eckart-Young). The singular vectors of the shorter side
    come from the eigenvectors of its Gram matrix, the other factor is the matrix projected on them: one matrix
    product and one small eigenproblem in place of a full decomposition.
    """
    wide = matrix.double()
    tall = wide.shape[0] >= wide.shape[1]
    gram = wide.T @ wide if tall else wide @ wide.T
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, : min(rank, *wide.shape)]
    return (wide @ vectors, vectors.T.contiguous()) if tall else (vectors, vectors.T @ wide)


def squared_errors(matrix: Tensor, left: Tensor, right: Tensor) -> tuple[float, float]:
    """||matrix − left @ right||² and ||matrix||² (Frobenius), float64."""
    exact = matrix.double()
    rest = exact - left.double() @ right.double()
    return float(rest.square().sum()), float(exact.square().sum())
