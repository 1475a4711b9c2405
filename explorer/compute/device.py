"""Where tensors live and are computed on: the processor or one graphics card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from explorer.errors import InputError, sentence

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Device:
    """One usable device: its torch name, a title for people, and its memory in bytes (0 when unknown)."""

    name: str
    title: str
    free_bytes: int
    total_bytes: int

    @property
    def torch(self) -> torch.device:
        """The device as torch knows it."""
        return torch.device(self.name)


def pick_device(name: str | None = None) -> Device:
    """The device of that name; None or "auto" takes the first graphics card, else the processor.

    Known names: `auto`, `cpu`, `cuda`, `cuda:0`, `cuda:1` … Raises InputError for an unknown name, and for a
    graphics card that this machine (or this build of torch) does not have.
    """
    wanted = (name or "auto").strip().lower()
    if wanted == "auto":
        wanted = "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return _processor()
    kind, _, number = wanted.partition(":")
    if kind != "cuda" or not (number.isdigit() or wanted == "cuda"):
        raise InputError(sentence("device", "must be auto, cpu, cuda or cuda:N", repr(name), "Use 'cpu'."))
    index, count = int(number or 0), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        has = "is one graphics card, cuda:0" if count == 1 else f"are {count} graphics cards that torch can use"
        raise InputError(sentence("device", "must be available here", repr(name), f"There {has}; use 'cpu'."))
    free, total = torch.cuda.mem_get_info(index)
    return Device(f"cuda:{index}", torch.cuda.get_device_name(index), free, total)


def _processor() -> Device:
    threads = torch.get_num_threads()
    free, total = _memory()
    return Device("cpu", f"CPU, {threads} thread{'s' if threads != 1 else ''}", free, total)


def _memory() -> tuple[int, int]:
    """Free and total bytes of main memory, within the limit of the control group when there is one."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        free = _available_bytes() or page * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not a POSIX system, or one that does not tell
        return 0, 0
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and limit < total:
        return min(free, max(0, limit - (used or 0))), limit
    return free, total


def _available_bytes() -> int | None:
    """What Linux says programs may still take, which counts file caches as free."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
