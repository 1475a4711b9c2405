"""Kept sums: a survey goes on where it stopped, with the same results, and nothing wrong is ever found."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import explorer.interference._kept as kept_module
import explorer.interference._kept_files as kept_files
from explorer.compute.source import StateDictSource
from explorer.errors import Cancelled
from explorer.executor import CancelToken, Progress, SerialExecutor
from explorer.interference import METRICS, Closed, KeptSums, NotKept, Survey, collect

NAMES = tuple(f"layers.{i}.weight" for i in range(6))


class Counting(StateDictSource):
    """A checkpoint that says which tensors were read, and calls `on_read` before each."""

    def __init__(
        self, tasks: int = 3, *, digest: str = "content", on_read: Callable[[str], None] | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = lambda: {n: torch.randn(8, 5, generator=generator) for n in NAMES}  # noqa: E731
        super().__init__(draw(), {f"t{i}": draw() for i in range(tasks)})
        self.digest, self.read, self._on_read = digest, [], on_read

    def base(self, name: str, start: int, stop: int) -> Tensor:
        if self._on_read:
            self._on_read(name)
        self.read.append(name)
        return super().base(name, start, stop)


def survey(source: Any, folder: Path | None, **options: Any) -> Survey:
    kept = KeptSums(folder, **options.pop("kept", {})) if folder else None
    return collect(source, executor=options.pop("executor", SerialExecutor()), kept=kept, **options)


def assert_equal(one: Survey, other: Survey) -> None:
    """To the last few bits of a sum: another process may add up without the compiled pass."""
    for name in one.planned:
        pd.testing.assert_frame_equal(one.finish(name).table, other.finish(name).table, rtol=1e-12)


@pytest.fixture
def every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are written at once, not every second."""
    monkeypatch.setattr(kept_module, "_BATCH_BYTES", 0)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npz"))


def test_a_finished_survey_is_found_without_reading(tmp_path: Path) -> None:
    plain, first, again = Counting(), Counting(), Counting()
    made, seen = survey(first, tmp_path, trim_density=0.3), []
    found = survey(again, tmp_path, trim_density=0.3, progress=seen.append)
    assert first.read and not again.read
    assert_equal(survey(plain, None, trim_density=0.3), found)
    assert found.provenance["trim_thresholds"] == made.provenance["trim_thresholds"] is not None
    assert [(p.done, p.total, p.label) for p in seen] == [(6, 6, "survey, 6 of 6 tensors found")]
    assert survey(Closed(again, again.device), tmp_path, trim_density=0.3) and not again.read
    with pytest.raises(NotKept):
        survey(Closed(again, again.device), tmp_path, trim_density=0.4)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled, MemoryError])
def test_a_survey_that_is_cut_off_reads_only_the_rest(tmp_path: Path, stop: type[BaseException]) -> None:
    def at_fourth(name: str) -> None:
        if name == NAMES[3]:
            raise stop

    with pytest.raises(stop):
        survey(Counting(on_read=at_fourth), tmp_path)
    again, seen = Counting(), list[Progress]()
    found = survey(again, tmp_path, progress=seen.append)
    assert list(dict.fromkeys(again.read)) == list(NAMES[3:])
    assert [(p.done, p.total) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[0].label == "survey, 3 of 6 tensors found"
    assert_equal(survey(Counting(), None), found)


def test_a_cancelled_survey_keeps_what_it_finished(tmp_path: Path) -> None:
    token = CancelToken()
    stop_at = lambda name: token.cancel() if name == NAMES[2] else None  # noqa: E731
    with pytest.raises(Cancelled):
        survey(Counting(on_read=stop_at), tmp_path, cancel=token)
    again = Counting()
    survey(again, tmp_path)
    assert list(dict.fromkeys(again.read)) == list(NAMES[3:])


def _killed(folder: str) -> None:
    kept_module._BATCH_BYTES = 0
    stop = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == NAMES[4] else None  # noqa: E731
    survey(Counting(on_read=stop), Path(folder))


def _finished(folder: str) -> None:
    kept_module._BATCH_BYTES = 0
    survey(Counting(), Path(folder))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system that can kill a process")
def test_a_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(str(tmp_path),))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    again = Counting()
    found = survey(again, tmp_path)
    assert list(dict.fromkeys(again.read)) == list(NAMES[4:])
    assert_equal(survey(Counting(), None), found)


def test_two_processes_at_once_do_each_other_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_finished, args=(str(tmp_path),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [p.exitcode for p in both] == [0, 0] and not list(tmp_path.rglob("*.part"))
    again = Counting()
    assert_equal(survey(Counting(), None), survey(again, tmp_path))
    assert not again.read


def test_metrics_asked_for_later_reuse_the_others(tmp_path: Path) -> None:
    survey(Counting(), tmp_path, metrics=["cosine"])
    again = Counting()
    found = survey(again, tmp_path, metrics=["cosine", "norm_profile"])
    assert again.read
    third = Counting()
    assert_equal(found, survey(third, tmp_path, metrics=["norm_profile", "cosine"]))
    assert not third.read


@pytest.mark.parametrize(
    "change",
    [
        {"source": {"digest": "other content"}},
        {"trim_density": 0.5},
        {"denominator": "changed"},
        {"chunk_elements": 16},
        {"code": "other code"},
        {"parameters": {"mask_overlap": {"denominator": "changed"}}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_whatever_a_sum_depends_on_makes_it_anew(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    survey(Counting(), tmp_path, trim_density=0.3)
    if "code" in change:
        code = change.pop("code")
        monkeypatch.setattr(kept_module, "_code", lambda: code)
    source = Counting(**change.pop("source", {}))
    options = {"trim_density": 0.3, **change}
    found = survey(source, tmp_path, **options)
    assert set(source.read) == set(NAMES)
    assert_equal(survey(Counting(), None, **options), found)


def test_shown_thresholds_need_no_new_pass(tmp_path: Path) -> None:
    survey(Counting(), tmp_path)
    again = Counting()
    found = survey(again, tmp_path, parameters={"mask_overlap": {"mask_threshold": 0.6}})
    assert not again.read and set(found.finish("mask_overlap").at("tensor").threshold) == {0.6}


def test_fresh_makes_it_anew_and_keeps_that(tmp_path: Path) -> None:
    survey(Counting(), tmp_path)
    before = parts(tmp_path)
    fresh = Counting()
    survey(fresh, tmp_path, kept={"fresh": True})
    assert set(fresh.read) == set(NAMES) and not set(parts(tmp_path)) & set(before)
    again = Counting()
    survey(again, tmp_path)
    assert not again.read


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "flipped": _flipped,
    "noise": lambda p: p.write_bytes(b"PK\x03\x04 not an archive"),
    "pickle": lambda p: np.savez(p, header=np.array([object()]), allow_pickle=True),
    "another's": lambda p: p.write_bytes(kept_files.packed({NAMES[0]: {"n": np.zeros(1)}}, "another key")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_made_anew(tmp_path: Path, damage: str, every_part: None) -> None:
    survey(Counting(), tmp_path)
    for path in parts(tmp_path):
        DAMAGE[damage](path)
    again, third = Counting(), Counting()
    assert_equal(survey(Counting(), None), survey(again, tmp_path))
    survey(third, tmp_path)
    assert set(again.read) == set(NAMES) and not third.read


def test_a_full_disk_costs_only_what_would_have_been_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_part: None
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.open("wb").write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    found = survey(Counting(), tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert_equal(survey(Counting(), None), found)


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_equal(survey(Counting(), None), survey(Counting(), tmp_path / "file" / "below"))


def test_the_least_recently_used_go_when_the_budget_is_passed(tmp_path: Path) -> None:
    size = lambda: sum(p.stat().st_size for p in parts(tmp_path))  # noqa: E731
    survey(Counting(digest="a"), tmp_path)
    one = size()
    for folder in tmp_path.iterdir():
        os.utime(folder, (1, 1))
    survey(Counting(digest="b"), tmp_path)
    for folder in tmp_path.iterdir():
        os.utime(folder, (2, 2))
    survey(Counting(digest="a"), tmp_path, kept={"budget_bytes": int(2.5 * one)})
    survey(Counting(digest="c"), tmp_path, kept={"budget_bytes": int(2.5 * one)})
    held = {d: Counting(digest=d) for d in "acb"}
    for source in held.values():
        survey(source, tmp_path, kept={"budget_bytes": int(2.5 * one)})
    assert size() <= 2.5 * one
    assert [d for d, source in held.items() if source.read] == ["b"]


def test_what_passes_the_budget_alone_is_not_kept(tmp_path: Path) -> None:
    survey(Counting(), tmp_path, kept={"budget_bytes": 100})
    assert parts(tmp_path) == []


def test_state_dicts_in_memory_are_never_kept(tmp_path: Path) -> None:
    survey(Counting(digest="memory-7f00"), tmp_path)
    assert parts(tmp_path) == []


def test_every_metric_is_kept(tmp_path: Path) -> None:
    for name in METRICS.names():
        survey(Counting(), tmp_path / name, metrics=[name])
        again = Counting()
        survey(again, tmp_path / name, metrics=[name])
        assert not again.read, name


def test_odd_names_shapes_and_dtypes_come_back(tmp_path: Path) -> None:
    sums = {
        "../../up": {"a": np.float64(3.5).reshape(()), "file": np.arange(6).reshape(2, 3)},
        "é\n": {"flags": np.array([True, False]), "small": np.zeros((0, 4)), "bytes": np.arange(3, dtype=np.uint8)},
        "none": {},
    }
    kept_files.write_part(tmp_path, kept_files.packed(sums, "key"))
    found = kept_files.read_part(next(tmp_path.glob("*.npz")), "key")
    assert found.keys() == sums.keys()
    for name, arrays in sums.items():
        assert found[name].keys() == arrays.keys()
        for label, array in arrays.items():
            np.testing.assert_array_equal(found[name][label], array, strict=True)
    with pytest.raises(ValueError, match="must be numbers"):
        kept_files.packed({"x": {"o": np.array([object()])}}, "key")


def test_what_a_killed_process_left_half_written_goes_after_an_hour(tmp_path: Path) -> None:
    survey(Counting(), tmp_path)
    folder = parts(tmp_path)[0].parent
    old, new = folder / "old.part", folder / "new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    survey(Counting(), tmp_path)
    assert not old.exists() and new.exists()
