"""The parts of a folder of weight files: which tensors go where, and how bytes get there."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

_BLOCK_BYTES = 1 << 22

Plan = Mapping[str, tuple[Sequence[int], torch.dtype]]


@dataclass(frozen=True)
class WrittenFile:
    """One file of a finished folder."""

    name: str
    size_bytes: int
    sha256: str


@dataclass
class Slot:
    """Where one tensor goes, and how much of it is there."""

    shard: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset_bytes: int
    written: int = 0
    starts: set[int] = field(default_factory=set)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def split(tensors: Plan, shard_bytes: int) -> list[list[str]]:
    """Names per shard, in order: a file is closed before it would pass `shard_bytes`; a larger tensor has its own."""
    shards: list[list[str]] = []
    room = 0
    for name, (shape, dtype) in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        if not shards or (size > room and shards[-1]):
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def write_all(handle: int, data: memoryview, offset: int) -> None:
    """Write all bytes at `offset`; a short write (a nearly full disk) is tried again, so that the cause is raised."""
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done : done + (1 << 30)], offset + done)


def written(path: Path) -> WrittenFile:
    """One finished file with its checksum; reads it."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return WrittenFile(path.name, path.stat().st_size, digest.hexdigest())
