"""Task x task squares: values, texts and hovers of pair rows at both places of the matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from viz.charts._figure import downwards, names_axis
from viz.charts._tables import Row, number, records
from viz.charts._words import lines

Side = str
"""Which half of the matrix is filled: "both", "lower" (below the diagonal) or "upper"."""


def pair_grid(
    rows: pd.DataFrame,
    tasks: Sequence[str],
    cell: Callable[[Row], Any],
    fill: Any,
    dtype: type,
    side: Side = "both",
) -> np.ndarray:
    """[T, T] of `cell(row)` at both places of each pair, or in one half; `fill` on the diagonal and elsewhere."""
    place = {task: i for i, task in enumerate(tasks)}
    filled: np.ndarray = np.full((len(tasks), len(tasks)), fill, dtype=dtype)
    for row in records(rows):
        i, j = place[row["task_a"]], place[row["task_b"]]
        value = cell(row)
        if side != "upper":
            filled[max(i, j), min(i, j)] = value
        if side != "lower":
            filled[min(i, j), max(i, j)] = value
    return filled


def distances(rows: pd.DataFrame, tasks: Sequence[str], distance: Callable[[Row], float]) -> np.ndarray:
    """[T, T] of `distance(row)` of every two tasks, 0 on the diagonal; NaN for pairs that were not compared."""
    found = pair_grid(rows, tasks, distance, np.nan, float)
    np.fill_diagonal(found, 0)
    return found


def of_each(rows: pd.DataFrame, column: str) -> dict[str, float]:
    """A value of each single task, from `column_a` or `column_b` of whichever row names the task first."""
    known: dict[str, float] = {}
    for row in records(rows):
        known.setdefault(row["task_a"], number(row, f"{column}_a"))
        known.setdefault(row["task_b"], number(row, f"{column}_b"))
    return known


def no_row() -> str:
    """Hover of the diagonal and of pairs that were not compared."""
    return lines("not compared")


def square(tasks: Sequence[str]) -> dict[str, Any]:
    """Layout of a matrix with the first task top left, its names given to picks."""
    every = 1 if len(tasks) <= 24 else None
    # On a telephone only every second of many columns has room for a name; the rows have them all.
    columns = names_axis(tasks, 14, 2 if 12 < len(tasks) <= 24 else every)
    # plotly sets the title too near to upright labels, hence the greater distance.
    columns |= {"tickangle": -45} if len(tasks) <= 10 else {"tickangle": -90, "title": {"standoff": 30}}
    return {
        "xaxis": columns,
        "yaxis": downwards(names_axis(tasks, 14, every)),
        "meta": {"x": list(tasks), "y": list(tasks)},
    }


def square_height(tasks: int) -> int:
    """Height in pixels at which names stay readable and squares stay near square on a telephone."""
    return 190 + max(120, min(36, 560 // tasks) * tasks)


def diagonal(values: Sequence[Any], dtype: type, fill: Any) -> np.ndarray:
    """[T, T] with the values on the diagonal."""
    filled: np.ndarray = np.full((len(values), len(values)), fill, dtype=dtype)
    for i, value in enumerate(values):
        filled[i, i] = value
    return filled


def pair_picks(tasks: Sequence[str]) -> np.ndarray:
    """[T, T] of what a click on each square selects: the pair, or on the diagonal the task."""
    picks: np.ndarray = np.empty((len(tasks), len(tasks)), dtype=object)
    for i, a in enumerate(tasks):
        for j, b in enumerate(tasks):
            picks[i, j] = {"task": a} if i == j else {"pair": [a, b]}
    return picks
