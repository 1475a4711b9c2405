"""Task vectors of one tensor as matrices, read a rectangle at a time, rows in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt, prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from explorer.compute.source import Source, arithmetic_dtype

_MOSTLY = 4
"""Whole rows are read at once where a rectangle takes at least one part in so many of them."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """How a tensor of any shape is laid out as rows and columns.

    A matrix is itself; of more axes the first gives the rows, all others together the columns; a vector is wrapped to
    a near-square in reading order, its last row filled as far as it goes; a scalar is 1 x 1. Place (row, col) is
    always the flat position row · cols + col. A tensor without weights has no rows.
    """

    rows: int
    cols: int
    total: int

    @staticmethod
    def of(shape: Sequence[int]) -> Grid:
        """The grid of a shape."""
        total = prod(shape)
        if not total:
            return Grid(0, 0, 0)
        if len(shape) >= 2:
            return Grid(shape[0], total // shape[0], total)
        cols = isqrt(total - 1) + 1
        return Grid(-(-total // cols), cols, total)

    @property
    def is_full(self) -> bool:
        """Whether every place holds a weight: not so in the last row of most vectors."""
        return self.total == self.rows * self.cols

    def counts(self, row_edges: np.ndarray, col_edges: np.ndarray) -> np.ndarray:
        """Weights in each block between consecutive edges, int64 [R, C]."""
        found = np.diff(row_edges)[:, None] * np.diff(col_edges)[None, :]
        if self.is_full or not found.size:
            return found
        filled = self.total - (self.rows - 1) * self.cols  # places of the last row that hold a weight
        missing = np.maximum(col_edges[1:] - np.maximum(col_edges[:-1], filled), 0)
        has_last = row_edges[1:] == self.rows
        return found - has_last[:, None] * missing[None, :]


@dataclass(frozen=True, eq=False)
class MatrixView:
    """One tensor of a source, as its grid.

    `tasks` are indices into the source's tasks; entries of task t below `thresholds[t]` in size count as 0. An order
    puts row `row_order[i]`, column `col_order[j]` of the tensor at place (i, j) of the picture; only full grids may
    have one. `base` and `deltas` are asked for rows of the picture but columns of the tensor: who wants columns in
    another order can often sum rows first and has less to rearrange.
    """

    source: Source
    name: str
    tasks: tuple[int, ...]
    thresholds: tuple[float, ...] | None = None
    row_order: np.ndarray | None = None
    col_order: np.ndarray | None = None

    @property
    def grid(self) -> Grid:
        """Rows and columns."""
        return Grid.of(self.source.shape(self.name))

    def base(self, rows: Span, cols: Span) -> Tensor:
        """θ_0 of a rectangle in arithmetic precision, [r, c]; 0 at places without a weight."""
        dtype = arithmetic_dtype(self.source, self.name)
        return self._read(partial(self.source.base, self.name), rows, cols).to(dtype)

    def deltas(self, rows: Span, cols: Span) -> Tensor:
        """Trimmed task vectors of a rectangle, [T, r, c] in arithmetic precision; 0 at places without a weight."""
        source, base = self.source, self.base(rows, cols)
        out = torch.zeros((len(self.tasks), *base.shape), dtype=base.dtype, device=base.device)
        for at, task in enumerate(self.tasks):
            if source.unchanged(task, self.name):
                continue
            values = self._read(partial(source.task, task, self.name), rows, cols).to(base.dtype)
            torch.sub(values, 0 if source.holds_delta(task, self.name) else base, out=out[at])
            if self.thresholds is not None and self.thresholds[at] > 0:
                out[at] = functional.hardshrink(out[at], _below(self.thresholds[at], out.dtype))
        return out

    def at(self, row: int, col: int) -> tuple[int, int]:
        """Row and column of the tensor's grid that a place of the picture shows."""
        own_row = row if self.row_order is None else int(self.row_order[row])
        return own_row, col if self.col_order is None else int(self.col_order[col])

    def _read(self, read: Callable[[int, int], Tensor], rows: Span, cols: Span) -> Tensor:
        """A rectangle [r, c] of stored dtype, by a function that reads flat slices."""
        grid = self.grid
        left, right = cols
        if self.row_order is None and (right - left) * _MOSTLY >= grid.cols:
            flat = read(rows[0] * grid.cols, min(rows[1] * grid.cols, grid.total))
            return _filled(flat, rows, grid.cols)[:, left:right]
        own = range(*rows) if self.row_order is None else self.row_order[rows[0] : rows[1]].tolist()
        ends = [(r * grid.cols + left, min(r * grid.cols + right, grid.total)) for r in own]
        lines = [_filled(read(min(start, stop), stop), (0, 1), right - left) for start, stop in ends]
        return torch.cat(lines) if lines else read(0, 0).reshape(0, right - left)


def _below(threshold: float, dtype: torch.dtype) -> float:
    """The next smaller number: |τ| ≥ threshold and |τ| > it are the same, and `hardshrink` is one pass with >."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    return float(np.nextafter(kind(threshold), kind(0)))


def _filled(flat: Tensor, rows: Span, cols: int) -> Tensor:
    """Flat values as rows of `cols`, zeros where the last row ends early."""
    missing = (rows[1] - rows[0]) * cols - flat.numel()
    return (torch.cat([flat, flat.new_zeros(missing)]) if missing else flat).view(rows[1] - rows[0], cols)
