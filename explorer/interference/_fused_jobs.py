"""Which partial functions of a survey the fused pass answers for, and their sums of one chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from explorer.compute.source import Chunk, Source, numel
from explorer.interference import _fused
from explorer.interference._api import FUSED, Partial
from explorer.interference._fused import Found, Pass
from explorer.interference._sets import chosen_places
from explorer.interference._survey import Sums


class Job(Protocol):
    """A distinct partial function with its parameters."""

    @property
    def function(self) -> Partial: ...
    @property
    def on(self) -> str: ...
    @property
    def level(self) -> int: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


class FusedJobs:
    """The fused part of a survey's jobs. `thresholds` [J, T] (None: nothing is trimmed): a trimmed metric's job has the
    row of its `level`; equal rows are counted once.
    """

    def __init__(self, source: Source, jobs: Sequence[Job], thresholds: Tensor | None) -> None:
        self._source = source
        self._jobs = {i: job for i, job in enumerate(jobs) if job.function in FUSED}
        needs = {need for job in self._jobs.values() for need in FUSED[job.function].needs}
        masks = [job.values for job in self._jobs.values() if "masks" in FUSED[job.function].needs]
        rows: list[Tensor] = []
        self._rows = {i: _row(rows, job, thresholds, len(source.tasks)) for i, job in self._jobs.items()}
        total = sum(numel(source, name) for name in source.names)
        denominators = dict.fromkeys(values["denominator"] for values in masks)
        chosen = [chosen_places(values["chosen"], source.tasks) or [] for values in masks if "chosen" in values]
        levels = torch.stack(rows or [torch.zeros(len(source.tasks))])
        self._pass = Pass(source, needs, levels, tuple(denominators), chosen, total)
        self._readable = cache(lambda name: _fused.readable(source, name))

    def sums(self, chunk: Chunk) -> dict[int, Sums]:
        """The sums of one chunk by the number of the job; none where the pass cannot serve."""
        if not self._jobs or not self._readable(chunk.name):
            return {}
        found = self._pass.run(chunk)
        return {} if found is None else {i: _sums(job, found, self._rows[i]) for i, job in self._jobs.items()}


def _sums(job: Job, found: Found, row: int) -> Sums:
    made = FUSED[job.function].function(found, row, job.values)
    return {key: np.asarray(value) for key, value in made.items()}


def _row(rows: list[Tensor], job: Job, thresholds: Tensor | None, count: int) -> int:
    """Where among `rows` the job's thresholds are; added at the end unless they are there, or nobody counts by them."""
    if not {"signs", "mass"} & set(FUSED[job.function].needs):
        return 0
    trims = thresholds is not None and job.on == "trimmed"
    own = _upwards(thresholds[job.level]) if thresholds is not None and trims else torch.zeros(count)
    for place, row in enumerate(rows):
        if torch.equal(row, own):
            return place
    rows.append(own)
    return len(rows) - 1


def _upwards(thresholds: Tensor) -> Tensor:
    """The least float32 numbers that are not below these: they keep the same float32 entries."""
    narrow = thresholds.cpu().to(torch.float32)
    above = torch.nextafter(narrow, torch.full_like(narrow, torch.inf))
    return torch.where(narrow.double() < thresholds.cpu().double(), above, narrow)
