"""Exact order statistics of numbers computed from all task vectors at once: scores, variances, conflicts.

They are streamed like task vectors and selected by the same radix count, so no list of them is ever as large as the
model and nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.compute import select
from explorer.compute.source import CHUNK_ELEMENTS, Chunk, Source, arithmetic_dtype, chunks, deltas
from explorer.merging._api import Stat
from explorer.merging._statistics import Statistics, at

Derive = Callable[[Tensor, Mapping[str, Tensor], int], Tensor]
Ranks = Callable[[str, int, int], Sequence[int]]


@dataclass
class _Derived:
    """A source whose row r is `side · function(deltas, given, r)` where that is positive, and 0 elsewhere."""

    source: Source
    function: Derive
    stats: Mapping[str, Stat]
    side: int
    tasks: tuple[str, ...]
    names: tuple[str, ...]
    device: torch.device
    digest: str = ""

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return arithmetic_dtype(self.source, name)

    def base(self, name: str, start: int, stop: int) -> Tensor:
        return torch.zeros(1, dtype=self.dtype(name), device=self.device).expand(stop - start)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        values = self.function(deltas(self.source, Chunk(name, start, stop)), at(self.stats, name), index)
        return (values * self.side).clamp_(min=0)

    def given(self, kind: str, index: int, name: str) -> None:
        return None

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        return 0

    def holds_delta(self, index: int, name: str) -> bool:
        return True

    def unchanged(self, index: int, name: str) -> bool:
        return False


def values_at(
    statistics: Statistics,
    key: str,
    function: Derive,
    ranks: Ranks,
    *,
    rows: int,
    width: int = 1,
    scope: str = "model",
    given: Mapping[str, Stat] | None = None,
) -> Stat:
    """The k-th largest values of `function(deltas [T, n], given, row)` [n] for each row, k in `ranks(name, row, n)`.

    Gives [rows, width], or that per tensor name for scope "tensor"; `width` is how many ranks there are, and `name` is
    empty for scope "model". Values may have either sign. `key` must change with anything that changes the result.
    """
    source = statistics.source

    def scan(side: int, row: int, names: Sequence[str]) -> select.Scan:
        tasks = tuple(str(r) for r in range(rows))
        derived = _Derived(source, function, given or {}, side, tasks, source.names, source.device)
        return select.scan(derived, row, names, executor=statistics.executor, cancel=statistics.cancel)

    def of(names: Sequence[str], label: str) -> Tensor:
        up = [scan(1, row, names) for row in range(rows)]
        down = [scan(-1, row, names) for row in range(rows)]
        found = [_signed(u, d, ranks(label, row, u.elements)) for row, (u, d) in enumerate(zip(up, down, strict=True))]
        return torch.stack([torch.stack(f) for f in found])

    def compute() -> Stat:
        if not source.names:
            return torch.zeros(rows, width, device=source.device)
        return of(source.names, "") if scope == "model" else {name: of([name], name) for name in source.names}

    return statistics.kept((scope, key), compute)


def extremes(
    statistics: Statistics,
    key: str,
    function: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    *,
    rows: int,
    given: Mapping[str, Stat] | None = None,
) -> tuple[Tensor, Tensor]:
    """Smallest and largest value over the model of each row of `function(deltas [T, n], given)` [rows, n], [rows] each.

    A model without weights gives zeros.
    """
    source = statistics.source

    def partial(chunk: Chunk) -> Tensor:
        values = function(deltas(source, chunk), at(given or {}, chunk.name)).double()
        return torch.stack([values.amin(1), values.amax(1)])

    def compute() -> Tensor:
        pieces = list(chunks(source, CHUNK_ELEMENTS))
        found = list(statistics.executor.map(partial, pieces, label="prepare", cancel=statistics.cancel))
        if not found:
            return torch.zeros(2, rows, dtype=torch.float64, device=source.device)
        every = torch.stack(found)
        return torch.stack([every[:, 0].amin(0), every[:, 1].amax(0)])

    low, high = statistics.kept(("extremes", key), compute)
    return low, high


def _signed(up: select.Scan, down: select.Scan, ranks: Sequence[int]) -> list[Tensor]:
    """The k-th largest values of a row, given its positive part and the magnitude of its negative part."""
    n = up.elements
    zero = torch.zeros((), dtype=up.dtype, device=up.source.device)
    if n == 0:
        return [zero for _ in ranks]
    first = select.magnitude_histogram(up) if len(up.chunks()) > 1 else None
    found = []
    for k in (min(max(1, r), n) for r in ranks):
        value = select.kth_largest(up, k, first)
        # Zero among the positive parts means the wanted value is 0 or below; it is minus a small negative magnitude.
        found.append(value if bool(value > 0) else -select.kth_largest(down, n - k + 1))
    return found
