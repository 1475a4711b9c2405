"""Whole-model statistics that methods ask for before the first chunk is merged, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from explorer.compute import brackets, select
from explorer.compute.source import CHUNK_ELEMENTS, Chunk, Source, chunks, deltas
from explorer.executor import CancelToken, Executor, ProgressCallback, SerialExecutor
from explorer.merging._api import Stat
from explorer.seeds import digest_of, stable_seed
from explorer.store import Store

T = TypeVar("T")
Item = TypeVar("Item")
Quick = Callable[[Source, Chunk, Mapping[str, Tensor]], Tensor | None]
OneTask = Callable[[select.Scan, int], list[Tensor]]


def at(stats: Mapping[str, Stat], name: str) -> dict[str, Tensor]:
    """The statistics as one tensor's chunks see them."""
    return {key: value if isinstance(value, Tensor) else value[name] for key, value in stats.items()}


@dataclass(frozen=True, eq=False)
class Statistics:
    """The capability handed to `prepare`: streaming passes over the task vectors of one source.

    Every result is held in `cache` under the source's digest and what was asked, so moving one task's slider costs
    passes over that task alone. Passes use fixed chunks: results do not depend on how merging is chunked or threaded.
    """

    source: Source
    cache: Store
    executor: Executor
    progress: ProgressCallback | None = None
    cancel: CancelToken | None = None
    seed: int = 0

    def seeds(self, name: str) -> tuple[int, ...]:
        """The seeds, one per task, that a stochastic method receives for this tensor."""
        return tuple(stable_seed(self.seed, task, name) for task in self.source.tasks)

    def magnitude_threshold(
        self, density: Sequence[float], *, scope: str = "model", count_rule: str = "inclusive"
    ) -> Stat:
        """Exact magnitudes from which on each task keeps a fraction `density`: [T], or per tensor for scope "tensor".

        `count_rule`: "inclusive" keeps int(d·n) + 1 entries, "exact" max(1, int(d·n)); ties are kept in both.
        """

        def one(values: select.Scan, task: int) -> list[Tensor]:
            whole = scope == "model"
            counted = whole and density[task] < 1 and not brackets.serves(values)
            first = self._histogram(values, task) if counted else None
            return [select.magnitude_threshold(values, density[task], count_rule=count_rule, histogram=first)]

        return self._per_task([("threshold", count_rule, d) for d in density], scope, one)[0]

    def magnitudes_at(
        self, ranks: Callable[[int, int], Sequence[int]], *, keys: Sequence[object], scope: str = "model"
    ) -> list[Stat]:
        """The k-th largest magnitudes of each task vector, k in `ranks(task, elements)`; for every rank one [T].

        Scope "model", "tensor" (per tensor name) or "row" (per tensor name [T, rows]; rows run along the last
        dimension and a rank counts within a row; a 1-D tensor is one row). Ranks count from 1 and are cut to
        1 … elements. `keys` say for each task what its ranks depend on.
        """
        if scope == "row":
            return self._per_task([("ranks", k) for k in keys], scope, lambda v, t: self._row_magnitudes(v, t, ranks))

        def one(values: select.Scan, task: int) -> list[Tensor]:
            wanted = [min(max(1, k), max(1, values.elements)) for k in ranks(task, values.elements)]
            counted = scope == "model" and values.elements and not brackets.serves(values)
            first = self._histogram(values, task) if counted else None
            return select.at_ranks(values, wanted, first) if values.elements else [values.zero for _ in wanted]

        return self._per_task([("ranks", k) for k in keys], scope, one)

    def _row_magnitudes(
        self, values: select.Scan, task: int, ranks: Callable[[int, int], Sequence[int]]
    ) -> list[Tensor]:
        (name,) = values.names
        columns = (self.source.shape(name) or (1,))[-1]
        wanted = [min(max(1, k), max(1, columns)) for k in ranks(task, columns)]
        step = max(1, CHUNK_ELEMENTS // max(1, columns)) * columns
        cuts = range(0, values.elements, step) if columns else ()
        blocks = [values.delta(Chunk(name, i, min(i + step, values.elements))).abs().view(-1, columns) for i in cuts]
        empty = torch.zeros(0, dtype=values.dtype, device=self.source.device)
        return [torch.cat([empty, *(b.kthvalue(columns - k + 1, dim=1).values for b in blocks)]) for k in wanted]

    def norm_threshold(self, fraction: Sequence[float], *, scope: str = "model") -> Stat:
        """Magnitudes from which on each task keeps a fraction of its squared norm: [T], or per tensor."""
        return self._per_task(
            [("norm", f) for f in fraction], scope, lambda v, t: [select.norm_threshold(v, fraction[t])]
        )[0]

    def mean_and_std(self, *, scope: str = "model") -> tuple[Stat, Stat]:
        """Mean and unbiased standard deviation of each task vector, float64: [T] each, or per tensor."""
        keys = [("moments",)] * len(self.source.tasks)
        mean, std = self._per_task(keys, scope, lambda v, t: list(select.mean_and_std(v)))
        return mean, std

    def sum(
        self,
        key: str,
        function: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
        *,
        scope: str = "model",
        given: Mapping[str, Stat] | None = None,
        quick: Quick | None = None,
    ) -> Stat:
        """The sum over all chunks of `function(deltas [T, n], given)`: one tensor, or one per tensor name.

        `given` are statistics from earlier, seen by the function as its chunk sees them. `key` must change with
        anything that changes the result. Floats are added in float64 and whole numbers in int64, in a fixed order.
        `quick`, where it returns something, gives the same whole number for a chunk without needing its deltas.
        """
        whole = lambda _, deltas, known: function(deltas, known)  # noqa: E731
        return self.sum_chunks(key, whole, scope=scope, given=given, quick=quick)

    def sum_chunks(
        self,
        key: str,
        function: Callable[[Chunk, Tensor, Mapping[str, Tensor]], Tensor],
        *,
        scope: str = "model",
        given: Mapping[str, Stat] | None = None,
        quick: Quick | None = None,
    ) -> Stat:
        """As `sum`, for a function that also needs to know which chunk it sees."""
        known = given or {}

        def compute() -> Stat:
            def partial(chunk: Chunk) -> Tensor:
                seen = at(known, chunk.name)
                found = quick(self.source, chunk, seen) if quick else None
                found = function(chunk, deltas(self.source, chunk), seen) if found is None else found
                return found.double() if found.is_floating_point() else found.long()

            # A whole number, which is what is quick to find, does not depend on the cuts.
            pieces = list(chunks(self.source, CHUNK_ELEMENTS * (8 if quick else 1)))
            totals: dict[str, Tensor] = {}
            for chunk, part in zip(pieces, self._map(partial, pieces), strict=True):
                slot = chunk.name if scope == "tensor" else ""
                totals[slot] = totals[slot] + part if slot in totals else part
            return totals if scope == "tensor" else totals.get("", torch.zeros((), dtype=torch.float64))

        return self._kept(("sum", scope, key), compute)

    def given_squares(self, kind: str) -> Tensor:
        """Sum over the model of the squares of what was measured on each task's data, [T] float64."""

        def one(task: int) -> Tensor:
            total = torch.zeros((), dtype=torch.float64, device=self.source.device)
            for name in self.source.names:
                if (held := self.source.given(kind, task, name)) is not None:
                    total += held.double().square().sum()
            return total

        tasks = range(len(self.source.tasks))
        return self._kept(("sum", "given", kind), lambda: torch.stack([one(t) for t in tasks]))

    def _histogram(self, values: select.Scan, task: int) -> select.Histogram:
        make = lambda: select.magnitude_histogram(values)  # noqa: E731
        key = self._key("histogram", self.source.tasks[task])
        return self.cache.get_or_make(key, make, lambda h: h.size_bytes)

    def _per_task(self, keys: Sequence[tuple[object, ...]], scope: str, function: OneTask) -> list[Stat]:
        """`function` for every task (and every tensor, for scope "tensor"), kept task by task, stacked to [T]."""

        def kept(task: int) -> dict[str, list[Tensor]]:
            key = (scope, self.source.tasks[task], *keys[task])
            return self._kept(key, lambda: self._one_task(task, scope, function))

        found = [kept(task) for task in range(len(keys))]
        width = len(next(iter(found[0].values()), []))
        if scope == "model":
            return [torch.stack([f[""][i] for f in found]) for i in range(width)]
        # A source without tensors has no widths to see; two empty mappings serve every caller.
        return [{n: torch.stack([f[n][i] for f in found]) for n in self.source.names} for i in range(width or 2)]

    def _one_task(self, task: int, scope: str, function: OneTask) -> dict[str, list[Tensor]]:
        if scope == "model":
            return {"": function(select.scan(self.source, task, executor=self.executor, cancel=self.cancel), task)}
        names = self.source.names
        per_tensor = self._map(lambda n: function(select.scan(self.source, task, [n]), task), names)
        return dict(zip(names, per_tensor, strict=True))

    def _map(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        work = self.executor.map(
            function, items, total=len(items), label="prepare", progress=self.progress, cancel=self.cancel
        )
        return list(work)

    def _key(self, *parts: object) -> str:
        return f"statistics/{self.source.digest}/" + digest_of(self.source.names, *parts)

    def kept(self, parts: tuple[object, ...], make: Callable[[], T]) -> T:
        """`make()`, computed once for this source, its tasks in their order, and `parts`."""
        return self._kept(("sum", *parts), make)

    def _kept(self, parts: tuple[object, ...], make: Callable[[], T]) -> T:
        # Results over all tasks depend on which tasks there are; results of one task only on that task's name.
        tasks = self.source.tasks if parts[0] == "sum" else ()
        return self.cache.get_or_make(self._key(tasks, *parts), make, _size_bytes)


def _size_bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_size_bytes(v) for v in value.values())
    return sum(_size_bytes(v) for v in value) if isinstance(value, list) else 0


def statistics(
    source: Source,
    *,
    executor: Executor | None = None,
    cache: Store | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    seed: int = 0,
) -> Statistics:
    """Statistics of one source; without a cache they are kept only as long as this value."""
    return Statistics(source, cache or Store(), executor or SerialExecutor(), progress, cancel, seed)
