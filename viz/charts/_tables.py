"""Reading result tables: layers in depth order, one row or matrix per scope, pairs in either order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from explorer.results import Result

Row = Mapping[Any, Any] | pd.Series
"""One row of a table."""


def ordered(rows: pd.DataFrame, column: str) -> list[str]:
    """The distinct names of a scope column: layers by depth, anything else as first met."""
    if column == "layer":
        rows = rows.sort_values("layer_index", kind="stable")
    return [str(name) for name in rows[column].drop_duplicates()]


def at_threshold(result: Result, mask_threshold: float) -> tuple[pd.DataFrame, float]:
    """The rows of the computed mask threshold nearest to the wanted one, and that threshold (NaN if none)."""
    grid = np.unique(result.table["threshold"].to_numpy(dtype=float))
    if not grid.size:
        return result.table, math.nan
    nearest = float(grid[np.argmin(np.abs(grid - mask_threshold))])
    return result.table[result.table["threshold"] == nearest], nearest


def model_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that sum over the whole model."""
    return rows[rows["level"] == "model"].reset_index(drop=True)


def between(rows: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """The rows of pairs of different, known tasks."""
    known = rows["task_a"].isin(list(tasks)) & rows["task_b"].isin(list(tasks))
    return rows[known & (rows["task_a"] != rows["task_b"])].reset_index(drop=True)


def of_pair(rows: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    """The rows of one pair, whichever of the two comes first in the table."""
    a, b = pair
    straight = (rows["task_a"] == a) & (rows["task_b"] == b)
    crossed = (rows["task_a"] == b) & (rows["task_b"] == a)
    return rows[straight if straight.any() else crossed].reset_index(drop=True)


def pooled(rows: pd.DataFrame, value: str, weight: str) -> float:
    """Exact rate over several rows: the weighted mean with the counts that the rates were formed over."""
    weights = rows[weight].to_numpy(dtype=float)
    values = rows[value].to_numpy(dtype=float)
    known = np.isfinite(values) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else math.nan


def top(rows: pd.DataFrame, values: pd.Series) -> pd.Series:
    """The row with the largest of the values given per row; NaN never wins. There must be one that is not NaN."""
    return rows.iloc[int(np.nanargmax(values.to_numpy(dtype=float)))]


def records(rows: pd.DataFrame) -> list[Row]:
    """The rows one by one, as dicts: a slider waits for this, and `iterrows` takes twenty times as long."""
    return list(rows.to_dict("records"))


def number(row: Row, column: str) -> float:
    """One number of a row, NaN where it is missing."""
    value = row.get(column)
    return float(value) if isinstance(value, (int, float, np.number)) else math.nan
