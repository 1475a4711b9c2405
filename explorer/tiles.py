"""One tensor as a picture: additive sums over blocks of weights, at every zoom.

A tensor is seen as a matrix (`Grid`); a block is 2^i rows by 2^j columns of it. Per block: how much all tasks together
want up and down, how much of that pulls against the larger side of its own weight, how many weights have opposite
signs and how many of them chance would give, and each task's net change. Everything is a sum, so coarse blocks are
exact sums of finer ones: `Pyramid` makes one base level in one streaming pass and halves it as often as asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from explorer.compute.matrix_view import MatrixView, Span
from explorer.errors import CheckpointError, ParameterError, sentence
from explorer.executor import CancelToken, Executor, ThreadExecutor

SUMS = ("up", "down", "minority", "both", "opposite", "chance")
"""The channels of a block before one `net` per task: see `block_sums`."""

_MINORITY = SUMS.index("minority")

MOST_BLOCKS = 256
"""Blocks of one window along either side, at most."""

_BASE_BLOCKS = 512
"""Blocks of a pyramid's stored base level along either side, at most: 2 MiB per channel."""

_STEP_ELEMENTS = 1 << 18
"""Weights of one step of the pass, so that memory is bounded by workers x tasks x step."""


def channels(deltas: Tensor) -> list[Tensor]:
    """What `block_sums` adds up, weight by weight: six tensors [r, c] and one per task, from deltas [T, r, c]."""
    up, down = torch.zeros((2, *deltas.shape[1:]), dtype=deltas.dtype, device=deltas.device)
    voters = torch.zeros(deltas.shape[1:], dtype=torch.uint8, device=deltas.device)
    part, changed = torch.empty_like(up), torch.empty_like(voters, dtype=torch.bool)
    for row in deltas:
        up += torch.clamp_min(row, 0, out=part)
        down -= torch.clamp_max(row, 0, out=part)
        voters += torch.ne(row, 0, out=changed)
    opposite = (up > 0) & (down > 0)
    # 1 - 2^(1-m) is 0 for one voter and negative for none
    expected = torch.exp2(voters.to(torch.float32).neg_()).mul_(-2).add_(1).clamp_min_(0)
    return [up, down, torch.minimum(up, down, out=part), voters >= 2, opposite, expected, *deltas]


def block_sums(deltas: Tensor, row_step: int, col_step: int) -> Tensor:
    """Sums over blocks of `row_step` x `col_step` weights of deltas [T, r, c], float64 [6 + T, R, C].

    With u = Σ_t max(τ_t, 0), d = Σ_t max(−τ_t, 0) and m = #{t : τ_t ≠ 0} of one weight, the channels are Σ u (mass
    up), Σ d (mass down), Σ min(u, d) (minority mass), #{m ≥ 2}, #{both signs occur}, Σ_{m ≥ 2} (1 − 2^(1−m)) (how many
    would have both signs if every sign were a fair coin), and Σ τ_t of each task (its net wish). So
    up + down − 2 · minority ≥ |up − down|. Blocks at the lower and right edge may be smaller; no weight, no block.
    Values are summed over the rows of a block in the precision of `deltas`, the rest in float64.
    """
    return torch.stack([added(added(x, row_step, 0), col_step, 1) for x in channels(deltas)])


def added(values: Tensor, step: int, axis: int) -> Tensor:
    """Sums of `step` neighbours along axis 0 or 1 of [r, c]; the last may be of fewer. float64 along axis 1."""
    size = values.shape[axis]
    whole = size // step * step
    dtype = torch.float64 if axis else torch.int32 if values.dtype == torch.bool else values.dtype
    parts = [values.narrow(axis, 0, whole).unflatten(axis, (whole // step, step)).sum(axis + 1, dtype=dtype)]
    if whole < size:
        parts.append(values.narrow(axis, whole, size - whole).sum(axis, keepdim=True, dtype=dtype))
    return torch.cat(parts, axis) if len(parts) > 1 else parts[0]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Blocks of one window: `sums` float64 [6 + T, R, C] (see `block_sums`), weights `n` int64 [R, C].

    `rows` and `cols` are what is covered, in places of the picture; `block` is the height and width of a full block.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    block: tuple[int, int]
    sums: np.ndarray
    n: np.ndarray

    def __getitem__(self, channel: str) -> np.ndarray:
        """One of `SUMS`, [R, C]."""
        return self.sums[SUMS.index(channel)]

    @property
    def net(self) -> np.ndarray:
        """Net wish of each task, [T, R, C]."""
        return self.sums[len(SUMS) :]


class Pyramid:
    """Block sums of one tensor at every zoom: one streaming pass when made, all coarser levels from it.

    `view` says which tensor, tasks, trimming and order of rows and columns. Levels finer than the base (at most 512
    blocks a side) are computed from the few weights of a window when asked for. `row_conflict` [rows] and
    `col_conflict` [cols] are the minority masses of whole rows and columns of the picture, float64.
    Raises CheckpointError when a difference is not finite, Cancelled.
    """

    def __init__(
        self, view: MatrixView, *, executor: Executor | None = None, cancel: CancelToken | None = None
    ) -> None:
        self.view, self.grid = view, view.grid
        self.base_level = _level(self.grid.rows, _BASE_BLOCKS), _level(self.grid.cols, _BASE_BLOCKS)
        self._executor = executor or ThreadExecutor(min(4, os.cpu_count() or 1))
        whole = (0, self.grid.rows), (0, self.grid.cols)
        base, self.row_conflict, self.col_conflict = _summed(view, *whole, self.base_level, self._executor, cancel)
        self._levels = {self.base_level: base}

    @property
    def size_bytes(self) -> int:
        """Memory of the stored level, and of the coarser ones that may come."""
        held = self._levels[self.base_level].nbytes
        return 2 * held + self.row_conflict.nbytes + self.col_conflict.nbytes

    def level(self, row_level: int, col_level: int) -> np.ndarray:
        """All blocks of 2^row_level x 2^col_level weights, [6 + T, R, C]; not finer than `base_level`."""
        wanted, (rows, cols) = (row_level, col_level), self.base_level
        if row_level < rows or col_level < cols:
            raise ValueError(f"Pyramid: levels begin at {self.base_level}; got {wanted}.")
        if wanted not in self._levels:
            axis = 1 if row_level > rows else 2
            finer = self.level(row_level - (axis == 1), col_level - (axis == 2))
            starts = np.arange(0, finer.shape[axis], 2)
            self._levels[wanted] = np.add.reduceat(finer, starts, axis) if len(starts) else finer
        return self._levels[wanted]

    def window(self, rows: Span, cols: Span, most: int = MOST_BLOCKS) -> Tiles:
        """The blocks of rows [start, stop) and columns [start, stop), at most `most` a side, as fine as that allows.

        What reaches beyond the matrix is cut off; what begins or ends within a block is widened to the whole block; an
        empty range shows the nearest row or column. Raises ParameterError unless 1 ≤ most ≤ 256.
        """
        if not 1 <= most <= MOST_BLOCKS:
            must = f"a window must have between 1 and {MOST_BLOCKS} blocks a side"
            raise ParameterError(sentence("tiles", must, most, "Ask for fewer, and zoom in for more detail."))
        row_level, rows = _fitting(rows, self.grid.rows, most)
        col_level, cols = _fitting(cols, self.grid.cols, most)
        steps = 1 << row_level, 1 << col_level
        if row_level >= self.base_level[0] and col_level >= self.base_level[1]:
            (top, bottom), (left, right) = _blocks(rows, steps[0]), _blocks(cols, steps[1])
            sums = self.level(row_level, col_level)[:, top:bottom, left:right]
        else:
            sums, _, _ = _summed(self.view, rows, cols, (row_level, col_level), self._executor)
        edges = (np.append(np.arange(*span, step), span[1]) for span, step in ((rows, steps[0]), (cols, steps[1])))
        return Tiles(rows, cols, steps, sums, self.grid.counts(*edges))


def _summed(
    view: MatrixView, rows: Span, cols: Span, level: Span, executor: Executor, cancel: CancelToken | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of a rectangle of the picture that begins at whole blocks, and the minority masses of its lines.

    Streamed step by step and added in order. Where columns are rearranged, whole rows are read and summed first.
    """
    order = view.col_order
    chosen = None if order is None else torch.from_numpy(order[slice(*cols)].copy()).to(view.source.device)
    row_step, col_step = (1 << one for one in level)
    shape = (-(-(span[1] - span[0]) // step) for span, step in ((rows, row_step), (cols, col_step)))
    out = np.zeros((len(SUMS) + len(view.tasks), *shape))
    of_rows, of_cols = np.zeros(rows[1] - rows[0]), np.zeros(cols[1] - cols[0])

    def one(step: tuple[Span, Span]) -> tuple[np.ndarray, ...]:
        weights = channels(view.deltas(*step))
        strips = [added(x, row_step, 0) for x in weights]
        strips = strips if chosen is None else [x.index_select(1, chosen) for x in strips]
        sums = torch.stack([added(x, col_step, 1) for x in strips])
        lines = weights[_MINORITY].sum(1), strips[_MINORITY].sum(0, dtype=torch.float64)
        return tuple(x.double().cpu().numpy() for x in (sums, *lines))

    whole = view.grid.cols
    steps = list(
        rectangles(rows, cols, row_step, col_step) if chosen is None else rectangles(rows, (0, whole), 1, whole)
    )
    found = executor.map(one, steps, total=len(steps), label="tiles", cancel=cancel)
    for ((top, bottom), (left, _)), (sums, down, along) in zip(steps, found, strict=True):
        left = left - cols[0] if chosen is None else 0
        i, j = (top - rows[0]) // row_step, left // col_step
        out[:, i : i + sums.shape[1], j : j + sums.shape[2]] += sums
        of_rows[top - rows[0] : bottom - rows[0]] += down
        of_cols[left : left + len(along)] += along
    if not np.isfinite(out).all():
        must, advice = f"tensor {view.name} must differ from the base by finite numbers", "Check the checkpoints."
        raise CheckpointError(sentence("tiles", must, "NaN or Inf", advice))
    return out, of_rows, of_cols


def _level(size: int, most: int) -> int:
    """The finest level whose blocks of 2^level cover `size` with at most `most`."""
    return max(0, (-(-size // most) - 1).bit_length()) if size else 0


def _blocks(span: Span, step: int) -> Span:
    return span[0] // step, -(-span[1] // step)


def _fitting(asked: Span, size: int, most: int) -> tuple[int, Span]:
    """The finest level at which a range, cut to the matrix and widened to whole blocks, has at most `most` blocks."""
    start = min(max(asked[0], 0), max(size - 1, 0))
    stop = min(max(asked[1], start + 1), size)
    level = 0
    while True:
        first, last = _blocks((start, stop), 1 << level)
        if last - first <= most:
            return level, (first << level, min(last << level, size))
        level += 1


def rectangles(rows: Span, cols: Span, row_step: int = 1, col_step: int = 1) -> Iterator[tuple[Span, Span]]:
    """Rectangles (rows, columns) of about 2^18 places that cover a larger one, in reading order.

    Their sides are whole blocks, or a power of two of rows within one block, so that blocks are cut between rows only.
    """
    size = cols[1] - cols[0]
    width = max(col_step, _STEP_ELEMENTS // col_step * col_step)
    height = 1 << (max(1, _STEP_ELEMENTS // max(1, min(size, width))).bit_length() - 1)
    for top in range(*rows, height):
        for left in range(*cols, width):
            yield (top, min(top + height, rows[1])), (left, min(left + width, cols[1]))
