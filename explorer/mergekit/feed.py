"""The inputs of one output tensor as a `Source`, seen from the base or from zero, and how results are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from explorer.checkpoints import Checkpoint
from explorer.compute import readiness
from explorer.compute.source import Chunk, deltas
from explorer.errors import CheckpointError, sentence
from explorer.mergekit.inputs import Out
from explorer.mergekit.schema import ModelRef
from explorer.merging import _fused, cast
from explorer.merging._fused import Steps
from explorer.seeds import stable_seed

HELD_BYTES = 96 << 20
"""Inputs up to this size are read once and held; larger ones are read in slices, once per pass."""
CHUNK = 1 << 17
"""Elements at a time where torch does the work: a few rows of float32 that stay in cache."""


class Feed:
    """Inputs of one output tensor. `against` "base": tasks are the others, and τ = θ − base; "zero": all are tasks.

    `wide` computes in float64. `seed` is the recipe's; every task has a seed of its own from it, the model and the
    tensor's name.
    """

    def __init__(
        self,
        out: Out,
        models: Mapping[ModelRef, Checkpoint],
        *,
        against: str = "base",
        wide: bool = False,
        device: torch.device | None = None,
        seed: int = 0,
    ) -> None:
        self.out, self.device, self.wide = out, device or torch.device("cpu"), wide
        self.names: tuple[str, ...] = (out.name,)
        self.digest = f"feed-{id(self):x}"
        places = out.tasks if against == "base" else tuple(range(len(out.inputs)))
        self.places = places
        self.tasks = tuple(str(out.inputs[i][0]) for i in places)
        self.seeds = tuple(stable_seed(seed, task, out.name) for task in self.tasks)
        self.size = math.prod(out.shape)
        self._inputs = [(models[m], n) for m, n in out.inputs]
        self._base = out.base if against == "base" else None
        small = sum(c.info(n).nbytes for c, n in self._inputs) <= HELD_BYTES
        self._held = [self._read(i, 0, self.size) for i in range(len(self._inputs))] if small else None

    def _read(self, place: int, start: int, stop: int) -> Tensor:
        checkpoint, name = self._inputs[place]
        values = checkpoint.read_flat(name, start, stop)
        if self.wide and values.dtype != torch.float64:
            values = values.double()
        return values.to(self.device)

    def input(self, place: int, start: int, stop: int) -> Tensor:
        """Flat slice of one input, counted as the recipe lists them."""
        return self._held[place][start:stop] if self._held else self._read(place, start, stop)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.out.shape

    def dtype(self, name: str) -> torch.dtype:
        """What the base is stored in; of zeros, that of the first input."""
        return self.base(name, 0, 0).dtype

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of the base, or zeros."""
        if self._base is not None:
            return self.input(self._base, start, stop)
        like = torch.float64 if self.wide or self.input(self.places[0], 0, 0).dtype == torch.float64 else torch.float32
        return torch.zeros(stop - start, dtype=like, device=self.device)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of one task."""
        return self.input(self.places[index], start, stop)

    def given(self, kind: str, index: int, name: str) -> None:
        """Nothing is measured on data here."""
        return None

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """None."""
        return 0

    def holds_delta(self, index: int, name: str) -> bool:
        """Never: adapters are put on their base first."""
        return False

    def unchanged(self, index: int, name: str) -> bool:
        """Never known without reading."""
        return False

    def chunks(self, unit: int = 1, most: int = CHUNK) -> Iterator[Chunk]:
        """The tensor in slices that are multiples of `unit` elements, such as whole rows."""
        step = max(1, unit) * max(1, most // max(1, unit))
        for start in range(0, self.size, step):
            yield Chunk(self.out.name, start, min(start + step, self.size))

    def values(self, place: int) -> Tensor:
        """One whole input in arithmetic precision and its own shape."""
        raw = self.input(place, 0, self.size)
        return raw.to(torch.float64 if raw.dtype == torch.float64 else torch.float32).reshape(self.out.shape)


def merged(feed: Feed, steps: Steps | None, by_torch: Callable[[Chunk], Tensor], unit: int = 1) -> Tensor:
    """The merged tensor as it is stored: by the compiled pass where that knows the steps, else chunk by chunk.

    `by_torch` gives a chunk's weights in arithmetic precision. Raises CheckpointError where a weight is not finite.
    """
    out = torch.empty(feed.size, dtype=feed.out.dtype)
    name = feed.out.name
    compiled = steps is not None and feed.device.type == "cpu" and out.dtype in _fused.KINDS and readiness.ready()
    if compiled and feed.size and _fused.readable(feed, name):
        assert steps is not None
        for chunk in feed.chunks(unit, _fused.FUSED_CHUNK_ELEMENTS):
            if not _fused.write(steps, feed, chunk, [out[chunk.start : chunk.stop]], feed.seeds):
                break
        else:
            return out.view(feed.out.shape)
    for chunk in feed.chunks(unit):
        out[chunk.start : chunk.stop] = stored(by_torch(chunk), feed, out.dtype)
    return out.view(feed.out.shape)


def stored(values: Tensor, feed: Feed, dtype: torch.dtype) -> Tensor:
    """Weights rounded once to the dtype they are kept in. Raises CheckpointError, naming what is not finite."""
    if not bool(torch.isfinite(values).all()):
        bad = [
            str(feed.out.inputs[i][0])
            for i in range(len(feed.out.inputs))
            if not bool(torch.isfinite(feed.input(i, 0, feed.size)).all())
        ]
        must = f"{feed.out.name} must be finite"
        got = f"a value that is no number in {', '.join(bad)}" if bad else "a merged value that is no number"
        raise CheckpointError(sentence("merge", must, got, "Mend that model, or leave it out."))
    return cast(values, dtype)


def weighted(feed: Feed, factors: list[float], divisor: float = 1.0) -> Tensor:
    """base + Σ factor · τ / divisor, stored. Large factors, which nearly cancel, are added in float64."""
    huge = any(abs(f) > 16 * abs(divisor) for f in factors)
    steps = None if huge else Steps("sum", torch.tensor(factors, dtype=torch.float32), divisor=divisor)

    def by_torch(chunk: Chunk) -> Tensor:
        values = deltas(feed, chunk)
        wide = values.double() if huge else values
        total = torch.zeros_like(wide[0]) if len(wide) else torch.zeros(chunk.stop - chunk.start, device=feed.device)
        for row, factor in zip(wide, factors, strict=True):
            total += row * factor
        return (total / divisor).to(values.dtype) + feed.base(chunk.name, chunk.start, chunk.stop).to(values.dtype)

    return merged(feed, steps, by_torch)


def gram(feed: Feed) -> Tensor:
    """Inner products of the tasks' vectors τ, float64 [T, T]."""
    total = torch.zeros((len(feed.tasks),) * 2, dtype=torch.float64, device=feed.device)
    for chunk in feed.chunks():
        block = deltas(feed, chunk).double()
        total += block @ block.T
    return total.cpu()
