"""Bytes of weight files: read at an offset, never mapped, never from a file that has changed.

Positional reads are used in place of a memory map on purpose. They touch the same pages and no others, but a file
that shrinks while it is read gives a short read, thus an error message, where a map would kill the process
(SIGBUS); and what comes back is the caller's own memory, so nobody can change what the next reader sees.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from explorer.errors import CheckpointError, sentence
from explorer.seeds import digest_of

MAX_HANDLES = 64
_BLOCK_BYTES = 1 << 22
_MAX_READ_BYTES = 1 << 30  # one system call moves at most 2 GiB


@dataclass(frozen=True)
class FileStamp:
    """A file as it was when it was opened: a later change of any of these is a change of the file."""

    path: Path
    size_bytes: int
    mtime_ns: int
    inode: int

    @staticmethod
    def of(path: Path) -> FileStamp:
        """The stamp of a regular file. Raises CheckpointError when it cannot be read or is no regular file."""
        try:
            now = path.stat()
        except OSError as error:
            raise CheckpointError(_unreadable(path, error)) from error
        if not stat.S_ISREG(now.st_mode):
            what = "a folder" if stat.S_ISDIR(now.st_mode) else "something else"
            raise CheckpointError(sentence(str(path), "must be a regular file", what, "Give a weight file."))
        return FileStamp(path, now.st_size, now.st_mtime_ns, now.st_ino)

    def check(self) -> None:
        """Raise CheckpointError when the file was removed, truncated or replaced since."""
        now = FileStamp.of(self.path)
        if now == self:
            return
        got = f"{now.size_bytes} bytes, was {self.size_bytes}" if now.size_bytes != self.size_bytes else "a newer file"
        must = "must stay as it was when it was opened"
        raise CheckpointError(sentence(str(self.path), must, got, "Open the checkpoint again."))


def _unreadable(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return sentence(str(path), "must be a readable file", reason.lower(), "Check the path, or open it again.")


class _Handle:
    """One open file; closed when the last reader lets go of it, so dropping it from the cache is always safe."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`; the number of bytes read, 0 at the end of the file."""
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], offset)
        with self._lock:  # systems without positional reads share one file position
            os.lseek(self._fd, offset, os.SEEK_SET)
            block = os.read(self._fd, len(view))
        view[: len(block)] = block
        return len(block)


_handles: OrderedDict[FileStamp, _Handle] = OrderedDict()
_handles_lock = threading.Lock()
_digests: dict[FileStamp, str] = {}
_digests_folder: Path | None = None
_SETTLED_NS = 2_000_000_000
"""A file that changed less long ago may change again without a new time stamp."""


def _open(stamp: FileStamp) -> _Handle:
    try:
        handle = _Handle(stamp.path)
    except OSError as error:
        raise CheckpointError(_unreadable(stamp.path, error)) from error
    stamp.check()  # a file put there since the last check would otherwise be read under the old one's name
    return handle


def _handle(stamp: FileStamp) -> _Handle:
    with _handles_lock:
        held = _handles.get(stamp)
        if held is None:
            held = _handles[stamp] = _open(stamp)
        _handles.move_to_end(stamp)
        while len(_handles) > MAX_HANDLES:
            _handles.popitem(last=False)
        return held


def read_into(stamp: FileStamp, offset: int, buffer: memoryview, *, who: str) -> None:
    """Fill `buffer` with the file's bytes from `offset` on.

    Raises CheckpointError naming `who` when the file was removed, truncated or replaced since it was opened.
    """
    stamp.check()
    handle, done = _handle(stamp), 0
    while done < len(buffer):
        try:
            count = handle.read_into(buffer[done : done + _MAX_READ_BYTES], offset + done)
        except OSError as error:
            raise CheckpointError(_unreadable(stamp.path, error)) from error
        if count == 0:
            got = f"the end of the file after {done} of {len(buffer)} bytes"
            raise CheckpointError(sentence(f"{stamp.path}, {who}", "must be all there", got, "Copy the file again."))
        done += count


def remember_digests(folder: Path | None) -> None:
    """Also remember digests of files between runs, in this folder; None only while this process lives."""
    global _digests_folder
    _digests_folder = folder


def file_digest(stamp: FileStamp) -> str:
    """Half of the sha256 of a file's bytes, hexadecimal; remembered for as long as the file stays the same."""
    stamp.check()
    known = _digests.get(stamp)
    if known is None:
        note = _note(stamp)
        known = _noted(note)
        if known is None:
            known = _digest_of_content(stamp)
            _write_note(note, known)
        _digests[stamp] = known
    return known


def known_digest(stamp: FileStamp) -> str | None:
    """What `file_digest` gives, where it is known without reading the file; else None."""
    return _digests.get(stamp) or _noted(_note(stamp))


def _digest_of_content(stamp: FileStamp) -> str:
    total, block = hashlib.sha256(), bytearray(min(_BLOCK_BYTES, max(stamp.size_bytes, 1)))
    for offset in range(0, stamp.size_bytes, len(block)):
        view = memoryview(block)[: min(len(block), stamp.size_bytes - offset)]
        read_into(stamp, offset, view, who="content")
        total.update(view)
    return total.hexdigest()[:32]


def _note(stamp: FileStamp) -> Path | None:
    """Where the digest of this very file is noted; its name says all that the system tells of the file."""
    if _digests_folder is None:
        return None
    with contextlib.suppress(OSError):
        now = stamp.path.stat()
        if time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) > _SETTLED_NS:
            parts = (stamp.path.resolve(), stamp.size_bytes, stamp.mtime_ns, now.st_ctime_ns, stamp.inode, now.st_dev)
            return _digests_folder / digest_of("sha256 of file", *parts)
    return None


def _noted(note: Path | None) -> str | None:
    if note is not None:
        with contextlib.suppress(OSError, ValueError):
            text = note.read_text(encoding="ascii")
            return text if re.fullmatch("[0-9a-f]{32}", text) else None
    return None


def _write_note(note: Path | None, digest: str) -> None:
    if note is None:
        return
    partial = note.with_suffix(f".{secrets.token_hex(4)}.part")
    with contextlib.suppress(OSError):
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(digest, encoding="ascii")
            os.replace(partial, note)
        finally:
            partial.unlink(missing_ok=True)
