"""Where kernels get their numbers: aligned base and task tensors, read in flat slices.

A kernel never sees a file or a model. It sees a `Source`: state dicts in memory, checkpoints on disk, or the
resident arena. All three give the same bits, so preview and export agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 18
"""Elements of one chunk: T = 8 float32 deltas of it are 8 MiB, about a second-level cache."""

GIVEN_KINDS = ("fisher", "gram")
"""What a source may hold beside weights, measured on each task's data: F_t of a tensor, and X_tᵀX_t of its inputs."""


class Source(Protocol):
    """Aligned tensors of a base and T tasks."""

    tasks: tuple[str, ...]
    names: tuple[str, ...]
    device: torch.device

    @property
    def digest(self) -> str:
        """Changes whenever any value could have changed; a cache key."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        ...

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice [stop - start] of θ_0, stored dtype."""
        ...

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice [stop - start] of θ_t, stored dtype; of τ_t itself where `holds_delta`."""
        ...

    def holds_delta(self, index: int, name: str) -> bool:
        """Whether `task` gives the difference τ_t in place of θ_t: an adapter's ΔW, never rounded into weights."""
        ...

    def unchanged(self, index: int, name: str) -> bool:
        """Whether it is known without reading that θ_t is θ_0 here, as where an adapter leaves a tensor alone."""
        ...

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """A statistic of θ_t on its own data for one tensor, or None: "fisher" [*shape], "gram" [in, in]."""
        ...

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """Size of what `given` would return, 0 for None; reads no values."""
        ...


@dataclass(frozen=True)
class Chunk:
    """A flat slice [start, stop) of one tensor."""

    name: str
    start: int
    stop: int


def numel(source: Source, name: str) -> int:
    """Number of elements of one tensor; 1 for a scalar."""
    count = 1
    for size in source.shape(name):
        count *= size
    return count


def chunks(source: Source, chunk_elements: int = CHUNK_ELEMENTS) -> Iterator[Chunk]:
    """Every element of every tensor once, in name order; an empty tensor gives no chunk."""
    for name in source.names:
        total = numel(source, name)
        for start in range(0, total, chunk_elements):
            yield Chunk(name, start, min(start + chunk_elements, total))


def arithmetic_dtype(source: Source, name: str) -> torch.dtype:
    """float64 where the base holds float64, else float32."""
    return torch.float64 if source.dtype(name) == torch.float64 else torch.float32


def base_chunk(source: Source, chunk: Chunk) -> Tensor:
    """θ_0 of a chunk in arithmetic precision, [n]."""
    return source.base(chunk.name, chunk.start, chunk.stop).to(arithmetic_dtype(source, chunk.name))


def deltas(source: Source, chunk: Chunk) -> Tensor:
    """Task vectors τ_t = θ_t − θ_0 of a chunk, [T, n], subtracted in arithmetic precision."""
    dtype = arithmetic_dtype(source, chunk.name)
    base = source.base(chunk.name, chunk.start, chunk.stop).to(dtype)
    out = torch.empty((len(source.tasks), base.numel()), dtype=dtype, device=base.device)
    for index in range(len(source.tasks)):
        task = source.task(index, chunk.name, chunk.start, chunk.stop).to(dtype)
        if source.holds_delta(index, chunk.name):
            out[index] = task
        else:
            torch.sub(task, base, out=out[index])
    return out


class StateDictSource:
    """State dicts in memory as a source. `names` must be aligned: same shape everywhere, floating point.

    `given`: task -> what was measured on its data, under the keys of a statistics file (`fisher/NAME`, `gram/NAME`).
    """

    resident = True

    def __init__(
        self,
        base: Mapping[str, Tensor],
        tasks: Mapping[str, Mapping[str, Tensor]],
        names: Sequence[str] | None = None,
        *,
        given: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        self.names = tuple(sorted(names if names is not None else base))
        self.device = next((base[n].device for n in self.names), torch.device("cpu"))
        self._base = {n: base[n].detach().reshape(-1) for n in self.names}
        self._shapes = {n: tuple(base[n].shape) for n in self.names}
        self._tasks = [{n: sd[n].detach().reshape(-1) for n in self.names} for sd in tasks.values()]
        self._given = [dict((given or {}).get(task, {})) for task in tasks]
        self.digest = f"memory-{id(self):x}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        return self._base[name].dtype

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_0."""
        return self._base[name][start:stop]

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_t."""
        return self._tasks[index][name][start:stop]

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """A statistic of θ_t for one tensor, or None."""
        return self._given[index].get(f"{kind}/{name}")

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """Size of what `given` would return; 0 for None."""
        held = self.given(kind, index, name)
        return 0 if held is None else held.nbytes

    def holds_delta(self, index: int, name: str) -> bool:
        """Never: state dicts hold weights."""
        return False

    def unchanged(self, index: int, name: str) -> bool:
        """Never known without reading."""
        return False
