"""One chunk of a source, read once: whatever asks for its numbers afterwards gets them from memory."""

from __future__ import annotations

import torch
from torch import Tensor

from explorer.compute.source import Chunk, Source


class HeldChunk:
    """A source that holds the base and every task of one chunk; each is read exactly once, at the beginning.

    Slices outside the chunk are a programming error, but for empty ones, which only tell a dtype.
    """

    def __init__(self, source: Source, chunk: Chunk) -> None:
        self.tasks: tuple[str, ...] = tuple(source.tasks)
        self.names: tuple[str, ...] = (chunk.name,)
        self.device = source.device
        self._source, self._chunk = source, chunk
        self._base = source.base(chunk.name, chunk.start, chunk.stop)
        self._tasks = [
            self._base
            if source.unchanged(t, chunk.name) and not source.holds_delta(t, chunk.name)
            else source.task(t, chunk.name, chunk.start, chunk.stop)
            for t in range(len(self.tasks))
        ]

    @property
    def digest(self) -> str:
        """The digest of the source itself."""
        return self._source.digest

    @property
    def nbytes(self) -> int:
        """Memory of what was read."""
        return self._base.nbytes + sum(t.nbytes for t in self._tasks if t is not self._base)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return self._source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        return self._source.dtype(name)

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_0; a view, not to be written to."""
        return self._slice(self._base, start, stop)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_t, of τ_t where `holds_delta`; a view, not to be written to."""
        return self._slice(self._tasks[index], start, stop)

    def _slice(self, values: Tensor, start: int, stop: int) -> Tensor:
        if start == stop:
            return values[:0]
        if not self._chunk.start <= start < stop <= self._chunk.stop:
            raise ValueError(f"held is [{self._chunk.start}, {self._chunk.stop}); got [{start}, {stop})")
        return values[start - self._chunk.start : stop - self._chunk.start]

    def holds_delta(self, index: int, name: str) -> bool:
        """As the source."""
        return self._source.holds_delta(index, name)

    def unchanged(self, index: int, name: str) -> bool:
        """As the source."""
        return self._source.unchanged(index, name)

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """As the source: statistics belong to whole tensors."""
        return self._source.given(kind, index, name)

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """As the source."""
        return self._source.given_bytes(kind, index, name)
