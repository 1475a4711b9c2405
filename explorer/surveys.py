"""Surveys of open models, for the page, the command line and the library: within a memory budget, kept between runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from explorer.checkpoints.files import remember_digests
from explorer.compute.source import Source, arithmetic_dtype
from explorer.errors import InputError, all_problems, near, sentence
from explorer.executor import CancelToken, ProgressCallback, ThreadExecutor
from explorer.interference import (
    DEFAULT_MEMORY_BYTES,
    METRICS,
    Closed,
    KeptSums,
    NotKept,
    Survey,
    chosen_names,
    collect,
    fit_memory,
)
from explorer.opening import OpenModels

WORKERS = 2


def survey_models(
    models: OpenModels,
    metrics: Sequence[str] | None = None,
    *,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    trim_density: float = 1.0,
    denominator: str = "all",
    held: Sequence[float] = (),
    cache: Path | None = None,
    fresh: bool = False,
    budget_bytes: int = DEFAULT_MEMORY_BYTES,
    resident: Callable[[], Source] | None = None,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Survey:
    """The sums of several metrics of open models; `finish` of what comes back makes tables. See `collect`.

    `cache` is the folder where sums of finished tensors are kept: a survey that was stopped goes on there, and one
    that was made before reads no weights. `fresh` makes it anew. None keeps nothing. `budget_bytes` bounds the memory
    of the pass: fewer threads, then smaller chunks. `resident` gives the same tensors in memory, on `device`; it is
    called only where weights must be read.
    Raises as `collect`; ParameterError for a budget that is too small.
    """
    if cache is not None:
        remember_digests(cache / "digests")
    source: Source = models.source
    wide = any(arithmetic_dtype(source, name) == torch.float64 for name in source.names)
    fit = fit_memory(budget_bytes, len(source.tasks), WORKERS, wide=wide)
    kept = KeptSums(cache / "surveys", fresh=fresh) if cache is not None else None

    def made(of: Source) -> Survey:
        return collect(
            of,
            metrics,
            parameters=parameters,
            trim_density=trim_density,
            denominator=denominator,
            held=held,
            executor=ThreadExecutor(fit.workers),
            chunk_elements=fit.chunk_elements,
            kept=kept,
            progress=progress,
            cancel=cancel,
        )

    if kept and resident and not fresh:
        with contextlib.suppress(NotKept):
            return made(Closed(source, device or source.device))
    return made(resident() if resident else source)


def declaring(parameter: str, value: Any, metrics: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Parameters by metric: the value for every metric asked for that declares such a parameter."""
    names = tuple(n for n in chosen_names(metrics) if n in METRICS)
    return {n: {parameter: value} for n in names if any(s.name == parameter for s in METRICS.get(n).specs)}


def only(models: OpenModels, patterns: Sequence[str]) -> OpenModels:
    """The models with the tensors whose names fit a pattern; all of them without patterns.

    `*` stands for anything. A pattern must fit the whole name, or all of it after some dot: `layers.3.*` fits
    `model.layers.3.mlp.up.weight`. Raises InputError naming every pattern that fits no tensor, with near names.
    """
    fits = {p: [n for n in models.names if _fits(n, p)] for p in patterns}
    problems = [
        sentence("--only", "a pattern must fit a tensor", repr(p), _near(p, models.names))
        for p, found in fits.items()
        if not found
    ]
    if problems:
        raise InputError(all_problems("--only", problems))
    wanted = {name for found in fits.values() for name in found}
    return replace(models, names=tuple(n for n in models.names if n in wanted)) if patterns else models


def _fits(name: str, pattern: str) -> bool:
    return any(fnmatchcase(part, pattern) for part in _tails(name))


def _tails(name: str) -> list[str]:
    """The name itself, and what follows each of its dots."""
    return [name, *(name[i + 1 :] for i, letter in enumerate(name) if letter == ".")]


def _near(pattern: str, names: Sequence[str]) -> str:
    """Near names, or a few examples where none is near."""
    plain = pattern.replace("*", "").replace("?", "").strip(".")
    hint = near(plain, dict.fromkeys(tail for name in names for tail in _tails(name)))
    return hint if hint.startswith("Did") else "Names look like " + ", ".join(names[:3]) + "."
