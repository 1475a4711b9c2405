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
from explorer.interference._survey import Sums


class Job(Protocol):
    """A distinct partial function with its parameters."""

    @property
    def function(self) -> Partial: ...
    @property
    def on(self) -> str: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


class FusedJobs:
    """The fused part of a survey's jobs. `thresholds` [T] (None: nothing is trimmed) are those of trimmed metrics."""

    def __init__(self, source: Source, jobs: Sequence[Job], thresholds: Tensor | None) -> None:
        self._source = source
        self._jobs = {i: job for i, job in enumerate(jobs) if job.function in FUSED}
        needs = {need for job in self._jobs.values() for need in FUSED[job.function].needs}
        masks = [job.values for job in self._jobs.values() if "masks" in FUSED[job.function].needs]
        nothing = torch.zeros(len(source.tasks))
        levels = [_upwards(nothing if thresholds is None else thresholds)]
        self._raw = 0
        if thresholds is not None and any(job.on == "raw" for job in self._jobs.values()) and self._raw_needs():
            self._raw = len(levels)
            levels.append(nothing)
        total = sum(numel(source, name) for name in source.names)
        denominators = dict.fromkeys(values["denominator"] for values in masks)
        self._pass = Pass(source, needs, torch.stack(levels), tuple(denominators), total)
        self._readable = cache(lambda name: _fused.readable(source, name))

    def _raw_needs(self) -> bool:
        """Whether a metric of untrimmed task vectors reads numbers that are counted per density."""
        needs = [FUSED[job.function].needs for job in self._jobs.values() if job.on == "raw"]
        return any({"signs", "mass"} & set(n) for n in needs)

    def sums(self, chunk: Chunk) -> dict[int, Sums]:
        """The sums of one chunk by the number of the job; none where the pass cannot serve."""
        if not self._jobs or not self._readable(chunk.name):
            return {}
        found = self._pass.run(chunk)
        return {} if found is None else {i: self._sums(job, found) for i, job in self._jobs.items()}

    def _sums(self, job: Job, found: Found) -> Sums:
        made = FUSED[job.function].function(found, 0 if job.on == "trimmed" else self._raw, job.values)
        return {key: np.asarray(value) for key, value in made.items()}


def _upwards(thresholds: Tensor) -> Tensor:
    """The least float32 numbers that are not below these: they keep the same float32 entries."""
    narrow = thresholds.cpu().to(torch.float32)
    above = torch.nextafter(narrow, torch.full_like(narrow, torch.inf))
    return torch.where(narrow.double() < thresholds.cpu().double(), above, narrow)
