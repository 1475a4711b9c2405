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
from explorer.compute.source import Chunk, Source, arithmetic_dtype, base_chunk, chunks, deltas, numel
from explorer.errors import CheckpointError, ParameterError, UnknownNameError, all_problems, near, sentence
from explorer.executor import CancelToken, Executor, ProgressCallback, ThreadExecutor
from explorer.interference import _fused, _grid, _nulls
from explorer.interference._api import FUSED, METRICS, Context, Metric, Partial
from explorer.interference._fused_jobs import FusedJobs
from explorer.interference._survey import Held, Planned, Sums, Survey
from explorer.params import Choice, Range, check_values, specs_of
from explorer.results import Result

_PASSED_IN = ("parameters", "held", "executor", "progress", "cancel", "groups")
MOST_WORKERS = 4
"""Threads when no executor is given: chunks side by side, as the operations on one chunk are too short to split."""


@dataclass(frozen=True)
class _Job:
    """A distinct partial function with its parameters; metrics that share it read the same sums."""

    function: Partial
    on: str
    values: Mapping[str, Any]
    level: int = 0
    """Which of the densities a trimmed metric's entries are kept at."""


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
    held: Sequence[float] = (),
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    groups: Callable[[str], Group] = group_of,
) -> Survey:
    """The additive sums of several metrics (None: all) over a source, from one pass over its chunks.

    `parameters` are values by metric name. Metrics `on="trimmed"` see, of each task vector, only the entries
    |τ_t| ≥ its exact whole-model threshold for `trim_density` (ties are kept, as the published TIES code does); 1
    keeps all and saves the passes that find the thresholds. `held` are more densities (such as `DENSITIES`) whose sums
    are kept for metrics with a fused form, exact like the first: `Survey.finish` moves among them without a pass.
    `denominator` "changed" takes the density of the positions that any task changed, and is the default of every
    metric that declares a `denominator`.
    Sums are float64 or int64, added in chunk order: threads give the bits of a serial run. Memory is bounded by
    workers x tasks x chunk, plus the sums.
    Raises UnknownNameError, ParameterError (all problems at once), CheckpointError naming tensor and task for a
    difference that is not finite, Cancelled.
    """
    started = time.perf_counter()
    rules = check_values(SURVEY_SPECS, {"trim_density": trim_density, "denominator": denominator}, who="survey")
    planned, jobs = _plan(metrics, parameters or {}, rules["denominator"], source.tasks)
    pool = executor or ThreadExecutor(min(MOST_WORKERS, os.cpu_count() or 1))
    densities = tuple(dict.fromkeys((rules["trim_density"], *_checked(held))))
    trims = any(job.on == "trimmed" for job in jobs) and min(densities) < 1
    thresholds = _grid.thresholds(source, densities, rules["denominator"], pool, cancel) if trims else None
    places = _hold(jobs, densities)
    pieces = [*chunks(source), *(Chunk(name, 0, 0) for name in source.names if not numel(source, name))]
    fused = FusedJobs(source, jobs, thresholds) if _fused.serves(source) else None
    work = partial(_chunk_sums, source, jobs, thresholds, fused)
    sums: dict[str, tuple[Sums, ...]] = {}
    found = pool.map(work, pieces, total=len(pieces), label="survey", progress=progress, cancel=cancel)
    for chunk, several in zip(pieces, found, strict=True):
        sums[chunk.name] = _added(sums[chunk.name], several) if chunk.name in sums else several
    nothing = tuple(_sums(job, torch.zeros((len(source.tasks), 0)), _context(source, None)) for job in jobs)
    kept = _kept(densities, thresholds, places, source.tasks)
    provenance = {**_origin(source, kept[densities[0]]), **rules, "seconds": round(time.perf_counter() - started, 3)}
    return Survey(source.tasks, {n: groups(n) for n in source.names}, planned, sums, nothing, provenance, kept)


def _origin(source: Source, first: Held) -> dict[str, Any]:
    """What was surveyed, for the provenance of every result."""
    n = sum(numel(source, name) for name in source.names)
    return {"source": source.digest, "tasks": list(source.tasks), "n": n, "trim_thresholds": first.thresholds}


def _kept(
    densities: Sequence[float], thresholds: Tensor | None, places: list[dict[int, int]], tasks: tuple[str, ...]
) -> dict[float, Held]:
    """Every density of the survey, with the magnitudes from which entries are kept: None where all are."""
    rows = None if thresholds is None else thresholds.tolist()
    at = [dict(zip(tasks, rows[j], strict=True)) if rows and d < 1 else None for j, d in enumerate(densities)]
    return {d: Held(jobs, cut) for d, jobs, cut in zip(densities, places, at, strict=True)}


def _checked(held: Sequence[float]) -> tuple[float, ...]:
    """Densities to hold, each once. Raises ParameterError naming every illegal one."""
    must = "held densities must be in (0, 1]"
    problems = [sentence("survey", must, f"{d:g}", "Use 0.2 for 20 %.") for d in held if not 0 < d <= 1]
    if problems:
        raise ParameterError(all_problems("survey", problems))
    return tuple(dict.fromkeys(held))


def _hold(jobs: list[_Job], densities: Sequence[float]) -> list[dict[int, int]]:
    """Adds to `jobs` those of further densities; per density, the number of the job that stands for each."""
    first = dict(enumerate(jobs))
    places: list[dict[int, int]] = [{index: index for index in first}]
    for level in range(1, len(densities)):
        own = {}
        for index, job in first.items():
            if job.on == "trimmed" and job.function in FUSED:
                own[index] = len(jobs)
                jobs.append(_Job(job.function, job.on, job.values, level))
        places.append(own)
    return places


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


def _context(source: Source, chunk: Chunk | None, *, unchanged: bool = True, trimmed: bool = False) -> Context:
    if chunk is None or chunk.start == chunk.stop:
        return Context("", 0, source.tasks, partial(torch.zeros, 0), unchanged, trimmed)
    every = _nulls.every(chunk.stop - chunk.start, sum(numel(source, name) for name in source.names))
    base = partial(base_chunk, source, chunk)
    return Context(chunk.name, chunk.start, source.tasks, base, unchanged, trimmed, every)


def _chunk_sums(
    source: Source, jobs: Sequence[_Job], thresholds: Tensor | None, fused: FusedJobs | None, chunk: Chunk
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
        raise CheckpointError(_not_finite(raw, chunk, source.tasks))
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


def _sums(job: _Job, values: Tensor, context: Context) -> Sums:
    """A partial function's sums as float64 and int64 arrays."""
    found = {}
    for key, value in job.function(values, **job.values, context=context).items():
        wide = torch.float64 if value.is_floating_point() else torch.int64
        found[key] = value.to(device="cpu", dtype=wide).numpy()
    return found


def _added(total: tuple[Sums, ...], more: tuple[Sums, ...]) -> tuple[Sums, ...]:
    return tuple({key: old[key] + new[key] for key in old} for old, new in zip(total, more, strict=True))


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
