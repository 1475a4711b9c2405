"""One streaming pass over the weights for any number of metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from torch import Tensor

from explorer.checkpoints.groups import Group, group_of
from explorer.compute.source import CHUNK_ELEMENTS, Source, numel
from explorer.errors import ParameterError, UnknownNameError, all_problems, near, sentence
from explorer.executor import CancelToken, Executor, ProgressCallback, ThreadExecutor
from explorer.interference import _grid
from explorer.interference._api import FUSED, METRICS, Metric, chosen_names
from explorer.interference._chunk_pass import Job, chunk_pass, not_finite, nothing
from explorer.interference._kept import KeptSums, Nothing
from explorer.interference._matrix_pass import with_matrices
from explorer.interference._survey import Held, Planned, Survey
from explorer.params import Choice, Range, check_values, specs_of
from explorer.results import Result

_PASSED_IN = ("parameters", "held", "chunk_elements", "kept", "executor", "progress", "cancel", "groups")
MOST_WORKERS = 4
"""Threads when no executor is given: chunks side by side, as the operations on one chunk are too short to split."""


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
    chunk_elements: int = CHUNK_ELEMENTS,
    kept: KeptSums | None = None,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    groups: Callable[[str], Group] = group_of,
) -> Survey:
    """The additive sums of several metrics over a source, from one pass over its chunks.

    `metrics` None takes every metric that sees weights in pieces; those on="matrix", which decompose whole matrices in
    a pass of their own, are computed only when named, or with ["all"].
    `parameters` are values by metric name. Metrics `on="trimmed"` see, of each task vector, only the entries
    |τ_t| ≥ its exact whole-model threshold for `trim_density` (ties are kept, as the published TIES code does); 1
    keeps all and saves the passes that find the thresholds. `held` are more densities (such as `DENSITIES`) whose sums
    are kept for metrics with a fused form, exact like the first: `Survey.finish` moves among them without a pass.
    `denominator` "changed" takes the density of the positions that any task changed, and is the default of every
    metric that declares a `denominator`.
    Sums are float64 or int64, added in chunk order: threads give the bits of a serial run. Memory is bounded by
    workers x tasks x chunk (see `fit_memory`), plus the sums. `kept`: where finished tensors are looked up and kept.
    Raises UnknownNameError, ParameterError (all problems at once), CheckpointError naming tensor and task for a
    difference that is not finite, Cancelled.
    """
    started = time.perf_counter()
    rules = check_values(SURVEY_SPECS, {"trim_density": trim_density, "denominator": denominator}, who="survey")
    planned, jobs = _plan(metrics, parameters or {}, rules["denominator"], source.tasks)
    jobs, matrix_jobs = [j for j in jobs if j.on != "matrix"], [j for j in jobs if j.on == "matrix"]
    first = len(jobs)
    pool = executor or ThreadExecutor(min(MOST_WORKERS, os.cpu_count() or 1))
    densities = tuple(dict.fromkeys((rules["trim_density"], *_checked(held))))
    trims = any(job.on == "trimmed" for job in jobs) and min(densities) < 1
    places = _hold(jobs, densities)
    planned = {n: replace(p, job=p.job + (len(jobs) - first) * (p.job >= first)) for n, p in planned.items()}
    cut = {"denominator": rules["denominator"], "chunk": chunk_elements}
    found = kept.of(source, (*jobs, *matrix_jobs), cut, densities) if kept else Nothing()
    make = partial(_grid.thresholds, source, densities, rules["denominator"], pool, cancel)
    thresholds = found.thresholds(make) if trims else None
    work: dict[str, Any] = {"executor": pool, "progress": progress, "cancel": cancel}
    try:
        sums = chunk_pass(source, jobs, thresholds, found, chunk_elements, **work)
        at = _held(densities, thresholds, places, source.tasks)
        told = {**_origin(source, at[densities[0]]), **rules, "seconds": round(time.perf_counter() - started, 3)}
        made = Survey(
            source.tasks, {n: groups(n) for n in source.names}, planned, sums, nothing(source, jobs), told, at
        )
        return with_matrices(made, source, matrix_jobs, found, refuse=not_finite, **work) if matrix_jobs else made
    finally:
        found.write()  # of a pass that is cut off, too


def _origin(source: Source, first: Held) -> dict[str, Any]:
    """What was surveyed, for the provenance of every result."""
    n = sum(numel(source, name) for name in source.names)
    return {"source": source.digest, "tasks": list(source.tasks), "n": n, "trim_thresholds": first.thresholds}


def _held(
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


def _hold(jobs: list[Job], densities: Sequence[float]) -> list[dict[int, int]]:
    """Adds to `jobs` those of further densities; per density, the number of the job that stands for each."""
    first = dict(enumerate(jobs))
    places: list[dict[int, int]] = [{index: index for index in first}]
    for level in range(1, len(densities)):
        own = {}
        for index, job in first.items():
            if job.on == "trimmed" and job.function in FUSED:
                own[index] = len(jobs)
                jobs.append(Job(job.function, job.on, job.values, level))
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
) -> tuple[dict[str, Planned], list[Job]]:
    """What each metric reads, and the distinct partial functions to call. Raises with every problem at once."""
    names = chosen_names(metrics)
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
    jobs: list[Job] = []
    for name in names:
        metric = METRICS.get(name)
        try:
            values, finish = metric.check(_given(metric, parameters.get(name, {}), denominator), tasks=tasks)
        except ParameterError as error:
            problems.append(str(error))
            continue
        job = Job(metric.partial, metric.on, values)
        if job not in jobs:
            jobs.append(job)
        planned[name] = Planned(metric, jobs.index(job), values, finish)
    if problems:
        raise ParameterError(all_problems("survey", problems))
    return planned, jobs


def _given(metric: Metric, values: Mapping[str, Any], denominator: str) -> dict[str, Any]:
    """The values given for a metric, with the survey's denominator where the metric declares one."""
    declares = any(spec.name == "denominator" for spec in metric.specs)
    return {**({"denominator": denominator} if declares else {}), **values}
