"""The byte budget, recency, and one computation for many askers."""

import threading
import time

import pytest

from explorer.store import Store


def test_least_recently_used_goes_first() -> None:
    store = Store(100)
    store.put("a", 1, 40)
    store.put("b", 2, 40)
    assert store.get("a") == 1
    store.put("c", 3, 40)
    assert "b" not in store and "a" in store and "c" in store and store.used_bytes == 80


def test_value_over_budget_is_not_held() -> None:
    store = Store(10)
    store.put("a", 1, 11)
    assert "a" not in store and store.used_bytes == 0


def test_replacing_a_value_counts_its_bytes_once() -> None:
    store = Store(100)
    store.put("a", 1, 60)
    store.put("a", 2, 60)
    assert store.get("a") == 2 and store.used_bytes == 60


def test_many_askers_one_computation() -> None:
    store, made = Store(100), []

    def make() -> str:
        made.append(1)
        time.sleep(0.05)
        return "value"

    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(store.get_or_make("k", make, 5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["value"] * 8 and len(made) == 1


def test_an_error_is_not_held() -> None:
    store = Store(100)
    with pytest.raises(RuntimeError):
        store.get_or_make("k", lambda: (_ for _ in ()).throw(RuntimeError("no")))
    assert store.get_or_make("k", lambda: 7) == 7


def test_drop_by_prefix() -> None:
    store = Store(100)
    store.put("s1/a", 1, 1)
    store.put("s2/a", 2, 1)
    store.drop("s1/")
    assert "s1/a" not in store and "s2/a" in store
