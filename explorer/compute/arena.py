"""The resident arena: base and tasks side by side in memory, and rows that receive merged weights.

Moving a slider then reads θ_0 and every θ_t once and writes the merged weights once. The parameters of an evaluated
module are views of the merged row, so nothing is copied or loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from explorer.compute.source import GIVEN_KINDS, Source, numel

_ALIGN_BYTES = 64
"""Tensors begin at multiples of this, as torch allocates them, so matrix products take the same path."""


class Row:
    """Named tensors in one contiguous buffer per dtype: one model's worth of weights.

    `shapes` and `dtypes` say what it holds; the values are zero at first.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, torch.dtype],
        device: torch.device | str = "cpu",
    ) -> None:
        self._shapes = dict(shapes)
        self._places: dict[str, tuple[torch.dtype, int]] = {}
        ends: dict[torch.dtype, int] = {}
        for name, shape in self._shapes.items():
            dtype = dtypes[name]
            step = max(1, _ALIGN_BYTES // dtype.itemsize)
            start = -(-ends.get(dtype, 0) // step) * step
            self._places[name] = (dtype, start)
            ends[dtype] = start + prod(shape)
        self._buffers = {d: torch.zeros(end, dtype=d, device=device) for d, end in ends.items()}

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of one tensor."""
        return self._places[name][0]

    def flat(self, name: str) -> Tensor:
        """Flat view [numel] of one tensor; writing to it writes the row."""
        dtype, start = self._places[name]
        return self._buffers[dtype][start : start + prod(self._shapes[name])]

    def addresses(self, names: Sequence[str]) -> list[int]:
        """Where each of these tensors begins in memory."""
        begins = {dtype: buffer.data_ptr() for dtype, buffer in self._buffers.items()}
        places = (self._places[name] for name in names)
        return [begins[dtype] + start * dtype.itemsize for dtype, start in places]

    def views(self) -> dict[str, Tensor]:
        """Every tensor as a view of its shape; the views share the row's memory."""
        return {name: self.flat(name).view(shape) for name, shape in self._shapes.items()}

    @property
    def resident_bytes(self) -> int:
        """Memory of the buffers, padding included."""
        return sum(b.nbytes for b in self._buffers.values())


class Arena:
    """A source whose base and tasks are resident on one device: the same protocol, the same bits.

    Every model lies in one contiguous buffer per stored dtype; what was measured on data lies beside it. Of an adapter
    only what it changes is kept, as its dense float32 ΔW. The digest is the source's, so statistics that were computed
    from files are valid for the arena too.
    """

    resident = True

    def __init__(self, source: Source, device: torch.device | str = "cpu") -> None:
        self.tasks = tuple(source.tasks)
        self.names = tuple(source.names)
        self.device = torch.device(device)
        self.digest = source.digest
        self._shapes = {n: tuple(source.shape(n)) for n in self.names}
        self._sizes = {n: numel(source, n) for n in self.names}
        self._base = self._row({n: source.dtype(n) for n in self.names})
        # An empty slice tells a task's stored dtype, which may differ from the base's.
        held = [[n for n in self.names if not source.unchanged(t, n)] for t in range(len(self.tasks))]
        self._tasks = [self._row({n: source.task(t, n, 0, 0).dtype for n in names}) for t, names in enumerate(held)]
        self._unchanged = [frozenset(self.names).difference(names) for names in held]
        self._deltas = {(t, n) for t, names in enumerate(held) for n in names if source.holds_delta(t, n)}
        for name in self.names:
            self._base.flat(name).copy_(source.base(name, 0, self._sizes[name]))
            for index, row in enumerate(self._tasks):
                if self.unchanged(index, name):
                    continue
                row.flat(name).copy_(source.task(index, name, 0, self._sizes[name]))
        self._given = {
            (kind, index, name): measured.to(self.device)
            for kind in GIVEN_KINDS
            for index in range(len(self.tasks))
            for name in self.names
            if (measured := source.given(kind, index, name)) is not None
        }

    def _row(self, dtypes: Mapping[str, torch.dtype]) -> Row:
        return Row({n: self._shapes[n] for n in dtypes}, dtypes, self.device)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        return self._base.dtype(name)

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_0; a view, not to be written to."""
        return self._base.flat(name)[start:stop]

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_t, of τ_t where `holds_delta`; a view, not to be written to."""
        row = self._base if self.unchanged(index, name) else self._tasks[index]
        return row.flat(name)[start:stop]

    def holds_delta(self, index: int, name: str) -> bool:
        """Whether the resident values of this tensor are the task vector itself."""
        return (index, name) in self._deltas

    def unchanged(self, index: int, name: str) -> bool:
        """Whether a task has no tensor of its own here: the base's serves both."""
        return name in self._unchanged[index]

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """A statistic of θ_t for one tensor, not to be written to, or None."""
        return self._given.get((kind, index, name))

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """Size of what `given` would return; 0 for None."""
        held = self.given(kind, index, name)
        return 0 if held is None else held.nbytes

    def merged_row(self, dtype: torch.dtype | None = None) -> Row:
        """A new row for merged weights, filled with the base; None keeps each tensor's stored dtype."""
        row = self._row({n: dtype or self.dtype(n) for n in self.names})
        for name in self.names:
            row.flat(name).copy_(self._base.flat(name))
        return row

    @property
    def resident_bytes(self) -> int:
        """Memory of base, tasks and what was measured on their data, without merged rows."""
        return sum(row.resident_bytes for row in [self._base, *self._tasks]) + sum(
            g.nbytes for g in self._given.values()
        )


def arena_bytes(source: Source, rows: Sequence[torch.dtype | None] = ()) -> int:
    """Memory an arena of this source would take with these merged rows, to within the padding; reads no values."""
    total = 0
    for name in source.names:
        size, own = numel(source, name), source.dtype(name).itemsize
        changed = [t for t in range(len(source.tasks)) if not source.unchanged(t, name)]
        tasks = sum(source.task(t, name, 0, 0).dtype.itemsize for t in changed)
        total += size * (own + tasks + sum(r.itemsize if r else own for r in rows))
        total += sum(source.given_bytes(kind, t, name) for kind in GIVEN_KINDS for t in range(len(source.tasks)))
    return total
