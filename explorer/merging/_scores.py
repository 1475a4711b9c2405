"""Exact borders of PCB-Merging's scores in one compiled pass over all tasks, in the way of `compute.brackets`.

A sample brackets each task's border; the pass computes every score once, counts above the bracket and collects inside
it. A bracket that misses is noticed, and then nothing is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.compute import brackets
from explorer.compute.addresses import KINDS
from explorer.compute.brackets import OPEN, ROOM
from explorer.compute.source import Chunk, Source, chunks, numel
from explorer.executor import CancelToken, Executor
from explorer.merging import _fused
from explorer.merging import _fused_options as places
from explorer.merging._fused import INFINITY, Settings, Steps

_CHUNK_ELEMENTS = 1 << 19
_LEAST_KEY = -0x7FFFFFFE


@cache
def _kernels() -> ModuleType:
    """The compiled loops; imported when first needed, as those of `_fused`."""
    from explorer.merging import _fused_scores

    return _fused_scores


def borders(
    steps: Steps, source: Source, rank: Callable[[int], int], executor: Executor, cancel: CancelToken | None = None
) -> Tensor | None:
    """The score of rank `rank(n)` among a task's n scores, and the largest one, [T, 2] float32.

    `steps` are those of the merge, of which neither border nor best is looked at. None where the compiled loops cannot
    read a tensor, for few weights, where a task vector is not finite and where a bracket misses.
    """
    total = sum(numel(source, name) for name in source.names)
    if total < brackets.LEAST or not all(_fused.readable(source, name) for name in source.names):
        return None
    k, numbers, kind = min(max(1, rank(total)), total), *_settings(steps, source)
    sampled = _sampled(source, total, numbers, kind)
    ends = [brackets.bracket(row, k, total, _LEAST_KEY) for row in sampled] if sampled is not None else None
    if ends is None:
        return None
    pieces = list(chunks(source, _CHUNK_ELEMENTS))
    scan = lambda c: _scanned(source, c, numbers, kind, np.array(ends, np.int32))  # noqa: E731
    found = list(executor.map(scan, pieces, total=len(pieces), label="select", cancel=cancel))
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    rows = []
    for task, bracket in enumerate(ends):
        key = _pick(np.concatenate([p[2][task] for p in parts]), bracket, sum(p[0][task] for p in parts), k)
        if key is None:
            return None
        rows.append((key, max(int(p[1][task]) for p in parts)))
    return _numbers(rows)


def _settings(steps: Steps, source: Source) -> tuple[np.ndarray, int]:
    settings = Settings.of(steps, len(source.tasks))
    return settings.numbers, int(settings.options[places.COMBINE])


def _addresses(source: Source, chunk: Chunk) -> tuple[tuple[Any, ...], list[Tensor]]:
    """Addresses and kinds of base and tasks, and the tensors, which must outlive their addresses."""
    base = source.base(chunk.name, chunk.start, chunk.stop).contiguous()
    tasks = [source.task(t, chunk.name, chunk.start, chunk.stop).contiguous() for t in range(len(source.tasks))]
    at = np.array([t.data_ptr() for t in tasks], np.int64)
    return (base.data_ptr(), KINDS[base.dtype], at, np.array([KINDS[t.dtype] for t in tasks], np.int64)), [base, *tasks]


def _sampled(source: Source, total: int, numbers: np.ndarray, kind: int) -> np.ndarray | None:
    """Every task's scores in the windows, as sorted keys [T, samples]; None where a number is not finite."""
    out = []
    for window in brackets.windows(source, source.names, total):
        count = window.stop - window.start
        made = np.empty((len(source.tasks), count), np.int32)
        numbers_at, _alive = _addresses(source, window)
        if _kernels().sample_scores(*numbers_at, count, numbers, kind, made) >= INFINITY:
            return None
        out.append(made)
    return np.sort(np.concatenate(out, axis=1), axis=1)


def _scanned(
    source: Source, chunk: Chunk, numbers: np.ndarray, kind: int, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]] | None:
    """Counts [T, 3], the largest keys [T] and what lies inside the brackets; None where that is too much to keep."""
    tasks, count = len(source.tasks), chunk.stop - chunk.start
    counts, best, held = np.zeros((tasks, 3), np.int64), np.full(tasks, -OPEN, np.int32), np.zeros(tasks, np.int64)
    into = np.empty((tasks, count // 4 + ROOM), np.int32)
    at, _alive = _addresses(source, chunk)
    lows, highs = np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1])
    change, whole = _kernels().scan_scores(*at, count, numbers, kind, lows, highs, counts, best, into, held)
    if change >= INFINITY or not whole:
        return None
    return counts, best, [row[:some].copy() for row, some in zip(into, held, strict=True)]


def _pick(inside: np.ndarray, bracket: tuple[int, int], counts: np.ndarray, k: int) -> int | None:
    """The k-th largest, from what is above, at the ends of its bracket and inside it; None when it is outside."""
    low, high = bracket
    above, at_high, at_low = (int(c) for c in counts)
    left = k - above
    if 0 < left <= at_high:
        return high
    left -= at_high
    if 0 < left <= len(inside):
        return int(np.partition(inside, len(inside) - left)[len(inside) - left])
    return low if 0 < left - len(inside) <= at_low else None


def _numbers(keys: list[tuple[int, int]]) -> Tensor:
    """Scores by their keys."""
    bits = torch.tensor(keys, dtype=torch.int32)
    return torch.where(bits < 0, bits ^ OPEN, bits).view(torch.float32)
