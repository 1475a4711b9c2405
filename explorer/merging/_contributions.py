"""Sums behind "what changed and why": what each task put into a merge, from the merged weights as they are.

For any method, without knowing which. With m = θ_m − θ_0 the merged update (θ_0 stored as θ_m is, so that the rounding
of weights that nobody changed does not count) and τ_t the task vectors, everything follows from sums over weights:
⟨m, m⟩, ⟨m, τ_t⟩, and Σ τ_t² where m is 0 and where it has the other sign. They add up, so every level is exact. What
does not depend on the merge (all ⟨τ_s, τ_t⟩, and what plain averaging would do) is summed once per set of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.compute import readiness
from explorer.compute.addresses import KINDS, UNREADABLE, Addresses, addresses_of
from explorer.compute.source import Chunk, Source, base_chunk, chunks, deltas, numel
from explorer.executor import CancelToken, Executor, SerialExecutor
from explorer.merging._cast import cast
from explorer.merging._fused_all import segments_of

DOT, DROPPED, OPPOSED = range(3)
_CHUNK, _DEVICE_CHUNK = 1 << 17, 1 << 23
Weights = Mapping[str, Tensor]
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Reference:
    """Per tensor, what does not depend on the merge: `gram` [N, T, T] of all ⟨τ_s, τ_t⟩, and for the plain average of
    the task vectors the norms² it drops and out-votes, `lost` [N, T, 2].
    """

    gram: np.ndarray
    lost: np.ndarray

    @property
    def size_bytes(self) -> int:
        """Memory of the sums."""
        return self.gram.nbytes + self.lost.nbytes


@dataclass(frozen=True, eq=False)
class Sums:
    """Per tensor of a merge: `squares` [N, R] of ⟨m, m⟩ for one merged row or one per task, and `found` [N, T, 3]:
    ⟨m, τ_t⟩, Σ τ_t² where m = 0, Σ τ_t² where m · τ_t < 0. Task t is compared with its own row where there is one.
    """

    squares: np.ndarray
    found: np.ndarray


def reference_sums(source: Source, *, executor: Executor | None = None, cancel: CancelToken | None = None) -> Reference:
    """One pass over base and tasks; float64, added in chunk order. Raises Cancelled."""
    pool, count = executor or SerialExecutor(), len(source.tasks)
    made = Reference(np.zeros((len(source.names), count, count)), np.zeros((len(source.names), count, 2)))
    read = _compiled_reference(source, made, pool, cancel)
    for index, (gram, lost) in _in_chunks(source, read, lambda c: _chunk_reference(source, c), pool, cancel):
        made.gram[index] += gram
        made.lost[index] += lost
    return made


def _compiled_reference(source: Source, made: Reference, pool: Executor, cancel: CancelToken | None) -> np.ndarray:
    """Fills the sums of what the compiled loop can read; the indices of those tensors."""
    table, count = addresses_of(source) if readiness.ready() else None, len(source.tasks)
    if table is None:
        return np.zeros(0, int)
    chosen = np.flatnonzero((table.kinds != UNREADABLE).all(axis=1) & (table.sizes > 0))
    if len(chosen):
        segments, calls = segments_of(chosen, table.sizes)
        gram, lost = np.zeros((len(segments), count, count)), np.zeros((len(segments), count, 2))
        fixed = (segments, table.places, table.kinds, gram, lost)
        _run(lambda call: _kernels().reference_sums(*call, *fixed), calls, pool, cancel)
        np.add.at(made.gram, segments[:, 0], gram + np.triu(gram, 1).transpose(0, 2, 1))
        np.add.at(made.lost, segments[:, 0], lost)
    return chosen


def _chunk_reference(source: Source, chunk: Chunk) -> Pair:
    single = deltas(source, chunk)
    total, rows = torch.zeros_like(single[0]), single.double()
    for row in single:
        total += row
    squares = rows.square()
    missed = [(squares * (total == 0)).sum(1), (squares * (rows * total < 0)).sum(1)]
    return (rows @ rows.T).cpu().numpy(), torch.stack(missed, 1).cpu().numpy()


def contribution_sums(
    source: Source,
    rows: Sequence[Weights],
    *,
    executor: Executor | None = None,
    cancel: CancelToken | None = None,
) -> Sums:
    """One read of base, tasks and merged rows: (T + 1 + R) / (T + 1) times a read of the models.

    `rows`: the merged tensors as they are stored, one mapping for all tasks, or one per task in the source's order.
    Resident weights on the processor are read by a compiled loop; anything else in chunks by torch. Raises Cancelled.
    """
    pool, count = executor or SerialExecutor(), len(source.tasks)
    sums = Sums(np.zeros((len(source.names), len(rows))), np.zeros((len(source.names), count, 3)))
    read = _compiled(source, rows, sums, pool, cancel)
    for index, (squares, found) in _in_chunks(source, read, lambda c: _chunk_sums(source, rows, c), pool, cancel):
        sums.squares[index] += squares
        sums.found[index] += found
    return sums


def _in_chunks(
    source: Source, read: np.ndarray, one: Callable[[Chunk], Pair], pool: Executor, cancel: CancelToken | None
) -> Iterator[tuple[int, Pair]]:
    """The index of its tensor and the sums of every chunk of tensors that are not `read` already."""
    done, place = set(read.tolist()), {n: i for i, n in enumerate(source.names)}
    size = _CHUNK if source.device.type == "cpu" else _DEVICE_CHUNK
    pieces = [c for c in chunks(source, size) if place[c.name] not in done]
    found = pool.map(one, pieces, total=len(pieces), label="contributions", cancel=cancel)
    for piece, sums in zip(pieces, found, strict=True):
        yield place[piece.name], sums


def _run(call: Callable[[Any], None], calls: Sequence[Any], pool: Executor, cancel: CancelToken | None) -> None:
    for _ in pool.map(call, calls, total=len(calls), label="contributions", cancel=cancel):
        pass


def _chunk_sums(source: Source, rows: Sequence[Weights], chunk: Chunk) -> Pair:
    base, moved = base_chunk(source, chunk), deltas(source, chunk).double()
    stored = [row[chunk.name].reshape(-1)[chunk.start : chunk.stop] for row in rows]
    change = torch.stack([w.to(base.dtype) - cast(base, w.dtype).to(base.dtype) for w in stored]).double()
    squares = moved.square()
    product = moved * change  # one row serves all tasks, or each its own
    found = [product.sum(1), (squares * (change == 0)).sum(1), (squares * (product < 0)).sum(1)]
    return change.square().sum(1).cpu().numpy(), torch.stack(found, 1).cpu().numpy()


@cache
def _kernels() -> ModuleType:
    """The compiled loop; imported when first needed, because that takes a second."""
    from explorer.merging import _contribution_kernels

    return _contribution_kernels


def _compiled(
    source: Source, rows: Sequence[Weights], sums: Sums, pool: Executor, cancel: CancelToken | None
) -> np.ndarray:
    """Fills the sums of what the compiled loop can read; the indices of those tensors."""
    table = addresses_of(source) if readiness.ready() else None
    if table is None:
        return np.zeros(0, int)
    chosen = _readable(source, table, rows)
    if not len(chosen):
        return chosen
    merged = np.zeros((len(table.names), len(rows)), np.int64)
    kinds = np.zeros(len(table.names), np.int64)
    for index in chosen.tolist():
        held = [row[table.names[index]] for row in rows]
        merged[index], kinds[index] = [w.data_ptr() for w in held], KINDS[held[0].dtype]
    segments, calls = segments_of(chosen, table.sizes)
    squares = np.zeros((len(segments), len(rows)))
    found = np.zeros((len(segments), len(source.tasks), 3))
    fixed = (segments, table.places, table.kinds, merged, kinds, squares, found)
    _run(lambda call: _kernels().contribution_sums(*call, *fixed), calls, pool, cancel)
    np.add.at(sums.squares, segments[:, 0], squares)
    np.add.at(sums.found, segments[:, 0], found)
    return chosen


def _readable(source: Source, table: Addresses, rows: Sequence[Weights]) -> np.ndarray:
    """Indices of the tensors that the loop can read: of the models and of every merged row."""
    whole = [all(_plain(row[n], numel(source, n)) for row in rows) for n in table.names]
    same = [len({row[n].dtype for row in rows}) == 1 for n in table.names]
    known = (table.kinds != UNREADABLE).all(axis=1) & (table.sizes > 0)
    return np.flatnonzero(known & np.array(whole, bool) & np.array(same, bool))


def _plain(tensor: Tensor, size: int) -> bool:
    held = tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in KINDS
    return held and tensor.numel() == size
