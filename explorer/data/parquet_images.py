"""Pictures in a Parquet file, as `datasets` writes them: a column of {bytes, path} and one of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from explorer.data.images import Found, ImageSet, Limits, problem, require_limits
from explorer.errors import DataError, near, sentence

_ROWS_AT_ONCE = 64


def images_in_parquet(path: Path, limits: Limits, image: str, label: str) -> ImageSet:
    """Pictures of a Parquet file in its order; labels that are numbers get their names where the file holds them.

    Raises DataError where pyarrow is not installed, the file cannot be read or lacks the columns, or it is too large.
    """
    file = _opened(path)
    names = file.schema_arrow.names
    problems = [
        sentence(path.name, f"must have a column {wanted!r}", f"{len(names)} others", near(wanted, names))
        for wanted in (image, label)
        if wanted not in names
    ]
    if problems:
        raise DataError("\n".join(problems))
    require_limits(path.name, file.metadata.num_rows, 0, limits)
    known = _label_names(file.schema_arrow.metadata or {}, label)
    rows, kept, wrong, total = [], [], [], 0
    for number, (content, given) in enumerate(_cells(path, image, label), start=1):
        name = f"row {number}"
        said = _problem(content, given, known, limits)
        if said:
            wrong.append(problem(name, said))
            continue
        total += len(content)
        require_limits(path.name, 0, total, limits)
        rows.append(Found(name, _label(given, known)))
        kept.append(number)
    return ImageSet(tuple(rows), tuple(wrong), lambda: _contents(path, image, label, kept), known, limits)


def _opened(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        advice = "Install it with: pip install pyarrow"
        raise DataError(sentence(path.name, "needs pyarrow to be read", "none installed", advice)) from error
    try:
        return ParquetFile(path)
    except Exception as error:  # pyarrow has many kinds of error for a broken file
        got = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            sentence(path.name, "must be a Parquet file that can be read", got, "Write it again.")
        ) from error


def _label_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """The names of a ClassLabel column, which `datasets` keeps as JSON in the schema; empty where there are none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = features[label].get("names", ())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(str(n) for n in names) if isinstance(names, list) else ()


def _cells(path: Path, image: str, label: str) -> Iterator[tuple[Any, Any]]:
    """Bytes (or None) and label of every row; a few rows are in memory at a time."""
    file = _opened(path)
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[image, label]):
        labels = batch.column(label).to_pylist()
        for cell, given in zip(batch.column(image).to_pylist(), labels, strict=True):
            yield (cell.get("bytes") if isinstance(cell, dict) else cell), given


def _problem(content: Any, given: Any, known: Sequence[str], limits: Limits) -> str | None:
    if not isinstance(content, bytes):
        return "must hold the picture's bytes; got " + ("nothing" if content is None else type(content).__name__)
    if not 0 < len(content) <= limits.picture_bytes:
        return f"must have 1 to {limits.picture_bytes:,} bytes; got {len(content):,}"
    if given is None or given == "":
        return "must have a label; got none"
    if known and not (isinstance(given, int) and 0 <= given < len(known)):
        return f"must have a label from 0 to {len(known) - 1}; got {given!r}"
    return None


def _label(given: Any, known: Sequence[str]) -> str:
    return known[given] if known else str(given)


def _contents(path: Path, image: str, label: str, kept: Sequence[int]) -> Iterator[bytes]:
    wanted = set(kept)
    for number, (content, _) in enumerate(_cells(path, image, label), start=1):
        if number in wanted:
            yield content
