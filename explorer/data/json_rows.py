"""JSON lines, and one JSON list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from explorer.data.lines import lines_of
from explorer.data.reading import BadRow, DataFile, Raw, columns_of
from explorer.errors import DataError, sentence

MAX_LIST_BYTES = 64 << 20
"""A JSON list is read whole, so it may not be larger; JSON lines may."""


def open_json(path: Path, codec: str) -> DataFile:
    """JSON objects, one a line; or one list of them, alone or as the only list of an object.

    Raises DataError for a list larger than MAX_LIST_BYTES, for broken JSON, and where no object is found.
    """
    first = next((line.text for line in islice(lines_of(path, codec), 100) if line.text.strip()), "")
    if first.lstrip().startswith("[") or (first.strip() in ("{",) and path.suffix.lower() == ".json"):
        items = _list_of(path, codec)
        rows = partial(_from_items, items)
        return DataFile(path, "json", _columns(path, rows), rows, unit="item", encoding=codec)
    rows = partial(_from_lines, path, codec)
    return DataFile(path, "jsonl", _columns(path, rows), rows, encoding=codec)


def _columns(path: Path, rows: Any) -> tuple[str, ...]:
    found = columns_of(rows)
    if not found:
        bad = next((r for r in rows() if isinstance(r, BadRow)), None)
        got = f"none; first: {bad.why}" if bad else "none"
        raise DataError(sentence(path.name, "must hold JSON objects", got, 'Write {"text": "…", "label": 0} per line.'))
    return found


def _from_lines(path: Path, codec: str) -> Iterator[Raw | BadRow]:
    for line in lines_of(path, codec):
        if line.cut:
            yield BadRow(line.number, "must be shorter: the line has more than a million characters")
        elif line.text.strip():
            yield _row(line.number, partial(json.loads, line.text))


def _from_items(items: list[Any]) -> Iterator[Raw | BadRow]:
    for number, item in enumerate(items, start=1):
        yield _row(number, lambda item=item: item)


def _row(number: int, read: Any) -> Raw | BadRow:
    try:
        value = read()
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"must be one JSON object; got {getattr(error, 'msg', 'a number or nesting too large')}")
    if not isinstance(value, dict):
        return BadRow(number, f"must be a JSON object; got {type(value).__name__}")
    return Raw(number, value)


def _list_of(path: Path, codec: str) -> list[Any]:
    size = path.stat().st_size
    if size > MAX_LIST_BYTES:
        must, got = f"a JSON list may have at most {MAX_LIST_BYTES >> 20} MiB", f"{size >> 20:,} MiB"
        raise DataError(sentence(path.name, must, got, "Write JSON lines (one object a line), which may be any size."))
    try:
        value = json.loads("\n".join(line.text for line in lines_of(path, codec)))
    except (ValueError, RecursionError) as error:
        advice = "Mend the line it names."
        raise DataError(sentence(path.name, "must be JSON", str(error)[:200], advice)) from error
    lists = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else [value]
    if len(lists) != 1:
        got = f"an object with {len(lists)} lists"
        raise DataError(sentence(path.name, "must be one list of objects", got, "Write the list alone."))
    return lists[0]
