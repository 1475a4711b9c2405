"""One streaming pass over the weights for any number of metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from explorer.checkpoints.groups import Group, group_of
from explorer.compute import select
from explorer.compute.source import CHUNK_ELEMENTS, Chunk, Source, arithmetic_dtype, base_chunk, chunks, deltas, numel
from explorer.errors import CheckpointError, ParameterError, UnknownNameError, all_problems, near, sentence
from explorer.executor import CancelToken, Executor, Progress, ProgressCallback, ThreadExecutor
from explorer.interference._api import METRICS, Context, Metric, Partial
from explorer.interference._kept import Held, KeptSums, Nothing
from explorer.interference._survey import Planned, Sums, Survey
from explorer.params import Choice, Range, check_values, specs_of
from explorer.results import Result

_PASSED_IN = ("parameters", "executor", "progress", "cancel", "groups", "chunk_elements", "kept")
MOST_WORKERS = 4
"""Threads when no executor is given: chunks side by side, as the operations on one chunk are too short to split."""


@dataclass(frozen=True)
class _Job:
    """A distinct partial function with its parameters; metrics that share it read the same sums."""

    function: Partial
    on: str
    values: Mapping[str, Any]


def collect(
    source: Source,
    metrics: Sequence[str] | None = None,
    *,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    trim_density: Annotated[
        float,
        Range(0, 1, open_low=True, step=0.01),
        "fraction of each task vector kept, by size, before signs are compared",
    ] = 1.0,
    denominator: Annotated[
        str,
        Choice("all", "changed", labels=("all weights", "weights that any task changed")),
        "which weights trimming and mask shares are fractions of",
    ] = "all",
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    groups: Callable[[str], Group] = group_of,
    chunk_elements: int = CHUNK_ELEMENTS,
    kept: KeptSums | None = None,
) -> Survey:
    """The additive sums of several metrics (None: all) over a source, from one pass over its chunks.

    `parameters` are values by metric name. Metrics `on="trimmed"` see, of each task vector, only the entries
    |τ_t| ≥ its exact whole-model threshold for `trim_density` (ties are kept, as the published TIES code does); 1
    keeps all and saves the two passes that find the thresholds. `denominator` "changed" takes the density of the
    positions that any task changed, and is the default of every metric that declares a `denominator`.
    Sums are float64 or int64, added in chunk order: threads give the bits of a serial run. Memory is bounded by
    workers x tasks x chunk (see `fit_memory`), plus the sums. `kept`: where finished tensors are looked up and kept.
    Raises UnknownNameError, ParameterError (all problems at once), CheckpointError naming tensor and task for a
    difference that is not finite, Cancelled.
    """
    started = time.perf_counter()
    rules = check_values(SURVEY_SPECS, {"trim_density": trim_density, "denominator": denominator}, who="survey")
    planned, jobs = _plan(metrics, parameters or {}, rules["denominator"], source.tasks)
    pool = executor or ThreadExecutor(min(MOST_WORKERS, os.cpu_count() or 1))
    trims = any(job.on == "trimmed" for job in jobs) and rules["trim_density"] < 1
    held = kept.of(source, jobs, {**rules, "chunk": chunk_elements}) if kept else Nothing()
    make = partial(_thresholds, source, rules["trim_density"], rules["denominator"], pool, cancel)
    thresholds = held.thresholds(make) if trims else None
    try:
        sums = _all_sums(source, jobs, thresholds, held, chunk_elements, pool, progress, cancel)
    finally:
        held.write()  # of a pass that is cut off, too
    nothing = tuple(_sums(job, torch.zeros((len(source.tasks), 0)), _context(source, None)) for job in jobs)
    provenance = {**_origin(source, thresholds), **rules, "seconds": round(time.perf_counter() - started, 3)}
    return Survey(source.tasks, {n: groups(n) for n in source.names}, planned, sums, nothing, provenance)


def _all_sums(
    source: Source,
    jobs: Sequence[_Job],
    thresholds: Tensor | None,
    held: Held | Nothing,
    chunk_elements: int,
    pool: Executor,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> dict[str, tuple[Sums, ...]]:
    """Per tensor the sums of every job: as kept, else from a pass over the tensors that lack some."""
    sums = {name: [held.find(name, job) for job in range(len(jobs))] for name in source.names}
    missing = {name: [j for j, s in enumerate(several) if s is None] for name, several in sums.items()}
    empty = (Chunk(name, 0, 0) for name in source.names if not numel(source, name))
    pieces = [chunk for chunk in (*chunks(source, chunk_elements), *empty) if missing[chunk.name]]
    found = sum(not some for some in missing.values())
    label = f"survey, {found} of {len(sums)} tensors found" if found else "survey"
    if progress and found and not pieces:
        progress(Progress(found, found, 0.0, label))

    def work(chunk: Chunk) -> tuple[Sums, ...]:
        return _chunk_sums(source, [jobs[j] for j in missing[chunk.name]], thresholds, chunk)

    made = pool.map(work, pieces, total=len(pieces), label=label, progress=progress, cancel=cancel)
    for chunk, several in zip(pieces, made, strict=True):
        mine = sums[chunk.name]
        for job, more in zip(missing[chunk.name], several, strict=True):
            mine[job] = total = _added(mine[job], more)
            if chunk.stop == numel(source, chunk.name):
                held.keep(chunk.name, job, total)
    return {name: tuple(s for s in several if s is not None) for name, several in sums.items()}


def _origin(source: Source, thresholds: Tensor | None) -> dict[str, Any]:
    """What was surveyed, for the provenance of every result."""
    trimmed_at = None if thresholds is None else dict(zip(source.tasks, thresholds.tolist(), strict=True))
    n = sum(numel(source, name) for name in source.names)
    return {"source": source.digest, "tasks": list(source.tasks), "n": n, "trim_thresholds": trimmed_at}


SURVEY_SPECS = specs_of(collect, supplied=_PASSED_IN)
"""The parameters of a survey as a whole, for controls and options."""


def survey(
    source: Source,
    metrics: Sequence[str] | None = None,
    *,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    trim_density: float = 1.0,
    denominator: str = "all",
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    groups: Callable[[str], Group] = group_of,
    chunk_elements: int = CHUNK_ELEMENTS,
    kept: KeptSums | None = None,
) -> dict[str, Result]:
    """One table per metric (None: all), at model, layer, kind, cell and tensor level, from one pass; see `collect`."""
    found = collect(
        source,
        metrics,
        parameters=parameters,
        trim_density=trim_density,
        denominator=denominator,
        executor=executor,
        progress=progress,
        cancel=cancel,
        groups=groups,
        chunk_elements=chunk_elements,
        kept=kept,
    )
    return {name: found.finish(name) for name in found.planned}


def _plan(
    metrics: Sequence[str] | None, parameters: Mapping[str, Mapping[str, Any]], denominator: str, tasks: tuple[str, ...]
) -> tuple[dict[str, Planned], list[_Job]]:
    """What each metric reads, and the distinct partial functions to call. Raises with every problem at once."""
    names = METRICS.names() if metrics is None else tuple(dict.fromkeys(metrics))
    unknown = [
        sentence("metric", "must be a known name", repr(n), near(n, METRICS.names())) for n in names if n not in METRICS
    ]
    if unknown:
        raise UnknownNameError(all_problems("survey", unknown))
    problems = [
        sentence("survey", "parameters name only metrics that are asked for", repr(n), near(n, names))
        for n in parameters
        if n not in names
    ]
    planned: dict[str, Planned] = {}
    jobs: list[_Job] = []
    for name in names:
        metric = METRICS.get(name)
        try:
            values, finish = metric.check(_given(metric, parameters.get(name, {}), denominator), tasks=tasks)
        except ParameterError as error:
            problems.append(str(error))
            continue
        job = _Job(metric.partial, metric.on, values)
        if job not in jobs:
            jobs.append(job)
        planned[name] = Planned(metric, jobs.index(job), values, finish)
    if problems:
        raise ParameterError(all_problems("survey", problems))
    return planned, jobs


def _given(metric: Metric, values: Mapping[str, Any], denominator: str) -> dict[str, Any]:
    """The values given for a metric, with the survey's denominator where the metric declares one."""
    declares = any(spec.name == "denominator" for spec in metric.partial_specs)
    return {**({"denominator": denominator} if declares else {}), **values}


def _thresholds(
    source: Source, density: float, denominator: str, executor: Executor, cancel: CancelToken | None
) -> Tensor:
    """Per task, the magnitude from which on entries are kept, [T]; as many entries as the density says, and ties."""
    counted = sum(numel(source, name) for name in source.names)
    if denominator == "changed":
        pieces = list(chunks(source))
        changed = lambda c: int((deltas(source, c) != 0).any(0).sum())  # noqa: E731
        counted = sum(executor.map(changed, pieces, total=len(pieces), label="count changed weights", cancel=cancel))
    kept = select.kept_count(density, counted)
    found = []
    for task in range(len(source.tasks)):
        values = select.scan(source, task, executor=executor, cancel=cancel)
        found.append(select.kth_largest(values, kept) if kept else torch.zeros((), device=source.device))
    return torch.stack(found)


def _context(source: Source, chunk: Chunk | None, *, unchanged: bool = True, trimmed: bool = False) -> Context:
    if chunk is None or chunk.start == chunk.stop:
        return Context("", 0, source.tasks, partial(torch.zeros, 0), unchanged, trimmed)
    return Context(chunk.name, chunk.start, source.tasks, partial(base_chunk, source, chunk), unchanged, trimmed)


def _chunk_sums(source: Source, jobs: Sequence[_Job], thresholds: Tensor | None, chunk: Chunk) -> tuple[Sums, ...]:
    """Every partial function on one chunk; deltas are formed once, trimmed ones once."""
    if chunk.start == chunk.stop:
        none = torch.zeros((len(source.tasks), 0), dtype=arithmetic_dtype(source, chunk.name))
        return tuple(_sums(job, none, _context(source, None)) for job in jobs)
    raw = deltas(source, chunk)
    low, high = (float(edge) for edge in torch.aminmax(raw))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise CheckpointError(_not_finite(raw, chunk, source.tasks))
    unchanged = low == high == 0
    trimmed = raw
    if thresholds is not None and not unchanged:
        trimmed = torch.where(raw.abs() >= thresholds[:, None], raw, 0)
    out = []
    for job in jobs:
        is_trimmed = job.on == "trimmed" and thresholds is not None
        context = _context(source, chunk, unchanged=unchanged, trimmed=is_trimmed)
        out.append(_sums(job, trimmed if job.on == "trimmed" else raw, context))
    return tuple(out)


def _sums(job: _Job, values: Tensor, context: Context) -> Sums:
    """A partial function's sums as float64 and int64 arrays."""
    found = {}
    for key, value in job.function(values, **job.values, context=context).items():
        wide = torch.float64 if value.is_floating_point() else torch.int64
        found[key] = value.to(device="cpu", dtype=wide).numpy()
    return found


def _added(total: Sums | None, more: Sums) -> Sums:
    return more if total is None else {key: total[key] + more[key] for key in total}


def _not_finite(raw: Tensor, chunk: Chunk, tasks: tuple[str, ...]) -> str:
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
