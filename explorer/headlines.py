"""The numbers of a survey that are read first: of every metric its most telling one, beside what chance would give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from explorer.interference import METRICS
from explorer.results import SCOPE_COLUMNS, Result

_WHERE = ("threshold", "task_a", "task_b", "task", "k", "density")


def headlines(results: Mapping[str, Result], *, mask_threshold: float = 0.4) -> list[dict[str, Any]]:
    """One entry per metric, for the whole model: value, null, where it was found, and how many rows lie above chance.

    The value is the metric's own column (or the one before `null`) in the row that lies furthest from its null, on the
    side that means interference where the metric has one. `above_null` of `rows` counts plain excess: a null without
    a deviation says nothing about significance. Metrics whose values equal their null everywhere, or have none, are
    left out; thresholds other than the one nearest to `mask_threshold` too.
    """
    found = [_headline(name, result, mask_threshold) for name, result in results.items() if name in METRICS]
    return [entry for entry in found if entry]


def _headline(name: str, result: Result, mask_threshold: float) -> dict[str, Any] | None:
    metric = METRICS.get(name)
    rows, column = nearest(result.at("model"), mask_threshold), value_column(result)
    if column is None or rows.empty:
        return None
    value, null = rows[column].astype(float), rows["null"].astype(float)
    excess = (value - null).dropna()
    if excess.empty or not excess.abs().max() > 0:
        return None
    sides = {True: excess, False: -excess, None: excess.abs()}
    at = sides[metric.higher_is_worse].idxmax()
    row = cast(dict[str, Any], rows.loc[[at]].to_dict(orient="records")[0])
    return {
        "metric": name,
        "title": metric.title,
        "column": column,
        "unit": metric.unit,
        "share": any(c.name == column and c.low == 0 and (c.high or 2) <= 1 for c in result.columns),
        "value": plain(row[column]),
        "null": plain(row["null"]),
        **({"null_sd": plain(row["null_sd"])} if "null_sd" in rows else {}),
        "where": {key: plain(row[key]) for key in _WHERE if key in rows},
        "rows": len(excess),
        "above_null": int((excess > 0).sum()),
        "higher_is_worse": metric.higher_is_worse,
    }


def value_column(result: Result) -> str | None:
    """The column that `null` is the chance level of: the one called like the metric, else the number before `null`."""
    names = [c.name for c in result.columns if c.name not in SCOPE_COLUMNS and c.type != "text"]
    if result.kind in names:
        return result.kind
    return names[names.index("null") - 1] if "null" in names[1:] else None


def nearest(rows: pd.DataFrame, mask_threshold: float) -> pd.DataFrame:
    """The rows at the threshold nearest to `mask_threshold`; all of them where there are no thresholds."""
    if "threshold" not in rows or rows.empty:
        return rows
    return rows[rows["threshold"] == rows["threshold"].iloc[int((rows["threshold"] - mask_threshold).abs().argmin())]]


def plain(value: Any) -> Any:
    """A cell as JSON takes it, every digit kept; None where there is no number."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
