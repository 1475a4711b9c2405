"""Digests of weight files between runs: trusted only for the very same file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from explorer.checkpoints import files
from explorer.checkpoints.files import FileStamp, file_digest, remember_digests


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Which files were read; a new process for each `restart`."""
    seen: list[str] = []
    real = files._digest_of_content
    monkeypatch.setattr(files, "_digest_of_content", lambda stamp: (seen.append(stamp.path.name), real(stamp))[1])
    monkeypatch.setattr(files, "_SETTLED_NS", -1)
    remember_digests(tmp_path / "digests")
    yield seen
    remember_digests(None)


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_digests", {})


def test_a_file_is_read_once_ever(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    first = file_digest(FileStamp.of(path))
    restart(monkeypatch)
    assert file_digest(FileStamp.of(path)) == first and reads == ["w"]


def test_another_content_of_the_same_size_and_time_is_read(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    stamp = path.stat()
    first = file_digest(FileStamp.of(path))
    restart(monkeypatch)
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert file_digest(FileStamp.of(path)) != first and reads == ["w", "w"]


def test_a_file_that_changed_just_now_is_not_noted(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SETTLED_NS", 10**12)
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    file_digest(FileStamp.of(path))
    assert not (tmp_path / "digests").exists()


@pytest.mark.parametrize("note", [b"", b"short", b"\xff" * 32, b"Z" * 32])
def test_a_damaged_note_is_made_anew(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, note: bytes
) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    first = file_digest(FileStamp.of(path))
    kept = next((tmp_path / "digests").iterdir())
    kept.write_bytes(note)
    restart(monkeypatch)
    assert file_digest(FileStamp.of(path)) == first and kept.read_text() == first and len(reads) == 2


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, reads: list[str]) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"weights")
    remember_digests(path / "below")
    assert len(file_digest(FileStamp.of(path))) == 32
