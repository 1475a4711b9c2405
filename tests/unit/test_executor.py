"""Order, bounded flight, progress and cancel; threads equal serial."""

import threading
import time

import pytest

from explorer.errors import Cancelled
from explorer.executor import CancelToken, Progress, SerialExecutor, ThreadExecutor

EXECUTORS = [SerialExecutor(), ThreadExecutor(2), ThreadExecutor(4)]


@pytest.mark.parametrize("executor", EXECUTORS, ids=["serial", "two", "four"])
def test_results_come_in_order(executor) -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(executor.map(slow_first, range(20))) == [i * i for i in range(20)]


@pytest.mark.parametrize("executor", EXECUTORS, ids=["serial", "two", "four"])
def test_cancel_stops_before_the_next_item(executor) -> None:
    token, seen = CancelToken(), []

    def work(i: int) -> int:
        seen.append(i)
        if i == 3:
            token.cancel()
        return i

    with pytest.raises(Cancelled):
        list(executor.map(work, range(1000), cancel=token))
    assert len(seen) < 20


def test_errors_reach_the_caller() -> None:
    def fail(i: int) -> int:
        if i == 5:
            raise ValueError("five")
        return i

    with pytest.raises(ValueError, match="five"):
        list(ThreadExecutor(2).map(fail, range(10)))


def test_only_a_few_items_are_in_flight() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def items():
        nonlocal running, most
        for i in range(50):
            with lock:
                running += 1
                most = max(most, running)
            yield i

    for _ in ThreadExecutor(2).map(lambda i: i, items()):
        with lock:
            running -= 1
    assert most <= 5


def test_progress_counts_to_the_total_and_estimates() -> None:
    seen: list[Progress] = []
    list(SerialExecutor().map(lambda i: i, range(4), total=4, label="merge", progress=seen.append))
    assert [p.done for p in seen] == [1, 2, 3, 4] and seen[-1].fraction == 1
    assert Progress(1, 4, 2.0).eta_seconds == pytest.approx(6.0) and Progress(0, 4, 0.0).eta_seconds is None


def test_zero_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ThreadExecutor(0)
