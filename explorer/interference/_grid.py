"""Whole-model magnitude thresholds of every task at several densities at once, exactly.

A few densities are found task by task by `select`, in one pass each where compiled loops serve. More are found by
two passes of compiled loops over all models together, in 128 KiB per task and density, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from explorer.compute import select
from explorer.compute.source import Chunk, Source, chunks, deltas, numel
from explorer.executor import CancelToken, Executor
from explorer.interference import _fused

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Trim densities that a survey can hold side by side, so that a slider moves among them without a new pass."""
_PIECE_ELEMENTS = 1 << 22
_FEW = 5
"""Up to so many densities, brackets around them need less than counting all digits."""


@cache
def _kernels() -> ModuleType:
    from explorer.interference import _fused_digits

    return _fused_digits


def thresholds(
    source: Source, densities: Sequence[float], denominator: str, executor: Executor, cancel: CancelToken | None
) -> Tensor:
    """Per density and task, the magnitude from which on entries are kept, [J, T]; ties are kept, density 1 keeps all.

    `denominator` "changed" takes each density of the weights that any task changed.
    """
    counted = sum(numel(source, name) for name in source.names)
    if denominator == "changed":
        pieces = list(chunks(source))
        changed = lambda c: int((deltas(source, c) != 0).any(0).sum())  # noqa: E731
        counted = sum(executor.map(changed, pieces, total=len(pieces), label="count changed weights", cancel=cancel))
    ranks = [select.kept_count(d, counted) for d in densities if d < 1] if counted else []
    compiled = (
        len(ranks) > _FEW and _fused.serves(source) and all(_fused.readable(source, name) for name in source.names)
    )
    found = iter((_by_digits if compiled else _by_select)(source, ranks, executor, cancel))
    nothing = torch.zeros(len(source.tasks), device=source.device)
    return torch.stack([next(found) if d < 1 and counted else nothing for d in densities])


def _by_select(
    source: Source, ranks: Sequence[int], executor: Executor, cancel: CancelToken | None
) -> Sequence[Tensor]:
    if not ranks:
        return []
    scans = [select.scan(source, task, executor=executor, cancel=cancel) for task in range(len(source.tasks))]
    return [torch.stack(row) for row in zip(*(select.at_ranks(values, ranks) for values in scans), strict=True)]


def _by_digits(
    source: Source, ranks: Sequence[int], executor: Executor, cancel: CancelToken | None
) -> Sequence[Tensor]:
    """The k-th largest magnitudes of every task, for every k in `ranks`; one [T] each."""
    if not ranks:
        return []
    kernels, tasks = _kernels(), range(len(source.tasks))
    pieces = list(chunks(source, _PIECE_ELEMENTS))

    def total(count: Callable[[Chunk], np.ndarray]) -> np.ndarray:
        work = executor.map(count, pieces, total=len(pieces), label="thresholds", cancel=cancel)
        return sum((part.astype(np.int64) for part in work), np.zeros((), np.int64))

    def leading(chunk: Chunk) -> np.ndarray:
        counts = np.zeros((len(tasks), kernels.LEADING), np.uint32)
        given, _alive = _fused.addresses(source, chunk)
        kernels.count_leading(*given, _work(), counts)
        return counts

    first = total(leading)
    buckets = [[_bucket(first[t], k) for k in ranks] for t in tasks]
    places = np.full((len(tasks), kernels.LEADING), -1, np.int16)
    for t in tasks:
        for place, bucket in enumerate(sorted({b for b, _ in buckets[t]})):
            places[t, bucket] = place

    def following(chunk: Chunk) -> np.ndarray:
        counts = np.zeros((len(tasks), int(places.max()) + 1, kernels.FOLLOWING), np.uint32)
        given, _alive = _fused.addresses(source, chunk)
        kernels.count_following(*given, _work(), places, counts)
        return counts

    second = total(following)
    bits = np.zeros((len(ranks), len(tasks)), np.int32)
    for t in tasks:
        for j, (bucket, left) in enumerate(buckets[t]):
            bits[j, t] = bucket * kernels.FOLLOWING + _bucket(second[t, places[t, bucket]], left)[0]
    return list(torch.from_numpy(bits).view(torch.float32))


def _bucket(counts: np.ndarray, k: int) -> tuple[int, int]:
    """The bucket that holds the k-th largest value, and which one it is inside that bucket."""
    from_top = counts[::-1].cumsum()
    place = int(np.searchsorted(from_top, k))
    return len(counts) - 1 - place, k - int(from_top[place - 1] if place else 0)


def _work() -> tuple[np.ndarray, ...]:
    block = _kernels().BLOCK
    return (np.empty(block, np.float32), np.zeros(block, np.float32), *(np.empty((2, block), np.float32)))
