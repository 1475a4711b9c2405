"""How a chart shows what is selected: an outline that is visible on every colour and on both pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

Pair = tuple[str, str] | None
"""A chosen pair of tasks, or None."""
Name = str | None
"""A chosen task, layer or kind of module, or None."""

_HALO, _LINE = "#ffffff", "#111827"
FADED = 0.25
"""Opacity of the marks of other tasks while one task or pair is selected."""


def outline(figure: go.Figure, x: Sequence[float], y: Sequence[float], **axes: str) -> None:
    """Draw a frame around the rectangle x[0]-x[1] by y[0]-y[1]: dark on a light halo.

    `axes` may name others than the first two (`xref`, `yref`).
    """
    corners = {"x0": x[0], "x1": x[1], "y0": y[0], "y1": y[1], "type": "rect", "fillcolor": "rgba(0,0,0,0)", **axes}
    for colour, width in ((_HALO, 5), (_LINE, 2)):
        figure.add_shape(line={"color": colour, "width": width}, name="selected", **corners)


def outline_square(figure: go.Figure, order: Sequence[str], pair: Pair, task: Name) -> None:
    """Frame both squares of the pair, or the row and the column of the task, in a task x task map."""
    for a, b in [] if pair is None else [pair, pair[::-1]]:
        i, j = order.index(a), order.index(b)
        outline(figure, (i - 0.5, i + 0.5), (j - 0.5, j + 0.5))
    if task is not None:
        at, ends = order.index(task), (-0.5, len(order) - 0.5)
        outline(figure, (at - 0.5, at + 0.5), ends)
        outline(figure, ends, (at - 0.5, at + 0.5))


def outline_cell(figure: go.Figure, columns: Sequence[str], rows: Sequence[str], column: Name, row: Name) -> None:
    """Frame a cell of a map; a whole column or row where only one of the two is named; nothing that is not there."""
    if (column or row) and (column is None or column in columns) and (row is None or row in rows):
        x, y = (-0.5, len(columns) - 0.5), (-0.5, len(rows) - 0.5)
        if column is not None:
            x = (columns.index(column) - 0.5, columns.index(column) + 0.5)
        if row is not None:
            y = (rows.index(row) - 0.5, rows.index(row) + 0.5)
        outline(figure, x, y)


def stressed(task: str, pair: Pair, chosen: Name) -> bool:
    """Whether a task's marks keep their strength: it is selected, or nothing is."""
    names: tuple[str, ...] = (*(pair or ()), *((chosen,) if chosen else ()))
    return not names or task in names


def pick_of(level: str, name: str) -> dict[str, Any] | None:
    """`customdata` of a mark for one scope: a layer, a kind of module, or nothing for the whole model."""
    return {level: name} if level in ("layer", "kind") else None
