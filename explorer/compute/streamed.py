"""Models that do not fit the device: read in slices, by the same kernels, to the same bits.

Where an `Arena` holds base and tasks on the device, a `Streamed` source leaves them where they are (files, or an arena
in main memory) and copies each slice over when a kernel asks for it. Only merged rows are on the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from explorer.compute.arena import Row
from explorer.compute.source import Source, numel

_PIECE_ELEMENTS = 1 << 22


class Streamed:
    """A source whose slices come from another one, on the device that asks; the digest is the other's."""

    resident = False

    def __init__(self, source: Source, device: torch.device | str = "cpu") -> None:
        self.source = source
        self.tasks, self.names = tuple(source.tasks), tuple(source.names)
        self.device = torch.device(device)
        self.digest = source.digest

    def _here(self, values: Tensor) -> Tensor:
        return values if values.device == self.device else values.to(self.device, non_blocking=True)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self.source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        return self.source.dtype(name)

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_0, on the device."""
        return self._here(self.source.base(name, start, stop))

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_t, of τ_t where `holds_delta`, on the device."""
        return self._here(self.source.task(index, name, start, stop))

    def holds_delta(self, index: int, name: str) -> bool:
        """Whether `task` gives the task vector itself."""
        return self.source.holds_delta(index, name)

    def unchanged(self, index: int, name: str) -> bool:
        """Whether it is known without reading that θ_t is θ_0 here."""
        return self.source.unchanged(index, name)

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """A statistic of θ_t for one tensor, on the device, or None."""
        held = self.source.given(kind, index, name)
        return None if held is None else self._here(held)

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """Size of what `given` would return; 0 for None."""
        return self.source.given_bytes(kind, index, name)

    def merged_row(self, dtype: torch.dtype | None = None) -> Row:
        """A new row for merged weights, filled with the base; None keeps each tensor's stored dtype."""
        dtypes: Mapping[str, torch.dtype] = {n: dtype or self.dtype(n) for n in self.names}
        row = Row({n: self.shape(n) for n in self.names}, dtypes, self.device)
        for name in self.names:
            total = numel(self, name)
            for start in range(0, total, _PIECE_ELEMENTS):
                stop = min(start + _PIECE_ELEMENTS, total)
                row.flat(name)[start:stop].copy_(self.base(name, start, stop))
        return row

    @property
    def resident_bytes(self) -> int:
        """Memory on the device beside merged rows: none."""
        return 0
