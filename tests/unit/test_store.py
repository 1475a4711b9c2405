"""The byte budget, recency, and one computation for many askers."""

import threading
import time

import numpy as np
import pytest

from explorer.store import KeptStore, Store, cache_folder


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


def test_kept_arrays_survive_the_process(tmp_path) -> None:
    KeptStore(100, tmp_path / "cache", "kept/").put("kept/a", np.arange(5), 40)
    again = KeptStore(100, tmp_path / "cache", "kept/")
    assert "kept/a" not in again and again.get("kept/a").tolist() == [0, 1, 2, 3, 4] and "kept/a" in again
    again.put("other/a", np.arange(5), 40)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_as_good_as_none(tmp_path, content: bytes) -> None:
    store = KeptStore(100, tmp_path, "kept/")
    store.put("kept/a", np.arange(5), 40)
    next(tmp_path.iterdir()).write_bytes(content)
    assert KeptStore(100, tmp_path, "kept/").get("kept/a") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    store = KeptStore(100, tmp_path / "file" / "below", "kept/")
    store.put("kept/a", np.arange(5), 40)
    assert store.get("kept/a") is not None


def test_pickled_objects_are_never_loaded(tmp_path) -> None:
    store = KeptStore(100, tmp_path, "kept/")
    store.put("kept/a", np.arange(5), 40)
    np.save(next(tmp_path.iterdir()), np.array([object()]), allow_pickle=True)
    assert KeptStore(100, tmp_path, "kept/").get("kept/a") is None


def test_cache_folder_follows_the_convention(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("EXPLORER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "task-interference-explorer"
    monkeypatch.setenv("EXPLORER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
