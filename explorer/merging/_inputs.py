"""What a merge reads: a source with its tasks in the method's order, and the check that its values are numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.compute.source import Chunk, Source, base_chunk
from explorer.errors import CheckpointError, sentence


@dataclass
class Ordered:
    """A source with its tasks in another order; the same digest, because statistics are kept by task name."""

    source: Source
    order: tuple[int, ...]
    tasks: tuple[str, ...]
    names: tuple[str, ...]
    device: torch.device

    @property
    def digest(self) -> str:
        """The digest of the source itself."""
        return self.source.digest

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self.source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        return self.source.dtype(name)

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_0."""
        return self.source.base(name, start, stop)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_t, t counted in the new order."""
        return self.source.task(self.order[index], name, start, stop)

    def holds_delta(self, index: int, name: str) -> bool:
        """Whether `task` gives τ_t, t counted in the new order."""
        return self.source.holds_delta(self.order[index], name)

    def unchanged(self, index: int, name: str) -> bool:
        """Whether θ_t is known to be θ_0, t counted in the new order."""
        return self.source.unchanged(self.order[index], name)


def ordered(source: Source, order: tuple[int, ...]) -> Source:
    """The source with task `order[i]` in place i; the source itself when nothing moves."""
    if order == tuple(range(len(order))):
        return source
    tasks = tuple(source.tasks[i] for i in order)
    return Ordered(source, order, tasks, source.names, source.device)


def require_finite_base(base: Tensor, chunk: Chunk) -> None:
    """Raise CheckpointError when a chunk of the base holds NaN or an infinity."""
    if not bool(torch.isfinite(base).all()):
        raise _non_finite("the base", chunk.name, int((~torch.isfinite(base)).sum()))


def locate_non_finite(source: Source, chunk: Chunk) -> None:
    """Raise CheckpointError naming who holds a value that is no finite number; do nothing when nobody does."""
    require_finite_base(base_chunk(source, chunk), chunk)
    for index, task in enumerate(source.tasks):
        bad = ~torch.isfinite(source.task(index, chunk.name, chunk.start, chunk.stop))
        if bool(bad.any()):
            raise _non_finite(f"task {task}", chunk.name, int(bad.sum()))


def _non_finite(who: str, name: str, count: int) -> CheckpointError:
    got = f"{count} NaN or infinite value{'s' if count > 1 else ''} in tensor {name}"
    return CheckpointError(sentence(who, "all weights must be finite numbers", got, "Use a checkpoint that is whole."))
