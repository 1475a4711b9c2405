"""What commands print, and how they write files: whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from explorer.errors import OutputError, sentence


def print_json(value: Any) -> None:
    """A value as JSON, for other programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def print_table(table: Any) -> None:
    """A table for people."""
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep="-"))


def progress_line(progress: Any) -> None:
    """How far a job is and how long it will take, on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        return
    eta = "" if progress.eta_seconds is None else f", {progress.eta_seconds:.0f} s to go"
    end = "\n" if progress.done == progress.total else ""
    far = f"{progress.done}/{progress.total}"
    if rate := getattr(progress, "bytes_per_second", None):  # an export counts bytes
        far = f"{progress.done / 1e9:.2f}/{progress.total / 1e9:.2f} GB, {rate / 1e6:.0f} MB/s"
    print(f"\r{progress.label} {far}{eta}    ", end=end, file=sys.stderr, flush=True)


def make_folder(folder: Path) -> None:
    """Make a folder for tables. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(sentence(str(folder), "must be a folder for the tables", reason, "Give another.")) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, which appears whole or not at all. Raises OutputError."""
    partial = path.with_name(path.name + ".part")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        must = "must be writable, with room for the file"
        raise OutputError(sentence(str(path), must, reason, "Make room, or give another folder.")) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises OutputError."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
