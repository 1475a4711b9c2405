"""Whatever goes wrong while writing: one clear sentence, nothing half-written, the earlier folder untouched."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from explorer.checkpoints import open_checkpoint, staging, writer
from explorer.checkpoints.writer import FolderWriter
from explorer.errors import Cancelled, OutputError

Usage = namedtuple("Usage", "total used free")


def write(
    out: Path, value: float = 1.0, *, overwrite: bool = False, elements: int = 1000, inside: object = None
) -> None:
    with FolderWriter(out, overwrite=overwrite) as folder:
        folder.plan({"a": ((elements,), torch.float32), "b": ((elements,), torch.float32)})
        folder.add_tensor("a", torch.full((elements,), value))
        if callable(inside):
            inside()
        folder.add_tensor("b", torch.full((elements,), value))
        folder.add_text("config.json", "{}")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def fail(error: BaseException) -> object:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), Cancelled("stopped"), KeyboardInterrupt(), OSError(5, "unrelated")]
)
@pytest.mark.parametrize("existing", [True, False])
def test_an_exception_inside_leaves_what_was_there(tmp_path: Path, error: BaseException, existing: bool) -> None:
    out = tmp_path / "deep" / "out" if not existing else tmp_path / "out"
    if existing:
        write(out)
    before = contents(out) if existing else {}
    with pytest.raises(type(error)) as caught:
        write(out, 2.0, overwrite=True, inside=fail(error))
    assert caught.value is error
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if existing else [])
    assert not existing or contents(out) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("existing", [True, False])
def test_disk_that_fills_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, existing: bool
) -> None:
    out = tmp_path / "out"
    if existing:
        write(out)
    before = contents(out) if existing else {}
    original, calls = writer.write_all, []

    def fills(stream: object, data: memoryview, offset: int) -> None:
        calls.append(offset)
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))
        original(stream, data, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "write_all", fills)
    with pytest.raises(OutputError) as caught:
        write(out, 2.0, overwrite=True)
    pattern = rf"{re.escape(str(out))}: the disk must have 1\.1 MB free; got [\d.]+ [GM]B free in "
    pattern += (
        rf"{re.escape(str(tmp_path))}\. Free some space or choose another folder\. Nothing half-written remains\."
    )
    assert re.fullmatch(pattern, str(caught.value))
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if existing else [])
    assert not existing or contents(out) == before


@pytest.mark.parametrize("function", ["fsync", "rename"])
def test_disk_that_fails_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    out = tmp_path / "out"
    write(out)
    before, original = contents(out), os.rename

    def fails(*arguments: object) -> None:
        if function == "rename" and any(str(a).endswith(".old") for a in arguments):  # moving aside and back works
            original(*arguments)  # type: ignore[arg-type]
        else:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails)
        with pytest.raises(OutputError, match=r"must be writable; got input/output error\. Check the path"):
            write(out, 2.0, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and contents(out) == before


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 4_000_000))
    with pytest.raises(OutputError) as caught, FolderWriter(tmp_path / "out") as folder:
        folder.plan({"a": ((10**9,), torch.float32)})
    assert "the disk must have 4.00 GB free; got 4.0 MB free" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real 2 MiB disk."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs more rights than this process has")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("announced", [True, False])
def test_a_really_full_disk(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    write(tiny_disk / "out")
    before = contents(tiny_disk / "out")
    if not announced:  # somebody else fills the disk after the check: the write itself must fail
        monkeypatch.setattr(staging.Staging, "require_space", lambda self, need: setattr(self, "needed_bytes", need))
    with pytest.raises(OutputError, match=r"the disk must have 9\.0 MB free; got 2\.\d MB free in .*disk\."):
        write(tiny_disk / "out", 2.0, overwrite=True, elements=1_000_000)
    assert [p.name for p in tiny_disk.iterdir()] == ["out"] and contents(tiny_disk / "out") == before
    (tiny_disk / "filler").write_bytes(b"\0" * 1_000_000)
    with pytest.raises(OutputError, match="Nothing half-written remains"), FolderWriter(tiny_disk / "t") as folder:
        folder.add_text("big.txt", "x" * 3_000_000)
    assert sorted(p.name for p in tiny_disk.iterdir()) == ["filler", "out"]


def test_a_target_with_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "out", 2.0)
    assert str(caught.value) == (
        f"{tmp_path}/out: must be a new or empty folder; got 2 files in it. Give another folder, or allow overwriting."
    )
    assert contents(tmp_path / "out") == before


def test_overwriting_spares_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"must be an earlier checkpoint folder; got thesis\.tex\."):
        write(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="must be a new folder; got a file"):
        write(tmp_path / "file", overwrite=True)


def test_parent_that_is_a_file_and_a_name_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="the folder must be writable; got "):
        write(tmp_path / "file" / "out")
    with pytest.raises(OutputError, match="must have a name of at most 180 bytes; got 200 bytes"):
        write(tmp_path / "new" / ("x" * 200))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_source_file_that_is_not_there(tmp_path: Path) -> None:
    expected = r"nothing\.json: must be readable to be copied; got no such file"
    with pytest.raises(OutputError, match=expected), FolderWriter(tmp_path / "out") as folder:
        folder.add_file(tmp_path / "nothing.json")
    assert list(tmp_path.iterdir()) == []


def test_a_planned_tensor_that_never_came(tmp_path: Path) -> None:
    expected = r"every planned tensor must be written in full .*; got b incomplete\."
    with pytest.raises(OutputError, match=expected), FolderWriter(tmp_path / "out") as folder:
        folder.plan({"a": ((2,), torch.float32), "b": ((2,), torch.float32)})
        folder.add_tensor("a", torch.ones(2))
        folder.write_flat("b", 0, torch.ones(1))
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_one_target(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="must still be free when the folder is finished; got a folder with files"):
        write(out, 1.0, inside=lambda: write(out, 2.0))
    assert bool((open_checkpoint(out).read("a") == 2.0).all())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    write(out, 3.0, overwrite=True, inside=lambda: write(out, 4.0, overwrite=True))
    assert bool((open_checkpoint(out).read("a") == 3.0).all())  # the later one to finish replaces the earlier
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link")
    assert (tmp_path / "real" / "model.safetensors").exists() and (tmp_path / "link").is_symlink()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_runs_left_is_cleared(tmp_path: Path) -> None:
    host, dead, other = staging._host(), dead_pid(), os.getppid()
    gone = [f".x.{host}.{dead}-0123abcd.partial", f".x.y.{host}.{os.getpid()}-0123abcd.partial"]
    kept = [f".x.{host}.{other}-0123abcd.partial", f".x.elsewhere.{dead}-0123abcd.partial", ".mine.partial"]
    for name in [*gone, *kept]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("x")
    write(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "out"])


def test_a_folder_moved_aside_by_a_run_that_died_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "out")
    aside = f".out.{staging._host()}.{dead_pid()}-0123abcd.old"
    (tmp_path / "out").rename(tmp_path / aside)
    write(tmp_path / "next")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["next", "out"]
    assert open_checkpoint(tmp_path / "out")


def test_a_killed_run_leaves_no_target_and_its_rest_is_cleared(tmp_path: Path) -> None:
    script = (
        "import os, sys, torch; from explorer.checkpoints.writer import FolderWriter\n"
        "with FolderWriter(sys.argv[1]) as w:\n"
        "    w.plan({'a': ((1000,), torch.float32)}); os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], cwd=root, check=False)
    assert done.returncode == -9
    assert [p.name.startswith(".out.") for p in tmp_path.iterdir()] == [True]
    write(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
