"""How much memory a pass needs, and what fits a budget: from the number of tasks, never from the size of the model."""

from __future__ import annotations

from dataclasses import dataclass

from explorer.compute.source import CHUNK_ELEMENTS
from explorer.errors import ParameterError, sentence

DEFAULT_MEMORY_BYTES = 1 << 30
LEAST_CHUNK = 1 << 12
LARGE_CHUNK = 1 << 20
"""Where the budget holds it for every thread: what is handed over per chunk then hardly counts."""

_VALUE_BYTES = 44
"""Bytes alive per task and position of a chunk while every metric has its turn: measured, at most 41 (a test does)."""

_POSITION_BYTES = 24
"""The same per position, whatever the number of tasks."""

_SCAN_BYTES = 16 << 20
"""What a worker needs to find trim thresholds: counters, and one slice of one task vector at a time."""


@dataclass(frozen=True)
class Fit:
    """So many threads, each with a chunk of so many elements."""

    workers: int
    chunk_elements: int


def memory_bytes(tasks: int, workers: int, chunk_elements: int, *, wide: bool = False) -> int:
    """Bytes that a pass holds at most beside its sums: workers x (tasks x chunk x 44 + chunk x 24 + 16 MiB).

    Twice as much per value where a tensor is float64 (`wide`).
    """
    values = (tasks * _VALUE_BYTES + _POSITION_BYTES) * chunk_elements
    return workers * (_SCAN_BYTES + values * (2 if wide else 1))


def fit_memory(budget_bytes: int, tasks: int, workers: int, *, wide: bool = False) -> Fit:
    """The most threads, at most `workers`, and then the largest chunk that fit the budget.

    Chunks are of 2^20 elements where all threads have room for them, else of 2^18 or less; threads go first, because
    nulls depend on where chunks are cut. Raises ParameterError when one thread with chunks
    of 4,096 elements needs more.
    """
    if memory_bytes(tasks, workers, LARGE_CHUNK, wide=wide) <= budget_bytes:
        return Fit(workers, LARGE_CHUNK)
    for count in range(workers, 0, -1):
        if memory_bytes(tasks, count, CHUNK_ELEMENTS, wide=wide) <= budget_bytes:
            return Fit(count, CHUNK_ELEMENTS)
    chunk = CHUNK_ELEMENTS
    while chunk > LEAST_CHUNK:
        chunk //= 2
        if memory_bytes(tasks, 1, chunk, wide=wide) <= budget_bytes:
            return Fit(1, chunk)
    least = -(-memory_bytes(tasks, 1, LEAST_CHUNK, wide=wide) // (1 << 20))
    must = f"the budget must be at least {least} MiB for {tasks} task{'' if tasks == 1 else 's'}"
    raise ParameterError(sentence("survey", must, f"{budget_bytes / (1 << 20):.1f} MiB", f"Use --budget {least}MiB."))
