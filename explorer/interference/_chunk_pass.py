"""The pass over chunks: every partial function of a survey on every slice of every tensor, added up per tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.compute.source import Chunk, Source, arithmetic_dtype, base_chunk, chunks, deltas, numel
from explorer.errors import CheckpointError, all_problems, sentence
from explorer.executor import CancelToken, Executor, Progress, ProgressCallback
from explorer.interference import _fused, _nulls
from explorer.interference._api import Context, Partial
from explorer.interference._fused_jobs import FusedJobs
from explorer.interference._kept import Held, Nothing
from explorer.interference._survey import Sums


@dataclass(frozen=True)
class Job:
    """A distinct partial function with its parameters; metrics that share it read the same sums."""

    function: Partial
    on: str
    values: Mapping[str, Any]
    level: int = 0
    """Which of the densities a trimmed metric's entries are kept at."""


def chunk_pass(
    source: Source,
    jobs: Sequence[Job],
    thresholds: Tensor | None,
    kept: Held | Nothing,
    chunk_elements: int,
    *,
    executor: Executor,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, tuple[Sums, ...]]:
    """Per tensor the sums of every job: as kept, else from a pass over the tensors that lack some.

    `thresholds` [J, T]: a trimmed metric's job has the row of its `level`; None trims nothing.
    Raises CheckpointError naming tensor and task for a difference that is not finite, Cancelled.
    """
    if not jobs:
        return {name: () for name in source.names}
    sums = {name: [kept.find(name, job) for job in range(len(jobs))] for name in source.names}
    missing = {name: tuple(j for j, s in enumerate(several) if s is None) for name, several in sums.items()}
    empty = (Chunk(name, 0, 0) for name in source.names if not numel(source, name))
    pieces = [chunk for chunk in (*chunks(source, chunk_elements), *empty) if missing[chunk.name]]
    found = sum(not some for some in missing.values())
    label = f"survey, {found} of {len(sums)} tensors found" if found else "survey"
    if progress and found and not pieces:
        progress(Progress(found, found, 0.0, label))
    serves = bool(pieces) and _fused.serves(source)
    parts = {some: [jobs[j] for j in some] for some in missing.values() if some}
    passes = {some: FusedJobs(source, several, thresholds) if serves else None for some, several in parts.items()}

    def work(chunk: Chunk) -> tuple[Sums, ...]:
        some = missing[chunk.name]
        return _chunk_sums(source, parts[some], thresholds, passes[some], chunk)

    made = executor.map(work, pieces, total=len(pieces), label=label, progress=progress, cancel=cancel)
    for chunk, several in zip(pieces, made, strict=True):
        mine = sums[chunk.name]
        for job, more in zip(missing[chunk.name], several, strict=True):
            mine[job] = total = _added(mine[job], more)
            if chunk.stop == numel(source, chunk.name):
                kept.keep(chunk.name, job, total)
    return {name: tuple(s for s in several if s is not None) for name, several in sums.items()}


def nothing(source: Source, jobs: Sequence[Job]) -> tuple[Sums, ...]:
    """The sums of no weights at all."""
    return tuple(_sums(job, torch.zeros((len(source.tasks), 0)), _context(source, None)) for job in jobs)


def _context(source: Source, chunk: Chunk | None, *, unchanged: bool = True, trimmed: bool = False) -> Context:
    if chunk is None or chunk.start == chunk.stop:
        return Context("", 0, source.tasks, partial(torch.zeros, 0), unchanged, trimmed)
    every = _nulls.every(chunk.stop - chunk.start, sum(numel(source, name) for name in source.names))
    base = partial(base_chunk, source, chunk)
    return Context(chunk.name, chunk.start, source.tasks, base, unchanged, trimmed, every)


def _chunk_sums(
    source: Source, jobs: Sequence[Job], thresholds: Tensor | None, fused: FusedJobs | None, chunk: Chunk
) -> tuple[Sums, ...]:
    """Every partial function on one chunk: by the fused pass, or on deltas that are formed once, trimmed ones once."""
    if chunk.start == chunk.stop:
        none = torch.zeros((len(source.tasks), 0), dtype=arithmetic_dtype(source, chunk.name))
        return tuple(_sums(job, none, _context(source, None)) for job in jobs)
    done = fused.sums(chunk) if fused else {}
    if len(done) == len(jobs):
        return tuple(done[index] for index in range(len(jobs)))
    raw = deltas(source, chunk)
    low, high = (float(edge) for edge in torch.aminmax(raw))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise CheckpointError(not_finite(raw, chunk, source.tasks))
    unchanged = low == high == 0
    trimmed = [raw] * (1 if thresholds is None else len(thresholds))
    if thresholds is not None and not unchanged:
        trimmed = [torch.where(raw.abs() >= row[:, None], raw, 0) for row in thresholds]
    out = []
    for index, job in enumerate(jobs):
        if index in done:
            out.append(done[index])
            continue
        is_trimmed = job.on == "trimmed" and thresholds is not None
        context = _context(source, chunk, unchanged=unchanged, trimmed=is_trimmed)
        out.append(_sums(job, trimmed[job.level] if job.on == "trimmed" else raw, context))
    return tuple(out)


def _sums(job: Job, values: Tensor, context: Context) -> Sums:
    """A partial function's sums as float64 and int64 arrays."""
    found = {}
    for key, value in job.function(values, **job.values, context=context).items():
        wide = torch.float64 if value.is_floating_point() else torch.int64
        found[key] = value.to(device="cpu", dtype=wide).numpy()
    return found


def _added(total: Sums | None, more: Sums) -> Sums:
    return more if total is None else {key: total[key] + more[key] for key in total}


def not_finite(raw: Tensor, chunk: Chunk, tasks: tuple[str, ...]) -> str:
    """One sentence per task whose difference from the base is not finite, with the first such position."""
    problems = []
    for task, row in zip(tasks, raw, strict=True):
        bad = (~torch.isfinite(row)).nonzero()
        if len(bad):
            at = int(bad[0])
            got = f"{float(row[at])} at flat position {chunk.start + at}"
            must = f"tensor {chunk.name} must differ from the base by finite numbers"
            problems.append(sentence(f"task {task}", must, got, "Check this checkpoint and the base for NaN and Inf."))
    return all_problems("survey", problems)
