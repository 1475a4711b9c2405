"""The pass over whole matrices: after the chunks, one tensor of every task at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from explorer.compute.singular import EXACT_SIDE, SKETCH
from explorer.compute.source import Chunk, Source, arithmetic_dtype, deltas, numel
from explorer.errors import CheckpointError
from explorer.executor import CancelToken, Executor, ProgressCallback
from explorer.interference._matrices import MatrixContext, matrix_shape
from explorer.interference._survey import Sums, Survey

LARGE = 1 << 20
"""Elements from which on a matrix is worked on alone: its operations keep all cores busy, and memory stays bounded."""


class Job(Protocol):
    """A partial function and its parameters."""

    @property
    def function(self) -> Callable[..., dict[str, Tensor]]: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


class Kept(Protocol):
    """Where sums of finished tensors are looked up and kept."""

    def find(self, name: str, job: int) -> Sums | None: ...
    def keep(self, name: str, job: int, sums: Sums) -> None: ...


@dataclass(frozen=True)
class _Work:
    source: Source
    jobs: Sequence[Job]
    refuse: Callable[[Tensor, Chunk, tuple[str, ...]], str]
    alone: threading.Lock


def with_matrices(
    found: Survey,
    source: Source,
    jobs: Sequence[Job],
    kept: Kept,
    *,
    refuse: Callable[[Tensor, Chunk, tuple[str, ...]], str],
    executor: Executor,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Survey:
    """The survey with the sums of matrix metrics behind the others, from one pass over whole tensors.

    Every task's matrix is decomposed once, whatever the number of metrics. Memory: of one large matrix at a time
    (of small ones, as many as there are workers) the differences of all T tasks in 32 bits, the vectors of the smaller
    side of each in 64, and about six copies in 64: at most 1.5 T + 6 times the largest matrix in float64.
    `kept`: where finished tensors are looked up and kept, by the number of the job behind those of the survey.
    `refuse` words what is wrong with differences that are not finite. The provenance tells how many tensors were
    decomposed, how many of them by a sketch, and why others were left out.
    Raises CheckpointError naming tensor and task for a difference that is not finite, Cancelled.
    """
    started = time.perf_counter()
    shapes = {name: matrix_shape(source.shape(name), found.groups[name]) for name in source.names}
    chosen = [name for name, shape in shapes.items() if not isinstance(shape, str)]
    work = partial(_matrix_sums, _Work(source, jobs, refuse, threading.Lock()), shapes)
    places = range(len(found.nothing), len(found.nothing) + len(jobs))
    known = {name: tuple(kept.find(name, place) for place in places) for name in chosen}
    by_name = {n: tuple(s for s in several if s is not None) for n, several in known.items() if None not in several}
    missing = [name for name in chosen if name not in by_name]
    done = executor.map(work, missing, total=len(missing), label="matrices", progress=progress, cancel=cancel)
    for name, several in zip(missing, done, strict=True):
        by_name[name] = several
        for place, sums in zip(places, several, strict=True):
            kept.keep(name, place, sums)
    empty = MatrixContext("", source.tasks, torch.zeros((len(source.tasks), 0, 0), device=source.device))
    nothing = tuple(_sums(job, empty) for job in jobs)
    together = {name: (*found.sums.get(name, ()), *by_name.get(name, nothing)) for name in source.names}
    told = {**_told(source, shapes), "matrix_seconds": round(time.perf_counter() - started, 3)}
    return replace(found, sums=together, nothing=(*found.nothing, *nothing), provenance={**found.provenance, **told})


def _told(source: Source, shapes: Mapping[str, tuple[int, int] | str]) -> dict[str, Any]:
    """How many tensors were decomposed and how, and the rest by reason."""
    chosen = {name: shape for name, shape in shapes.items() if not isinstance(shape, str)}
    weights = sum(numel(source, name) for name in chosen)
    sketched = sum(min(shape) > EXACT_SIDE for shape in chosen.values())
    away = dict(Counter(shape for shape in shapes.values() if isinstance(shape, str)))
    return {
        "matrices": len(chosen),
        "matrix_weights": weights,
        "matrices_left_out": away,
        "matrices_sketched": sketched,
        "sketch": f"{SKETCH} directions of matrices whose smaller side is above {EXACT_SIDE}" if sketched else "none",
    }


def _matrix_sums(work: _Work, shapes: Mapping[str, tuple[int, int] | str], name: str) -> tuple[Sums, ...]:
    """Every partial function on one tensor; differences are formed once."""
    source, count = work.source, len(work.source.tasks)
    chunk = Chunk(name, 0, numel(source, name))
    with _turn(work.alone, chunk.stop):
        if all(source.unchanged(index, name) for index in range(count)):
            raw = torch.zeros((count, chunk.stop), dtype=arithmetic_dtype(source, name), device=source.device)
        else:
            raw = deltas(source, chunk)
        if not bool(torch.isfinite(raw.sum(1)).all()) and not bool(torch.isfinite(raw).all()):
            raise CheckpointError(work.refuse(raw, chunk, source.tasks))
        context = MatrixContext(name, source.tasks, raw.reshape(count, *shapes[name]))
        return tuple(_sums(job, context) for job in work.jobs)


def _turn(alone: threading.Lock, elements: int) -> AbstractContextManager[Any]:
    return alone if elements >= LARGE else nullcontext()


def _sums(job: Job, context: MatrixContext) -> Sums:
    """A partial function's sums as float64 and int64 arrays."""
    found: dict[str, np.ndarray] = {}
    for key, value in job.function(context.deltas, **job.values, context=context).items():
        wide = torch.float64 if value.is_floating_point() else torch.int64
        found[key] = value.to(device="cpu", dtype=wide).numpy()
    return found
