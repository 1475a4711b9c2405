"""From the cells of a row to the values that a field of a task kind holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from explorer.data.labels import LabelMatch, label_text
from explorer.evaluation import Field

SEVERAL = ("texts", "tokens", "labels")
"""Types of fields that hold a list."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Mapped = Mapping[str, tuple[str, ...]]
"""Field name -> the columns that it is read from: one, or for a list one per entry."""


class CellError(Exception):
    """What is wrong with the cells of one row, in words."""


def value_of(
    field: Field, columns: Sequence[str], row: Mapping[str, Any], labels: LabelMatch | None, *, letters: bool = False
) -> Any:
    """The field's value in a row. Raises CellError in words; text stays as it is, whatever it begins with.

    `letters`: a number may be written as a letter, A for 0: the place of a choice.
    """
    cells = [row.get(c) for c in columns]
    if field.type in SEVERAL:
        return _several(field, columns, cells, labels)
    cell = cells[0]
    if cell is None or (isinstance(cell, str) and not cell.strip() and field.type != "text"):
        raise CellError(f"{columns[0]} must hold a value; got nothing")
    if field.type == "label":
        return _label(cell, columns[0], labels)
    if field.type == "number":
        if letters and isinstance(cell, str) and len(cell.strip()) == 1 and cell.strip().upper() in _LETTERS:
            return _LETTERS.index(cell.strip().upper())
        return number_of(cell, columns[0])
    if field.type == "image":
        return cell
    if isinstance(cell, (dict, list)):
        raise CellError(f"{columns[0]} must be text; got a {type(cell).__name__}")
    return cell if isinstance(cell, str) else label_text(cell)


def is_given(columns: Sequence[str], row: Mapping[str, Any]) -> bool:
    """Whether a row holds anything in these columns: what is optional may be left out."""
    return any(row.get(c) not in (None, "") for c in columns)


def number_of(cell: Any, column: str) -> int | float:
    """A finite number, whole where it is one. Raises CellError."""
    try:
        value = float(cell) if not isinstance(cell, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise CellError(f"{column} must be a number; got {_short(cell)}")
    return int(value) if value == int(value) and not isinstance(cell, float) and "." not in str(cell) else value


def _label(cell: Any, column: str, labels: LabelMatch | None) -> int:
    if labels is None:
        number = number_of(cell, column)
        if not isinstance(number, int):
            raise CellError(f"{column} must be a whole number; got {_short(cell)}")
        return number
    place = labels.place(cell)
    if place is None:
        raise CellError(f"{column} must be a label that the head has; got {_short(cell)}")
    return place


def _several(field: Field, columns: Sequence[str], cells: Sequence[Any], labels: LabelMatch | None) -> list[Any]:
    values = list_of(cells[0], field.type) if len(columns) == 1 else [c for c in cells if c not in (None, "")]
    if not values:
        raise CellError(f"{', '.join(columns)} must hold a list; got nothing")
    if field.type == "labels":
        return [_label(v, columns[0], labels) for v in values]
    return [v if isinstance(v, str) else label_text(v) for v in values]


def list_of(cell: Any, type: str) -> list[Any]:
    """A list as it is; JSON text of one; else the words of a text, or for `texts` its parts between bars."""
    if isinstance(cell, (list, tuple)):
        return list(cell)
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):  # such as ARC: {"text": […], "label": […]}
        return list(cell["text"])
    if not isinstance(cell, str):
        return []
    if cell.lstrip().startswith("["):
        try:
            value = json.loads(cell)
        except ValueError:
            value = None
        if isinstance(value, list):
            return value
    if type != "texts":
        return cell.split()
    return [part.strip() for part in cell.split("|") if part.strip()]


def _short(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else text[:57] + "…'"
