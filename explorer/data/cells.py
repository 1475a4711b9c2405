"""CSV and its relatives: the delimiter is found out, quotes may hold line ends, every row has the header's width."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from explorer.data.lines import Line, lines_of
from explorer.data.reading import BadRow, DataFile, Raw
from explorer.errors import DataError, sentence

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_SNIFFED = 50


def open_cells(path: Path, codec: str, suffix: str) -> DataFile:
    """A file of delimited cells whose first row names the columns. Every value is text, formulas too.

    Raises DataError when there is no header row.
    """
    delimiter = _delimiter([line.text for line in islice(lines_of(path, codec), _SNIFFED)], suffix)
    header = next(_records(path, codec, delimiter), None)
    if header is None or isinstance(header, BadRow):
        got = header.why if header else "only empty lines"
        raise DataError(sentence(path.name, "the first row must name the columns", got, "Add a header row."))
    columns, notes = _columns(header[1])
    width = len(columns)
    notes = (f"cells are separated by {DELIMITERS[delimiter]}s", *notes) if width > 1 else notes
    rows = partial(_rows, path, codec, delimiter, columns)
    return DataFile(path, suffix.lstrip("."), columns, rows, encoding=codec, notes=notes)


def _delimiter(lines: Sequence[str], suffix: str) -> str:
    """The delimiter that cuts most of the first lines into as many cells as the header, and into most cells."""

    def fit(delimiter: str) -> tuple[float, int]:
        try:
            rows = [r for r in csv.reader(lines, delimiter=delimiter, strict=False) if r]
        except csv.Error:
            return 0.0, 0
        width = len(rows[0]) if rows else 0
        # The last row may be cut in the middle of a quote.
        alike = sum(len(r) == width for r in rows[:-1] or rows) / max(1, len(rows[:-1] or rows))
        return (alike if width > 1 else 0.0), width

    preferred = sorted(DELIMITERS, key=lambda d: d != ("\t" if suffix == ".tsv" else ","))
    fits = {d: fit(d) for d in preferred}
    if fits[preferred[0]][0] >= 0.5:
        return preferred[0]
    return max(preferred, key=lambda d: fits[d])


def _columns(header: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The header's names, made different from one another, and what was renamed."""
    columns: list[str] = []
    notes = []
    for place, cell in enumerate(header, start=1):
        name = cell.strip() or f"column {place}"
        again = sum(c == name or c.startswith(f"{name} (") for c in columns)
        if name in columns:
            notes.append(f"the header names {name!r} twice: column {place} is called {f'{name} ({again + 1})'!r} here")
            name = f"{name} ({again + 1})"
        columns.append(name)
    return tuple(columns), tuple(notes)


def _rows(path: Path, codec: str, delimiter: str, columns: Sequence[str]) -> Iterator[Raw | BadRow]:
    for record in islice(_records(path, codec, delimiter), 1, None):
        if isinstance(record, BadRow):
            yield record
            continue
        number, cells = record
        if len(cells) != len(columns):
            yield BadRow(number, f"must have {len(columns)} cells, as the header has; got {len(cells)}")
        elif any("\0" in cell for cell in cells):
            yield BadRow(number, "must hold text; got a NUL character")
        else:
            yield Raw(number, dict(zip(columns, cells, strict=True)))


def _records(path: Path, codec: str, delimiter: str) -> Iterator[tuple[int, list[str]] | BadRow]:
    """Rows of cells with the line on which each begins; empty lines are none."""
    seen = _Seen()
    reader = csv.reader(seen.each(lines_of(path, codec)), delimiter=delimiter)
    while True:
        seen.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(seen.first, _in_words(error, seen))
            continue
        if seen.cut:
            yield BadRow(seen.first, "must be shorter: the line has more than a million characters")
        elif cells:
            yield seen.first, cells


class _Seen:
    """Which lines the row that is being read takes."""

    def __init__(self) -> None:
        self.last = 0
        self.begin()

    def begin(self) -> None:
        self.first, self.cut = self.last + 1, False

    def each(self, lines: Iterator[Line]) -> Iterator[str]:
        for line in lines:
            self.last, self.cut = line.number, self.cut or line.cut
            yield line.text + "\n"


def _in_words(error: csv.Error, seen: _Seen) -> str:
    """What the reader says, where its own words help nobody."""
    if "field limit" in str(error):
        to = f" (read to line {seen.last:,})" if seen.last > seen.first else ""
        return f"a cell must have at most {csv.field_size_limit():,} characters; is a quote never closed?{to}"
    return f"must be a row of cells; got {error}"
