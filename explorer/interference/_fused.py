"""The fused pass of a survey on the processor: every chunk is read once, and all elementwise sums are taken from it.

A metric says beside its partial function which numbers its sums are made of, and how:

    @sign_conflict.fused("signs")
    def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]: ...

The sums are those of the partial function: whole numbers exactly, floating-point ones up to the order of additions. A
metric that does not say so gets its torch tensors of the same chunk. Where a difference is not finite the pass says so
and torch does the chunk over, which raises the right error.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.compute import readiness
from explorer.compute.source import Chunk, Source, numel
from explorer.interference import _nulls
from explorer.interference._sets import Reached, Sets

NEEDS = ("gram", "signs", "mass", "masks", "norms", "sizes", "histogram")
"""What the pass can count: dot products; signs and votes; sizes of sums; TALL masks; norms; dot products of sizes;
histograms of sizes. Changed weights always.
"""

_KINDS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
_INFINITY = 0x7F800000
_LEVELS, _BINS, _COPIES = 40, 512, 8


@dataclass(frozen=True, eq=False)
class Found:
    """Numbers of one chunk of n weights and T tasks; J densities where an entry must be large enough to be kept.

    `gram` [3, T, T]: Σ τ_a τ_b, Σ τ_a² τ_b² and Σ |τ_a τ_b|; `lengths` [T]: Σ|τ|; `histogram` [T, 512, 2]: number and
    sum of squares of the entries per bin of `_magnitudes`; `changed` [T] weights changed, `live` by any task; `both`,
    `opposite` [J, T, T] kept by both tasks, and with opposite signs; `signs` [J, T, 2] kept entries up and down;
    `votes` [J, T + 1, T + 1] weights with p entries up and q down; `mass` [J, 4]: Σ|τ|, Σ|Σ τ|, and the two under
    random signs;
    `reached` and `null_reached` by denominator: weights that reach TALL level 1 … 40, per set of tasks.
    """

    tasks: tuple[str, ...]
    n: int
    live: int
    changed: np.ndarray
    gram: np.ndarray
    base_squared: float
    lengths: np.ndarray
    histogram: np.ndarray
    both: np.ndarray
    opposite: np.ndarray
    signs: np.ndarray
    votes: np.ndarray
    mass: np.ndarray
    reached: Reached
    null_reached: dict[str, Reached]


@cache
def _kernels() -> ModuleType:
    """The compiled loops; imported when first needed, because that takes a second."""
    from explorer.interference import _fused_kernels

    return _fused_kernels


def serves(source: Source) -> bool:
    """Whether the compiled loops are at hand, or worth waiting for; depends on no value."""
    weights = sum(numel(source, name) for name in source.names) * (len(source.tasks) + 1)
    return source.device.type == "cpu" and bool(source.tasks) and readiness.ready(weights)


def readable(source: Source, name: str) -> bool:
    """Whether the compiled loops can read this tensor: half and single precision."""
    empty = [source.base(name, 0, 0), *(source.task(t, name, 0, 0) for t in range(len(source.tasks)))]
    return all(tensor.dtype in _KINDS for tensor in empty)


def addresses(source: Source, chunk: Chunk) -> tuple[tuple[Any, ...], list[Tensor]]:
    """Where a chunk's base and tasks lie, of which kind they are, which of them are differences already, and how many
    elements there are; and the tensors, which must outlive their addresses.
    """
    count = len(source.tasks)
    parts = [source.base(chunk.name, chunk.start, chunk.stop).contiguous()]
    parts += [source.task(t, chunk.name, chunk.start, chunk.stop).contiguous() for t in range(count)]
    given = (
        parts[0].data_ptr(),
        _KINDS[parts[0].dtype],
        np.array([p.data_ptr() for p in parts[1:]], np.int64),
        np.array([_KINDS[p.dtype] for p in parts[1:]], np.int64),
        np.array([source.holds_delta(t, chunk.name) for t in range(count)], np.bool_),
        chunk.stop - chunk.start,
    )
    return given, parts


class Pass:
    """What is the same for every chunk of a pass: the numbers wanted, and magnitudes from which entries are kept.

    `thresholds` [J, T] float32, 0 where everything is kept; `denominators` of the masks' nulls: "all", "changed";
    `chosen`: groups of tasks of which every set is counted.
    """

    def __init__(
        self,
        source: Source,
        needs: Iterable[str],
        thresholds: Tensor,
        denominators: Sequence[str],
        chosen: Sequence[Sequence[int]],
        total: int,
    ) -> None:
        self._source, self._needs, self._total = source, frozenset(needs), total
        self._sets = Sets(len(source.tasks), tuple(map(tuple, chosen)) if "masks" in self._needs else ())
        self._denominators = tuple(denominators)
        count = len(source.tasks)
        bits = thresholds.to(torch.float32).contiguous().view(torch.int32).numpy()
        self._rooms = threading.local()
        self._limits = np.zeros((len(bits), count + -count % 4), np.int32)
        self._limits[:, :count] = np.maximum(bits, 1) - 1

    def run(self, chunk: Chunk) -> Found | None:
        """The numbers of one chunk; None when some difference from the base is not finite."""
        source = self._source
        step = _nulls.every(chunk.stop - chunk.start, self._total)
        words = [_nulls.seed_words(chunk.name, chunk.start, task) for task in source.tasks]
        given, _alive = addresses(source, chunk)
        return self._found(given, np.array(words, np.uint32), step, _nulls.first_block(chunk.name, chunk.start, step))

    def _found(self, given: tuple[Any, ...], words: np.ndarray, step: int, first: int) -> Found | None:
        n, count, densities = given[-1], len(words), len(self._limits)
        rows = self._sets.rows if "masks" in self._needs else 0
        if not hasattr(self._rooms, "work"):
            sized = count if "histogram" in self._needs else 0
            self._rooms.work, self._rooms.table = _work(count, rows), np.zeros((sized, _BINS, _COPIES, 2))
        work, table = self._rooms.work, self._rooms.table
        live = np.empty(n if "masks" in self._needs and "changed" in self._denominators else 0, np.int32)
        gram, mass = np.zeros((3, count, count)), np.zeros((densities, 4))
        base_squared, lengths = np.zeros(1), np.zeros(count)
        histogram = np.zeros((len(table), _BINS, 2))
        changed = np.zeros(count + 1, np.int64)
        both, opposite = (np.zeros((densities, count, count), np.int64) for _ in range(2))
        signs = np.zeros((densities, count, 2), np.int64)
        votes = np.zeros((densities, count + 1, count + 1), np.int64)
        reached = np.zeros((rows, _LEVELS), np.int64)
        wanted = np.array([n in self._needs for n in NEEDS], np.bool_)
        sums = gram, base_squared, mass, lengths, table, histogram
        counts = changed, both, opposite, signs, votes, reached
        sets = self._sets.arrays
        largest = _kernels().collect(*given, wanted, self._limits, words, step, first, sets, work, sums, counts, live)
        if largest >= _INFINITY:
            return None
        votes[:, 0, 0] = n - votes.sum((1, 2))
        mass[:, 2:] *= n / max(_nulls.blocks_elements(n, step, first), 1)
        nulls = {d: self._null(d, given, words, step, live[: changed[-1]], work) for d in self._denominators}
        mirrored = [_mirrored(a) for a in (gram, both, opposite)]
        return Found(
            self._source.tasks, n, int(changed[-1]), changed[:-1], mirrored[0], float(base_squared[0]), lengths,
            histogram, mirrored[1], mirrored[2], signs, votes, mass, Reached(self._sets, reached), nulls,
        )  # fmt: skip

    def _null(
        self,
        denominator: str,
        given: tuple[Any, ...],
        words: np.ndarray,
        step: int,
        live: np.ndarray,
        work: tuple[Any, ...],
    ) -> Reached:
        """How many of all (or of all changed) weights would reach each level by chance."""
        among = given[-1] if denominator == "all" else len(live)
        draws, reached = -(-among // step), np.zeros((self._sets.rows, _LEVELS), np.int64)
        if draws:
            chosen = live if denominator == "changed" else live[:0]
            block = _kernels().BLOCK
            drawn = np.empty(block, np.uint16), np.empty(block, np.int32)
            _kernels().null_levels(*given, draws, words, chosen, drawn, self._sets.arrays, work, reached)
        return Reached(self._sets, reached, among / max(draws, 1))


def _work(count: int, rows: int) -> tuple[Any, ...]:
    """Room for blocks: float32 values, float64 sums, bit planes and levels. What must be 0 is left so by every call."""
    block = _kernels().BLOCK
    words, fours = block // 64, count + -count % 4
    singles = (np.empty(block, np.float32), np.zeros(block, np.float32), np.empty(block, np.float32))
    values = (np.zeros((fours, block), np.float32), np.zeros((fours, block), np.float32))
    planes = np.empty((count + 1, words), np.uint64), np.empty((count, words), np.uint64)
    counters = np.empty((2, count + 1, words), np.uint64)
    room = (
        np.empty(block, np.int32),
        np.empty((count, block + block // 4), np.uint32),
        np.zeros((rows, 2, 32, 8), np.uint32),
        np.empty((8, 8), np.uint32),
    )
    return (
        *singles, *values, np.empty(block), np.empty(block), *planes, counters, room, np.empty_like(planes[1]),
    )  # fmt: skip


def _mirrored(upper: np.ndarray) -> np.ndarray:
    """Symmetric matrices [..., T, T] from their upper triangles."""
    return upper + np.triu(upper, 1).swapaxes(-1, -2)
