"""Exact k-th largest magnitudes in one compiled pass: a sample brackets each of them, the pass counts what lies above
the bracket and collects what lies inside, and the collected values hold the answer.

A sample can mislead; then what was counted shows that the value lies outside the bracket, and `select` counts digit by
digit instead. The answer is the exact value either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from explorer.compute import readiness
from explorer.compute.source import Chunk, Source, numel

if TYPE_CHECKING:
    from explorer.compute.select import Scan

_KINDS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
LEAST = 1 << 15
"""Fewer elements than this are selected as fast without a sample."""
_LEAST_WINDOWS, _MOST_WINDOWS, _PER_TENSOR = 16, 512, 8
PIECE_ELEMENTS = 1 << 21
ROOM = 4096
"""For one more block than fits, whatever is in it."""
_CLASS_BITS = 10
_FEW = 1 / 64
OPEN = 0x7FFFFFFF
"""An end above every number: nothing is counted there."""


@cache
def _kernels() -> ModuleType:
    from explorer.compute import _bracket_kernels

    return _bracket_kernels


def kth_largest(values: Scan, ranks: Sequence[int]) -> list[Tensor] | None:
    """The k-th largest magnitude for every k in `ranks` (from 1), 0-d float32; None when this way does not serve.

    That is also so when a bracket misses, or holds too many values to be kept.
    """
    if not serves(values):
        return None
    total = values.elements
    sampled = np.sort(_sampled(values, total))
    ends = [bracket(sampled, k, total) for k in ranks]
    lows, highs = (np.array([e[side] for e in ends], np.int32) for side in (0, 1))
    pieces = _pieces(values)
    counts: np.ndarray = np.zeros((len(ranks), 3), np.int64)
    inside: list[np.ndarray | None] = []
    work = values.executor.map(
        lambda c: _scanned(values, c, lows, highs), pieces, total=len(pieces), label="select", cancel=values.cancel
    )
    for part, collected in work:
        counts += part
        inside.append(collected)
    kept = [values for values in inside if values is not None]
    if len(kept) < len(inside):
        return None
    found = [_pick(kept, *ends[r], counts[r], k) for r, k in enumerate(ranks)]
    if any(bits is None for bits in found):
        return None
    return [torch.tensor(bits, dtype=torch.int32).view(torch.float32) for bits in found]


def serves(values: Scan) -> bool:
    """Whether `kth_largest` can find anything here: half and single precision on the processor, and many values."""
    many = values.elements >= LEAST and values.source.device.type == "cpu"
    return many and all(_known(values, name) for name in values.names) and readiness.ready(2 * values.elements)


def _known(values: Scan, name: str) -> bool:
    source = values.source
    if source.holds_delta(values.task, name):
        return False
    return {source.dtype(name), source.task(values.task, name, 0, 0).dtype} <= set(_KINDS)


def _pieces(values: Scan) -> list[Chunk]:
    sizes = [(name, numel(values.source, name)) for name in values.names]
    return [Chunk(n, a, min(a + PIECE_ELEMENTS, s)) for n, s in sizes for a in range(0, s, PIECE_ELEMENTS)]


def _addresses(values: Scan, chunk: Chunk) -> tuple[tuple[int, int, int, int], tuple[Tensor, Tensor]]:
    """Kinds and addresses of base and task, and the tensors, which must outlive their addresses."""
    base = values.source.base(chunk.name, chunk.start, chunk.stop).contiguous()
    task = values.source.task(values.task, chunk.name, chunk.start, chunk.stop).contiguous()
    return (_KINDS[base.dtype], base.data_ptr(), _KINDS[task.dtype], task.data_ptr()), (base, task)


def windows(source: Source, names: Sequence[str], total: int) -> list[Chunk]:
    """About 1/32 of `total` elements, 4096 at least and 2¹⁹ at most, spread evenly over the named tensors."""
    # Tensors differ more from one another than a tensor's parts do.
    count = min(_MOST_WINDOWS, max(_LEAST_WINDOWS, total >> 19, _PER_TENSOR * (len(names) - 1)))
    length = min(max(4096, total // 32), 1 << 19) // count
    found, name_start, places = [], 0, [total * i // count for i in range(count)]
    for name in names:
        size = numel(source, name)
        starts = [p - name_start for p in places if name_start <= p < name_start + size]
        found += [Chunk(name, s, min(s + length, size)) for s in starts]
        name_start += size
    return found


def _sampled(values: Scan, total: int) -> np.ndarray:
    """Bits of the magnitudes in the windows."""
    out = []
    for window in windows(values.source, values.names, total):
        count = window.stop - window.start
        made = np.empty(count, np.int32)
        numbers, _alive = _addresses(values, window)
        _kernels().sample(*numbers, count, made)
        out.append(made)
    return np.concatenate(out)


def bracket(sampled: np.ndarray, k: int, total: int, least: int = 0) -> tuple[int, int]:
    """What the k-th largest lies between, very likely: three standard errors to either side of it in a sorted sample.

    Neighbours are alike, so the sample counts as a quarter of its size. `least` is below or at every number there is.
    """
    share = k / total
    error = 3 * np.sqrt(share * (1 - share) / (len(sampled) / 4)) + 16 / len(sampled)
    place = lambda s: len(sampled) - 1 - int(np.floor(s * len(sampled)))  # noqa: E731
    low, high = place(share + error), place(share - error)
    start = int(sampled[low]) if low >= 0 else least
    if share + error < _FEW and len(sampled) - np.searchsorted(sampled, start) < len(sampled) // 16:
        return start - 1, OPEN  # so few that all are collected, ties included, and none counted
    return start, int(sampled[high]) if high < len(sampled) else OPEN - 1


def _scanned(values: Scan, chunk: Chunk, lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Counts of one piece, and what lies inside the brackets; None when that is too much to keep."""
    count = chunk.stop - chunk.start
    counts, into = np.zeros((len(lows), 3), np.int64), np.empty(count // 4 + ROOM, np.int32)
    numbers, _alive = _addresses(values, chunk)
    found = _kernels().scan(*numbers, count, lows, highs, counts, into)
    return counts, into[:found].copy() if found >= 0 else None


def _pick(collected: list[np.ndarray], low: int, high: int, counts: np.ndarray, k: int) -> int | None:
    """The k-th largest, from what is above, at the ends of its bracket and inside it; None when it is outside."""
    above, at_high, at_low = (int(c) for c in counts)
    if above < k <= above + at_high:
        return high
    return _among(collected, low, high, k - above - at_high, at_low)


def _among(collected: list[np.ndarray], low: int, high: int, k: int, at_low: int) -> int | None:
    """The k-th largest inside the bracket: counted in classes, then the one class that holds it is partitioned."""
    shift = np.int32(max(0, (high - low).bit_length() - _CLASS_BITS))
    classes = np.zeros(((high - low) >> shift) + 2, np.int64)
    bounds = np.int32(low), np.int32(high)
    for values in collected:
        _kernels().tally(values, *bounds, shift, classes)
    above = np.cumsum(classes[-2::-1])[::-1]  # in this class or a higher one
    if not 1 <= k <= above[0]:
        return low if low < high and above[0] < k <= above[0] + at_low else None
    at = int(np.flatnonzero(above >= k)[-1])
    step = 1 << int(shift)
    first, last = max(low + at * step, low + 1), min(low + (at + 1) * step, high) - 1
    own, found = np.empty(int(classes[at]) + 1, np.int32), 0
    for values in collected:
        found = _kernels().within(values, np.int32(first), np.int32(last), own, found)
    place = found - (k - int(above[at] - classes[at]))
    return int(np.partition(own[:found], place)[place])
