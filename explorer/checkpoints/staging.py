"""A hidden folder beside its target, renamed over it at the end: whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from explorer.errors import OutputError, sentence

_MAX_NAME_BYTES = 180  # a file name has at most 255 bytes, and the hidden folder's name adds to the target's
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
_OURS = (".safetensors", "explorer_recipe.yaml")
"""What tells a folder that may be overwritten: weights, or the recipe beside one model per task."""
_OWN_NAME = re.compile(r"\.(?P<target>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)-[0-9a-f]{8}\.(?P<what>partial|old)")
JOURNAL = ".journal"
"""Lines about what is written already, the first one the key: what a later run needs to go on after a kill."""
_live: set[Path] = set()
"""Folders that this process writes now; others with its number were left by a dead process that had it before."""


class Staging:
    """Where a folder is made before it takes its place.

    begin() -> folder exists and is empty; publish() -> target holds it; discard() -> nothing is left of it.
    `overwrite` replaces an earlier checkpoint folder, which is moved aside, and moved back if publishing fails.
    With `resume_key`, begin() takes up the folder of a killed run that had the same key; `notes` are its lines.
    """

    def __init__(self, target: Path, *, overwrite: bool, resume_key: str | None = None) -> None:
        self.target = Path(os.path.realpath(target.expanduser()))
        self.overwrite = overwrite
        self.folder = self._hidden("partial")
        self.needed_bytes = 0
        self.notes: tuple[str, ...] = ()
        self._resume_key = resume_key
        self._made_parents: list[Path] = []

    def _hidden(self, what: str) -> Path:
        return self.target.parent / f".{self.target.name}.{_host()}.{os.getpid()}-{secrets.token_hex(4)}.{what}"

    def begin(self) -> None:
        """Check that the target may be written, clear what dead runs left, make the hidden folder."""
        try:
            with self.guard("the folder"):
                self._make_parents()
                _live.add(self.folder)
                self._check_target()
                self._take_up()
                remove_stale(self.target.parent)
                self._check_target()
                if not self.folder.exists():
                    self.folder.mkdir()  # mode 0777 less the umask, so that others can read it
                    self.note(self._resume_key or "")
        except BaseException:
            self.discard()
            raise

    def check(self) -> None:
        """Raise OutputError when the target could not be written as things are now; changes nothing."""
        with self.guard("the folder"):
            self._check_target()
            parent = next(p for p in self.target.parents if p.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "no permission to write there", str(parent))

    def _take_up(self) -> None:
        """Make the folder of a killed run with the same key our own: its weights and its notes, nothing else of it."""
        for path in _dead(self.target.parent) if self._resume_key else ():
            match = _OWN_NAME.fullmatch(path.name)
            if not match or match["target"] != self.target.name or match["what"] != "partial":
                continue
            with suppress(OSError, UnicodeDecodeError):  # another new run may have been faster
                lines = (path / JOURNAL).read_text("utf-8").split("\n")
                if lines[0] != self._resume_key:
                    continue
                os.rename(path, self.folder)
                for other in self.folder.iterdir():
                    if other.suffix != ".safetensors" and other.name != JOURNAL:
                        other.unlink()
                self.note("")  # the last line may be cut off
                self.notes = tuple(filter(None, lines[1:]))
                return

    def note(self, text: str) -> None:
        """Add a line to the journal; nothing without a key. A kill keeps every whole line."""
        if self._resume_key is None:
            return
        with self.guard("the journal"):
            handle = os.open(self.folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, (text + "\n").encode())
            finally:
                os.close(handle)

    def _make_parents(self) -> None:
        missing = [p for p in self.target.parents if not p.exists()]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made_parents.append(parent)

    def _remove_parents(self) -> None:
        while self._made_parents:
            with suppress(OSError):  # somebody else may have put something there
                self._made_parents.pop().rmdir()

    def _check_target(self) -> None:
        target, who = self.target, str(self.target)
        if not 0 < len(target.name.encode()) <= _MAX_NAME_BYTES:
            must = f"must have a name of at most {_MAX_NAME_BYTES} bytes"
            raise OutputError(sentence(who, must, f"{len(target.name.encode())} bytes", "Give another folder."))
        if not target.exists():
            return
        if not target.is_dir():
            raise OutputError(sentence(who, "must be a new folder", "a file", "Give another folder."))
        held = sorted(p.name for p in target.iterdir())
        if held and not self.overwrite:
            advice = "Give another folder, or allow overwriting."
            raise OutputError(sentence(who, "must be a new or empty folder", f"{len(held)} files in it", advice))
        # Overwriting removes what was there, so a home folder given by mistake must not pass for a checkpoint.
        if held and not any(n.endswith(_OURS) for n in held):
            advice = "Give another folder; only an earlier checkpoint folder is overwritten."
            raise OutputError(sentence(who, "must be an earlier checkpoint folder", ", ".join(held[:3]), advice))

    def require_space(self, need_bytes: int) -> None:
        """Raise OutputError when the disk has less than `need_bytes` left."""
        self.needed_bytes = need_bytes
        if self._free_bytes() < need_bytes:
            raise OutputError(self._full())

    def _full(self) -> str:
        must = (
            f"the disk must have {megabytes(self.needed_bytes)} free"
            if self.needed_bytes
            else "the disk must have room"
        )
        got = f"{megabytes(self._free_bytes())} free in {self.target.parent}"
        advice = "Free some space or choose another folder. Nothing half-written remains."
        return sentence(str(self.target), must, got, advice)

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Turn an operating-system error inside into an OutputError that says what, where and how much room."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise OutputError(self._full()) from error
            reason = (error.strerror or str(error)).lower()
            advice = "Check the path and its permissions. Nothing half-written remains."
            raise OutputError(sentence(str(self.target), f"{what} must be writable", reason, advice)) from error

    def _free_bytes(self) -> int:
        """Room for this folder: what is free now, and what it takes already, which goes back."""
        with suppress(OSError):
            taken = sum(getattr(p.stat(), "st_blocks", 0) * 512 for p in self.folder.iterdir())
            return shutil.disk_usage(self.target.parent).free + taken
        return 0

    def publish(self) -> None:
        """Put the finished folder in its place. Raises OutputError, with the earlier folder back, when that fails."""
        with self.guard("the folder"):
            (self.folder / JOURNAL).unlink(missing_ok=True)
            _sync(self.folder)
            aside = self._move_aside() if self.overwrite else None
            try:
                os.rename(self.folder, self.target)
            except OSError as error:
                if aside:
                    with suppress(OSError):  # somebody else's finished folder may have taken the place
                        os.rename(aside, self.target)
                if error.errno in _TAKEN:
                    raise OutputError(self._taken()) from error
                raise
            _sync(self.target.parent)
        if aside:
            shutil.rmtree(aside, ignore_errors=True)
            _live.discard(aside)

    def _taken(self) -> str:
        must = "must still be free when the folder is finished"
        advice = "Another run wrote there meanwhile; give another folder."
        return sentence(str(self.target), must, "a folder with files in it", advice)

    def _move_aside(self) -> Path | None:
        aside = self._hidden("old")
        _live.add(aside)
        try:
            os.rename(self.target, aside)
        except FileNotFoundError:
            return None
        return aside

    def discard(self) -> None:
        """Remove the hidden folder and the empty parents made for it; after `publish` there are none."""
        shutil.rmtree(self.folder, ignore_errors=True)
        _live.discard(self.folder)
        self._remove_parents()


def megabytes(size_bytes: int) -> str:
    """A size in words, such as `16.9 MB`."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def _host() -> str:
    """This machine's name, as far as it fits a file name: process numbers mean nothing on another machine."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:24] or "host"


def _sync(folder: Path) -> None:
    """Make a folder's entries durable, where the system can."""
    with suppress(OSError):  # some file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_stale(parent: Path) -> list[Path]:
    """Clear hidden folders that dead runs on this machine left in `parent`; the ones that were cleared.

    A folder that was moved aside while its successor never arrived is put back in its place.
    """
    cleared = []
    for path in _dead(parent):
        match = _OWN_NAME.fullmatch(path.name)
        target = parent / match["target"] if match else path
        if match and match["what"] == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)
        cleared.append(path)
    return cleared


def _dead(parent: Path) -> list[Path]:
    """Hidden folders in `parent` of runs on this machine that are over."""
    found = []
    for path in sorted(parent.iterdir()):
        match = _OWN_NAME.fullmatch(path.name)
        ours = match and match["host"] == _host() and path not in _live and path.is_dir()
        if ours and match and not _runs(int(match["pid"])):
            found.append(path)
    return found


def _runs(pid: int) -> bool:
    """True when another process of that number is alive."""
    if pid == os.getpid():
        return False  # its own live folders were left out before
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
