"""Tables that people bring: CSV, TSV, JSON lines, a JSON list, Parquet, or a folder of `datasets`; row by row.

Nothing is loaded whole: memory holds a line, or a batch of rows, whatever the size of the file. What cannot be read is
a `BadRow` with its place; it is never skipped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from explorer.data.lines import encoding_of
from explorer.errors import DataError, PathError, near, sentence

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".zip")
MAX_COLUMNS = 1000
LOOKED_AT = 200
"""Rows that are read to find the columns of a file, and to guess what they hold."""


@dataclass(frozen=True)
class Raw:
    """One row as the file has it; `number` is its line in the file, or its place among the items."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    number: int
    why: str


Rows = Callable[[], Iterator[Raw | BadRow]]


@dataclass(frozen=True)
class DataFile:
    """A table on disk that was opened: its columns in order, and its rows as often as they are asked for.

    `unit` says what a row's number counts: line, item, row or image. `names`: what the whole numbers of a column stand
    for, where the file says so. `notes`: what was noticed, such as columns that were renamed.
    `pictures`: number and content of every image, where the rows are images.
    """

    path: Path
    format: str
    columns: tuple[str, ...]
    rows: Rows = field(repr=False)
    unit: str = "line"
    encoding: str = ""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pictures: Callable[[], Iterator[tuple[int, bytes]]] | None = field(default=None, repr=False)

    def first(self, n: int = 5) -> list[Raw]:
        """The first good rows."""
        return list(islice((row for row in self.rows() if isinstance(row, Raw)), n))

    def column(self, name: str, n: int = LOOKED_AT) -> list[Any]:
        """The first values of a column; None where a row lacks it."""
        return [row.values.get(name) for row in self.first(n)]


def open_data(
    path: Path | str, *, encoding: str = "auto", split: str = "test", allowed: Sequence[Path] | None = None
) -> DataFile:
    """A table, ready to be read. The format follows from the ending; `split` chooses among those of a folder.

    Raises DataError: no such file, an unknown format, an empty file, a wrong encoding (with byte and line), no columns;
    PathError for a path outside the `allowed` folders.
    """
    path = Path(path).expanduser()
    if allowed is not None and not any(path.resolve().is_relative_to(Path(root).resolve()) for root in allowed):
        must, advice = "must lie in an allowed folder", "Start the app with --models FOLDER, or upload the file."
        raise PathError(sentence("data", must, str(path), advice))
    if path.is_dir():
        from explorer.data.folders import open_folder

        return open_folder(path, split, encoding, allowed)
    if not path.is_file():
        raise DataError(sentence(str(path), "must be a file or a folder of data", "nothing there", "Check the path."))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(s.lstrip(".") for s in SUFFIXES)
        raise DataError(sentence(path.name, f"must be one of {known}", repr(suffix), near(suffix, SUFFIXES)))
    if not path.stat().st_size:
        raise DataError(sentence(path.name, "must hold rows", "an empty file", "Check that it was saved."))
    opened = _open_file(path, suffix, encoding, split)
    if len(opened.columns) > MAX_COLUMNS:
        got, advice = f"{len(opened.columns):,}", "Keep the columns that a task needs."
        raise DataError(sentence(path.name, f"must have at most {MAX_COLUMNS:,} columns", got, advice))
    return opened


def _open_file(path: Path, suffix: str, encoding: str, split: str) -> DataFile:
    if suffix == ".zip":
        from explorer.data.pictures import open_pictures

        return open_pictures(path, split)
    if suffix == ".parquet":
        from explorer.data.arrow import open_parquet

        return open_parquet(path)
    codec = encoding_of(path, encoding)
    if suffix in (".jsonl", ".ndjson", ".json"):
        from explorer.data.json_rows import open_json

        return open_json(path, codec)
    from explorer.data.cells import open_cells

    return open_cells(path, codec, suffix)


def columns_of(rows: Rows, n: int = LOOKED_AT) -> tuple[str, ...]:
    """The keys of the first rows, in the order in which they appear."""
    found: dict[str, None] = {}
    for row in islice(rows(), n):
        found.update(dict.fromkeys(row.values) if isinstance(row, Raw) else {})
    return tuple(found)
