"""Batches side by side, each on one thread of its own.

One thread per batch instead of all threads on one operation: no operation waits for a sibling that the system has
put aside (a browser drawing the page on the same cores made that ten times slower), and a batch gives the same bits
whatever the number of cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Out = TypeVar("Out")
_STARTING = threading.Lock()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    before = torch.get_num_threads()
    started = threading.Barrier(workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scoring", initializer=_use_one_thread)
    for future in [pool.submit(started.wait) for _ in range(workers)]:
        future.result()
    # A worker's setting is also the default of threads to come: give those theirs back.
    torch.set_num_threads(before)
    return pool


def _use_one_thread() -> None:
    # Asking first makes this thread read the common setting now; later it would undo what is set here.
    torch.get_num_threads()
    torch.set_num_threads(1)


def map_batches(function: Callable[[Item], Out], items: Sequence[Item]) -> list[Out]:
    """`function` of every item, in order, on as many threads as torch would use; the last items are begun first.

    The first error is raised, but only after every call has ended: nobody reads the weights once this returns.
    """
    with _STARTING:
        pool = _pool(torch.get_num_threads())
    futures = [pool.submit(function, item) for item in reversed(items)]
    try:
        return [future.result() for future in reversed(futures)]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
