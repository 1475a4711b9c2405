"""The one pass of an export: pieces are read, merged and written by several threads at once, in a memory budget.

Every piece is independent: a thread reads it, merges it, hashes it and writes it to its place, while others do the same
with the next ones; so reading, computing and writing overlap, and how much is in memory depends on the budget alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.writer import FolderWriter
from explorer.compute.source import Chunk, Source
from explorer.executor import CancelToken, Progress, ProgressCallback, ThreadExecutor
from explorer.merging import Prepared, merge_piece, piece_bytes, pieces

BUDGET_BYTES = 1 << 30
COPY_ELEMENTS = 1 << 22
"""Elements of a piece of a tensor that keeps the base's values."""
MAX_WORKERS = 8


@dataclass(frozen=True)
class ByteProgress(Progress):
    """How far an export is; `done` and `total` are bytes, read and written ones together."""

    @property
    def bytes_per_second(self) -> float:
        """The rate so far."""
        return self.done / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Portion:
    """One piece of work: a slice of a tensor, whether it is merged, memory while it is made, bytes that it moves."""

    chunk: Chunk
    merged: bool
    memory_bytes: int
    read_bytes: int
    write_bytes: int


@dataclass(frozen=True, eq=False)
class Written:
    """What a pass made: per output folder the digests of every tensor's pieces, and the survival sums in order.

    `steps` are the elements of a piece of each tensor, as its digests count them; `resumed_bytes` were there already.
    """

    digests: tuple[dict[str, list[str]], ...]
    steps: dict[str, int]
    sums: list[Tensor]
    resumed_bytes: int


def portions(prepared: Prepared, source: Source, base: Checkpoint, dtypes: Mapping[str, torch.dtype]) -> list[Portion]:
    """All work of an export in the order of the base's tensors; reads no values."""
    merged, found = set(source.names), []
    models = len(prepared.tasks) if prepared.method.output == "per_task" else 1
    for name, info in base.tensors.items():
        if name in merged:
            stored_bytes = models * dtypes[name].itemsize
            found += [_merged(prepared, source, c, stored_bytes) for c in pieces(prepared, source, name)]
            continue
        for start in range(0, info.numel, COPY_ELEMENTS):
            chunk = Chunk(name, start, min(start + COPY_ELEMENTS, info.numel))
            size = (chunk.stop - start) * info.dtype.itemsize
            found.append(Portion(chunk, False, 2 * size, size, models * size))
    return found


def _merged(prepared: Prepared, source: Source, chunk: Chunk, stored_bytes: int) -> Portion:
    """A piece that is merged; what an adapter leaves alone is not read for its task."""
    count, name, tasks = chunk.stop - chunk.start, chunk.name, range(len(source.tasks))
    own = source.dtype(name).itemsize
    read = own + sum(source.task(t, name, 0, 0).dtype.itemsize for t in tasks if not source.unchanged(t, name))
    need = piece_bytes(prepared, source, chunk) + count * stored_bytes
    return Portion(chunk, True, need, count * read, count * stored_bytes)


def workers() -> int:
    """Threads of a pass: one per core and one that waits for the disk meanwhile."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores + 1)


class Room:
    """A budget of bytes that threads take shares of; what is larger than all of it gets its turn alone."""

    def __init__(self, total_bytes: int) -> None:
        self._total, self._taken = total_bytes, 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, need_bytes: int) -> Iterator[None]:
        """Wait for so much room, and give it back at the end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + need_bytes <= self._total)
            self._taken += need_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= need_bytes
                self._changed.notify_all()


@dataclass(frozen=True, eq=False)
class Pass:
    """Everything that a thread needs to make one portion."""

    prepared: Prepared
    source: Source
    base: Checkpoint
    dtypes: Mapping[str, torch.dtype]
    writers: Sequence[FolderWriter]
    room: Room
    known: Mapping[tuple[str, int], tuple[list[str], list[list[float]]]] = field(default_factory=dict)

    def make(self, portion: Portion) -> tuple[list[str], Tensor | None, bool]:
        """Its digest in every folder, its sums (None for a copy), and whether a killed run had made it."""
        chunk = portion.chunk
        with self.room.of(portion.memory_bytes):
            kept = self._kept(chunk)
            if kept:
                return *kept, True
            values, sums = self._values(portion)
            digests = []
            for writer, part in zip(self.writers, values, strict=True):
                digests.append(digest_of_values(part))
                writer.write_piece(chunk.name, chunk.start, part)
        self.writers[0].note(json.dumps([chunk.name, chunk.start, digests, sums.tolist() if sums is not None else []]))
        return digests, sums, False

    def _values(self, portion: Portion) -> tuple[list[Tensor], Tensor | None]:
        chunk = portion.chunk
        if portion.merged:
            made = merge_piece(self.prepared, self.source, chunk, self.dtypes[chunk.name])
            return made.values, made.sums
        return [self.base.read_flat(chunk.name, chunk.start, chunk.stop)] * len(self.writers), None

    def _kept(self, chunk: Chunk) -> tuple[list[str], Tensor | None] | None:
        """What is noted of this piece, if the bytes on the disk are still those; else it is made anew."""
        noted = self.known.get((chunk.name, chunk.start))
        if noted is None:
            return None
        digests, sums = noted
        for writer, digest in zip(self.writers, digests, strict=True):
            if hashlib.sha256(writer.read_back(chunk.name, chunk.start, chunk.stop)).hexdigest() != digest:
                return None
        for writer in self.writers:
            writer.keep(chunk.name, chunk.start, chunk.stop)
        return digests, torch.tensor(sums, dtype=torch.float64) if sums else None


def digest_of_values(values: Tensor) -> str:
    """The sha256 of a tensor's bytes, hexadecimal."""
    return hashlib.sha256(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()


def noted(lines: Sequence[str]) -> dict[tuple[str, int], tuple[list[str], list[list[float]]]]:
    """What a killed run noted, by tensor and start; lines that are none are left out."""
    found = {}
    for line in lines:
        try:
            name, start, digests, sums = json.loads(line)
        except ValueError:
            continue
        found[name, start] = digests, sums
    return found


def run_pass(
    made: Pass,
    work: Sequence[Portion],
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Written:
    """Make all portions. Raises whatever the first one raises; Cancelled between portions."""
    digests: tuple[dict[str, list[str]], ...] = tuple({n: [] for n in made.base.tensors} for _ in made.writers)
    steps: dict[str, int] = {}
    sums, done, resumed, total = [], 0, 0, sum(p.read_bytes + p.write_bytes for p in work)
    started = time.perf_counter()
    pool = ThreadExecutor(workers()) if made.source.device.type == "cpu" else ThreadExecutor(1)
    found = pool.map(made.make, work, label="writing", cancel=cancel)
    for portion, (own, partial, again) in zip(work, found, strict=True):
        for held, digest in zip(digests, own, strict=True):
            held[portion.chunk.name].append(digest)
        steps.setdefault(portion.chunk.name, portion.chunk.stop - portion.chunk.start)
        if partial is not None:
            sums.append(partial)
        done += portion.read_bytes + portion.write_bytes
        resumed += portion.write_bytes if again else 0
        if progress:
            progress(ByteProgress(done, total, time.perf_counter() - started, "writing"))
    return Written(digests, steps, sums, resumed)
