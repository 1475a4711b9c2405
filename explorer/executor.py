"""Runs independent items in order: one after another or in threads, with bitwise equal results.

An executor yields results in the order of the items whatever the schedule, so a sum over them is the same sum.
Only `2 x workers` items are in flight, so memory is bounded by workers, not by the number of items.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from explorer.errors import Cancelled

Item = TypeVar("Item")
Out = TypeVar("Out")


class CancelToken:
    """Set once by whoever wants the work to stop; checked between items."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at the next item."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._event.is_set()

    def check(self, who: str = "work") -> None:
        """Raise Cancelled if somebody asked to stop."""
        if self._event.is_set():
            raise Cancelled(f"{who}: stopped on request. Earlier results are unchanged.")


@dataclass(frozen=True)
class Progress:
    """How far a job is: items done of total, seconds so far, seconds to go (None until known)."""

    done: int
    total: int
    seconds: float
    label: str = ""

    @property
    def fraction(self) -> float:
        """Share done, 0-1."""
        return self.done / self.total if self.total else 1.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at the pace so far."""
        return self.seconds * (self.total - self.done) / self.done if self.done else None


ProgressCallback = Callable[[Progress], None]


class Executor(Protocol):
    """Anything that maps a function over items, in order."""

    workers: int

    def map(
        self,
        function: Callable[[Item], Out],
        items: Iterable[Item],
        *,
        total: int | None = None,
        label: str = "",
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Out]:
        """Results in the order of `items`."""
        ...


class _Meter:
    def __init__(self, total: int | None, label: str, progress: ProgressCallback | None) -> None:
        self.total, self.label, self.progress = total or 0, label, progress
        self.done, self.started = 0, time.perf_counter()

    def step(self) -> None:
        self.done += 1
        if self.progress:
            seconds = time.perf_counter() - self.started
            self.progress(Progress(self.done, max(self.total, self.done), seconds, self.label))


class SerialExecutor:
    """One item after another, in this thread."""

    workers = 1

    def map(
        self,
        function: Callable[[Item], Out],
        items: Iterable[Item],
        *,
        total: int | None = None,
        label: str = "",
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Out]:
        """Results in the order of `items`; raises Cancelled between items when asked to."""
        meter = _Meter(total, label, progress)
        for item in items:
            if cancel:
                cancel.check(label or "work")
            out = function(item)
            meter.step()
            yield out


class ThreadExecutor:
    """Items in threads; torch and file reading release the interpreter lock."""

    def __init__(self, workers: int = 2) -> None:
        if workers < 1:
            raise ValueError(f"ThreadExecutor: workers must be at least 1; got {workers}.")
        self.workers = workers

    def map(
        self,
        function: Callable[[Item], Out],
        items: Iterable[Item],
        *,
        total: int | None = None,
        label: str = "",
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Out]:
        """Results in the order of `items`, at most 2 x workers in flight; the first error is raised."""
        meter = _Meter(total, label, progress)
        waiting: deque[Future[Out]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for item in items:
                    if cancel:
                        cancel.check(label or "work")
                    waiting.append(pool.submit(function, item))
                    if len(waiting) >= 2 * self.workers:
                        out = waiting.popleft().result()
                        meter.step()
                        yield out
                while waiting:
                    if cancel:
                        cancel.check(label or "work")
                    out = waiting.popleft().result()
                    meter.step()
                    yield out
            finally:
                for future in waiting:
                    future.cancel()
