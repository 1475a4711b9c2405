"""Sums of finished tensors on disk, so that a survey goes on where it stopped and is never made twice.

Every partial function of a survey has a folder of its own, named by a digest of all that its sums depend on: the
content of the checkpoints, tasks and tensors; the function and its parameters; what trimming kept; where chunks are
cut; the device; the versions of torch and numpy; and the text of every file of code that has a part in it. So nothing
is ever out of date: what depends on something else has another name. A folder holds parts, and a part the sums of some
tensors. Parts appear whole or not at all and hold numbers only; nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from explorer.compute.source import Source
from explorer.interference._kept_files import forget_stale, packed, read_part, write_part
from explorer.interference._survey import Sums
from explorer.seeds import digest_of

DEFAULT_BUDGET_BYTES = 1 << 30
_ROOMS = ("interference", "compute", "checkpoints")
_BATCH_BYTES = 8 << 20
_THRESHOLDS = "thresholds"


class Job(Protocol):
    """A partial function with its parameters, as a survey plans it."""

    @property
    def function(self) -> Callable[..., Any]: ...
    @property
    def on(self) -> str: ...
    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def level(self) -> int: ...


class KeptSums:
    """The sums of all surveys of one user, in `folder`, at most `budget_bytes` of them.

    The least recently used ones go first. `fresh` looks at nothing that was kept before, and replaces it.
    A folder that cannot be read or written is as good as an empty one.
    """

    def __init__(self, folder: Path, budget_bytes: int = DEFAULT_BUDGET_BYTES, *, fresh: bool = False) -> None:
        self.folder, self.budget_bytes, self.fresh = folder, budget_bytes, fresh

    def of(self, source: Source, jobs: Sequence[Job], rules: Mapping[str, Any], densities: Sequence[float]) -> Held:
        """What is kept of one survey; `rules` are its denominator and chunk size, a job's level says its density."""
        sums_of = [_job_key(source, job, {**rules, "trim_density": densities[job.level]}) for job in jobs]
        held = Held(self, sums_of, _key(source, _THRESHOLDS, densities, sorted(rules.items())), source.device)
        held.read()
        return held

    def make_room(self, wanted_bytes: int, used: Sequence[Path]) -> bool:
        """Whether so many bytes fit, after removing the least recently used folders that are not in use."""
        sizes = {f: _size(f) for f in _folders(self.folder)}
        total = sum(sizes.values())
        for folder in sorted((f for f in sizes if f not in used), key=_last_used):
            if total + wanted_bytes <= self.budget_bytes:
                break
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]
        return total + wanted_bytes <= self.budget_bytes


class Held:
    """What is kept of one survey: found sums by job and tensor, and those to be written with the next part."""

    def __init__(
        self, kept: KeptSums, keys: Sequence[str | None], thresholds: str | None, device: torch.device
    ) -> None:
        self._kept, self._keys, self._thresholds_key, self._device = kept, keys, thresholds, device
        self._found: dict[tuple[str, str], Sums] = {}
        self._waiting: dict[str, dict[str, Sums]] = {}
        self._waiting_bytes = 0
        self._started = self._written = time.monotonic()

    def find(self, name: str, job: int) -> Sums | None:
        """The sums of one tensor for the job of that number, or None."""
        key = self._keys[job]
        return None if key is None else self._found.get((key, name))

    def keep(self, name: str, job: int, sums: Sums) -> None:
        """Keep the sums of a finished tensor: with the next part, which is soon."""
        self._keep(self._keys[job], name, sums)
        # Never more than a twentieth of the work is at stake, and a long survey writes no more parts than that.
        due = max(1.0, (self._written - self._started) / 20)
        if self._waiting_bytes >= _BATCH_BYTES or time.monotonic() - self._written >= due:
            self.write()

    def thresholds(self, make: Callable[[], Tensor]) -> Tensor:
        """The trim thresholds [T] as kept, else `make()`, kept at once: they take passes of their own."""
        key = self._thresholds_key
        found = key and self._found.get((key, _THRESHOLDS))
        if found:
            return torch.from_numpy(found[_THRESHOLDS]).to(self._device)
        made = make()
        self._keep(key, _THRESHOLDS, {_THRESHOLDS: made.cpu().numpy()})
        self.write()
        return made

    def _keep(self, key: str | None, name: str, sums: Sums) -> None:
        if key is not None:
            self._waiting.setdefault(key, {})[name] = sums
            self._waiting_bytes += sum(array.nbytes for array in sums.values())

    def read(self) -> None:
        """Find what earlier surveys kept. A part that cannot be read is removed."""
        for key in {k for k in (*self._keys, self._thresholds_key) if k}:
            folder = self._kept.folder / key
            if self._kept.fresh:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                os.utime(folder)
                forget_stale(folder)
                for part in sorted(folder.glob("*.npz")):
                    self._found.update({(key, name): sums for name, sums in read_part(part, key).items()})

    def write(self) -> None:
        """Write what waits. What does not fit the budget, or cannot be written, is only not kept."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        used = [self._kept.folder / k for k in (*self._keys, self._thresholds_key) if k]
        for key, tensors in waiting.items():
            with contextlib.suppress(OSError, ValueError):  # ValueError: a sum that is no array of numbers
                part = packed(tensors, key)
                if self._kept.make_room(len(part), used):
                    write_part(self._kept.folder / key, part)
        self._written = time.monotonic()


class Nothing:
    """What is kept where nothing is to be kept."""

    def find(self, name: str, job: int) -> Sums | None:
        """None."""
        return None

    def keep(self, name: str, job: int, sums: Sums) -> None:
        """Nothing is kept."""

    def thresholds(self, make: Callable[[], Tensor]) -> Tensor:
        """`make()`."""
        return make()

    def write(self) -> None:
        """Nothing waits."""


class NotKept(Exception):  # noqa: N818 - reads as what happened
    """A value was asked of a `Closed` source."""


class Closed:
    """A source that tells everything but its values: a survey of it succeeds where every sum is kept.

    `device` is where the values would be. Asking for a value raises NotKept.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        self.tasks, self.names, self.device, self.digest = source.tasks, source.names, device, source.digest
        self.shape, self.dtype = source.shape, source.dtype
        self.holds_delta, self.unchanged, self.given_bytes = source.holds_delta, source.unchanged, source.given_bytes

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Raises NotKept."""
        raise NotKept

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Raises NotKept."""
        raise NotKept

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """Raises NotKept."""
        raise NotKept


def _job_key(source: Source, job: Job, rules: Mapping[str, Any]) -> str | None:
    trims = job.on == "trimmed" and rules["trim_density"] < 1
    rules = rules if trims else {k: v for k, v in rules.items() if k not in ("trim_density", "denominator")}
    text = _text_of(job.function)
    if text is None:
        return None
    named = f"{job.function.__module__}.{job.function.__qualname__}"
    return _key(source, named, text, job.on, sorted(job.values.items(), key=str), sorted(rules.items()))


def _key(source: Source, *parts: object) -> str | None:
    """None for a source in memory, whose digest says nothing about its content."""
    if source.digest.startswith("memory-"):
        return None
    return digest_of(_code(), torch.__version__, np.__version__, source.device.type, source.digest, *parts)


def _text_of(function: Callable[..., Any]) -> str | None:
    """The text of a function from outside these rooms; nothing for one within, which `_code` covers."""
    if function.__module__.startswith(tuple(f"explorer.{room}." for room in _ROOMS)):
        return ""
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsource(function)
    return None


@cache
def _code() -> str:
    """Digest of all code that has a part in a sum."""
    here = Path(__file__).parents[1]
    files = sorted(path for room in _ROOMS for path in (here / room).rglob("*.py"))
    return digest_of(*(path.read_text(encoding="utf-8") for path in files))


def _folders(root: Path) -> list[Path]:
    return [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(p.stat().st_size for p in folder.iterdir())
    return 0


def _last_used(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
