"""The memory of a survey: bounded by the budget, whatever the size of the model and the number of its tensors."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from explorer.compute.source import CHUNK_ELEMENTS, StateDictSource
from explorer.errors import ParameterError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.interference import METRICS, Fit, collect, fit_memory, memory_bytes

MIB = 1 << 20
SCAN = memory_bytes(0, 1, 0)
"""What is reckoned for finding thresholds, apart from the chunks."""


class Alive:
    """Bytes alive now, and the most at any moment."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.RLock()

    def add(self, owner: object, size: int) -> None:
        with self._lock:
            self.now += size
            self.most = max(self.most, self.now)
        weakref.finalize(owner, self._gone, size)

    def _gone(self, size: int) -> None:
        with self._lock:
            self.now -= size


class FakeCheckpoints:
    """Weights that are made when they are read, and count for as long as somebody holds them."""

    device = torch.device("cpu")
    digest = "fake"

    def __init__(self, sizes: list[int], tasks: int, dtype: torch.dtype = torch.float32) -> None:
        self.tasks = tuple(f"t{i}" for i in range(tasks))
        self._sizes = {f"layers.{i:04d}.weight": size for i, size in enumerate(sizes)}
        self.names, self._dtype, self.alive, self.read_bytes = tuple(self._sizes), dtype, Alive(), 0

    def shape(self, name: str) -> tuple[int, ...]:
        return (self._sizes[name],)

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype

    def _made(self, seed: int, start: int, stop: int) -> Tensor:
        made = torch.empty(stop - start, dtype=self._dtype)
        made.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed * 7919 + start))
        self.alive.add(made, made.nbytes)
        self.read_bytes += made.nbytes
        return made

    def base(self, name: str, start: int, stop: int) -> Tensor:
        return self._made(1, start, stop)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        return self._made(2 + index, start, stop)

    def given(self, kind: str, index: int, name: str) -> None:
        return None

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        return 0

    def holds_delta(self, index: int, name: str) -> bool:
        return False

    def unchanged(self, index: int, name: str) -> bool:
        return False


class Everything(TorchDispatchMode):
    """Counts every tensor that an operation of this thread makes, for as long as its memory lives."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self._known = Alive(), weakref.WeakSet[Any]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.alive.add(storage, storage.nbytes())
        return out


def most_alive(source: FakeCheckpoints, fit: Fit, **options: Any) -> int:
    """Bytes of all tensors of a serial pass at its worst moment."""
    with Everything() as counter:
        collect(source, executor=SerialExecutor(), chunk_elements=fit.chunk_elements, **options)
    return counter.alive.most


@pytest.mark.parametrize("tasks", [1, 2, 7, 20])
def test_every_metric_together_stays_within_what_is_reckoned(tasks: int) -> None:
    fit = fit_memory(20 * MIB, tasks, 4)
    source = FakeCheckpoints([2 * fit.chunk_elements], tasks)
    most = most_alive(source, fit, trim_density=0.2)
    assert memory_bytes(tasks, fit.workers, fit.chunk_elements) <= 20 * MIB
    assert most <= memory_bytes(tasks, 1, fit.chunk_elements) - SCAN
    assert source.read_bytes > most / 10


@pytest.mark.parametrize("name", METRICS.names())
def test_each_metric_alone_stays_within_it(name: str) -> None:
    fit = Fit(1, 1 << 14)
    most = most_alive(FakeCheckpoints([1 << 15], 5, torch.float64), fit, metrics=[name], trim_density=0.2)
    assert most <= memory_bytes(5, 1, fit.chunk_elements, wide=True) - SCAN


def test_weights_alive_depend_on_neither_size_nor_number_of_tensors() -> None:
    budget, tasks = 24 * MIB, 3
    fit = fit_memory(budget, tasks, 2)
    most, read = [], []
    for sizes in ([1 << 17], [1 << 20], [1 << 13] * 128, [1, 1 << 19, 7]):
        source = FakeCheckpoints(sizes, tasks)
        collect(source, ["cosine"], executor=ThreadExecutor(fit.workers), chunk_elements=fit.chunk_elements)
        most.append(source.alive.most)
        read.append(source.read_bytes)
    slices = 4 * fit.workers * (tasks + 1) * fit.chunk_elements
    assert max(most) <= slices <= budget and max(read) >= 8 * min(read)
    assert source.alive.now == 0


def test_threads_go_before_chunks_get_smaller() -> None:
    assert fit_memory(1 << 30, 7, 2) == Fit(2, 4 * CHUNK_ELEMENTS)
    assert fit_memory(1 << 30, 7, 4) == Fit(4, CHUNK_ELEMENTS)
    assert fit_memory(200 * MIB, 7, 4) == Fit(2, CHUNK_ELEMENTS)
    assert fit_memory(100 * MIB, 7, 4) == Fit(1, CHUNK_ELEMENTS)
    assert fit_memory(60 * MIB, 7, 4) == Fit(1, CHUNK_ELEMENTS // 2)
    for budget in (24, 60, 150, 999):
        for tasks in (1, 7, 20):
            fit = fit_memory(budget * MIB, tasks, 4, wide=budget > 100)
            assert memory_bytes(tasks, fit.workers, fit.chunk_elements, wide=budget > 100) <= budget * MIB


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    with pytest.raises(
        ParameterError, match=r"budget must be at least 20 MiB for 20 tasks; got 4\.0 MiB\. Use --budget 20"
    ):
        fit_memory(4 * MIB, 20, 2)
    assert fit_memory(20 * MIB, 20, 2) == Fit(1, 1 << 12)


def test_smaller_chunks_give_the_same_numbers_nulls_apart() -> None:
    draw = lambda: {"w": torch.randn(5000, generator=generator), "b": torch.randn(3, generator=generator)}  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    source = StateDictSource(draw(), {f"t{i}": draw() for i in range(3)})
    one, other = (collect(source, ["sign_conflict", "cosine"], chunk_elements=n) for n in (1 << 18, 64))
    assert one.finish("sign_conflict").table.equals(other.finish("sign_conflict").table)
    left, right = (s.finish("cosine").at("model").cosine.to_numpy() for s in (one, other))
    assert abs(left - right).max() < 1e-14
