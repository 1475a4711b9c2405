"""Pictures in a zip that somebody else made: listed by its directory, unpacked one at a time, never by their names."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from explorer.data.images import (
    Found,
    ImageSet,
    Limits,
    is_litter,
    named_by_folders,
    picture_problem,
    problem,
    require_limits,
)
from explorer.errors import DataError, sentence

_RATIO_FROM = 1 << 20
"""Small pictures of one colour are packed further than any limit, and do no harm."""
_ENCRYPTED = 0x1


def images_in_zip(path: Path, limits: Limits) -> ImageSet:
    """Pictures of a zip in the order of their names, from its directory alone.

    Not taken, and listed: names that are absolute or climb out, links, encrypted or doubled entries, such as unpack to
    more than `limits.ratio` times their size. Raises DataError for a file that is no zip, or one that is too large.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            entries = [e for e in packed.infolist() if not e.is_dir() and not is_litter(e.filename)]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        got = " ".join(str(error).split()) or type(error).__name__
        raise DataError(sentence(path.name, "must be a zip that can be read", got, "Pack it again.")) from error
    rows: list[tuple[Found, zipfile.ZipInfo]] = []
    problems, seen, total = [], set[str](), 0
    require_limits(path.name, len(entries), 0, limits)
    for entry in sorted(entries, key=lambda e: e.filename):
        wrong = _entry_problem(entry, seen) or picture_problem(entry.filename, entry.file_size, limits)
        wrong = wrong or _ratio_problem(entry, limits)
        seen.add(entry.filename)
        if wrong:
            problems.append(problem(entry.filename, wrong))
            continue
        total += entry.file_size
        rows.append((named_by_folders(entry.filename), entry))
    require_limits(path.name, 0, total, limits)
    kept = [entry for _, entry in rows]
    return ImageSet(tuple(r for r, _ in rows), tuple(problems), lambda: _contents(path, kept), limits=limits)


def _entry_problem(entry: zipfile.ZipInfo, seen: set[str]) -> str | None:
    name = entry.orig_filename
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts) or "\\" in name:
        return "must be named inside the zip, with / between folders; got a path that leads elsewhere"
    if "\0" in name or any(ord(c) < 32 for c in name):
        return "must have a name without control characters; got some"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "must be a file; got a link"
    if entry.flag_bits & _ENCRYPTED:
        return "must not be encrypted; got an encrypted one"
    return "must be in the zip once; got it again" if entry.filename in seen else None


def _ratio_problem(entry: zipfile.ZipInfo, limits: Limits) -> str | None:
    ratio = entry.file_size / max(1, entry.compress_size)
    if entry.file_size > _RATIO_FROM and ratio > limits.ratio:
        return f"must unpack to at most {limits.ratio} times its size; got {ratio:.0f} times"
    return None


def _contents(path: Path, entries: Sequence[zipfile.ZipInfo]) -> Iterator[bytes]:
    """The bytes of every entry, never more than its directory says; empty for a damaged one."""
    with zipfile.ZipFile(path) as packed:
        for entry in entries:
            try:
                with packed.open(entry) as file:
                    content = file.read(entry.file_size + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
                content = b""
            yield content if len(content) == entry.file_size else b""
