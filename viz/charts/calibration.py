"""Reliability diagram: how often answers of a given confidence are right, for each model on one task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, frame
from viz.charts._mark import FADED, Name
from viz.charts._tables import Row, records
from viz.charts._words import cut, lines, safe, short
from viz.style import NEUTRAL, percent, task_colour

HOW = (
    "Answers are sorted into bins by the model's confidence: the softmax probability of the answer it gave. Dot: mean "
    "confidence of a bin, and the share of its answers that are right; its area grows with the number of examples. "
    "Line: 95 % Wilson interval. Dotted diagonal: confidence as it should be; below it, the model promises too much. "
    "The calibration error is the mean distance from the diagonal over all examples. It is never 0: beside it stands "
    "what chance gives a model whose confidence is exact, at this number of examples."
)
Colours = Mapping[str, str] | None
STYLES = {"merged": ("circle", "solid"), "expert": ("diamond-open", "dash"), "base": ("square-open", "dot")}
_OTHERS = (("triangle-up", "dashdot"), ("cross", "longdash"), ("star", "longdashdot"))
EMPTY = "No task here has answers with a confidence yet."


def _task(result: Result, task: Name) -> str | None:
    """The task that is drawn: the selected one where it is known, else the first."""
    known = [t for t in result.tasks if (result.table["task"] == t).any()]
    return task if task in known else known[0] if known else None


def _rows(result: Result, task: str | None, part: str) -> pd.DataFrame:
    table = result.table
    return table[(table["task"] == task) & (table["part"] == part)].reset_index(drop=True)


@chart(title="Can the confidence be believed?", how=HOW, result="calibration")
def calibration(result: Result, *, task: Name = None, colours: Colours = None) -> go.Figure:
    """Confidence against how often it is right, for every model on one task."""
    shown = _task(result, task)
    if shown is None:
        return blank(EMPTY)
    bins, whole = _rows(result, shown, "bin"), _rows(result, shown, "whole")
    ends = {"range": [-3, 103], "zeroline": False, "automargin": True, "nticks": 6}
    figure = frame(
        430 + 18 * -(-len(whole) // 2), x="confidence (%)", y=f"right answers on {short(shown, 24)} (%)",
        xaxis=ends, yaxis=dict(ends),
    )  # fmt: skip
    line = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
    figure.add_shape(type="line", x0=0, y0=0, x1=100, y1=100, line=line, layer="below")
    colour = (colours or {}).get(shown) or task_colour(result.tasks.index(shown))
    others = 0
    for place, row in enumerate(records(whole)):
        model = str(row["model"])
        look = STYLES.get(model) or _OTHERS[others % len(_OTHERS)]
        others += model not in STYLES
        own = {"merged": colour, "expert": colour, "base": NEUTRAL}.get(model) or task_colour(7 + place)
        _add(figure, row, bins[bins["model"] == model], own, look)
    if task is not None and task == shown:
        figure.add_annotation(
            text=short(shown, 32), xref="paper", yref="paper", x=0.02, y=0.98, xanchor="left", yanchor="top",
            showarrow=False, font={"size": 13},
        )  # fmt: skip
    return figure


def _add(figure: go.Figure, row: Row, bins: pd.DataFrame, colour: str, look: tuple[str, str]) -> None:
    bins = bins.sort_values("bin")
    at = 100 * bins["right"].to_numpy(dtype=float)
    n = bins["n"].to_numpy(dtype=float)
    figure.add_scatter(
        x=100 * bins["confidence"].to_numpy(dtype=float), y=at, mode="lines+markers",
        name=f"{short(row['model'], 20)}: error {percent(row['error'])}",
        opacity=1 if row["model"] == "merged" else 1 - FADED,
        line={"color": colour, "width": 1.5, "dash": look[1]},
        marker={"color": colour, "symbol": look[0], "size": 6 + 14 * np.sqrt(n / max(1.0, float(row["n"])))},
        error_y={"type": "data", "symmetric": False, "array": 100 * bins["high"].to_numpy(dtype=float) - at,
                 "arrayminus": at - 100 * bins["low"].to_numpy(dtype=float), "color": colour, "thickness": 1,
                 "width": 3},
        hovertext=[_hover(one, row) for one in records(bins)], hoverinfo="text",
        customdata=np.array([{"task": str(row["task"])}] * len(bins), dtype=object),
    )  # fmt: skip


def _hover(one: Row, whole: Row) -> str:
    return lines(
        f"{safe(one['task'])} · {safe(one['model'])}",
        f"confidence above {percent(one['from'])}, up to {percent(one['to'])}: on average {percent(one['confidence'])}",
        f"right {percent(one['right'])}, 95 % interval {percent(one['low'])} to {percent(one['high'])}",
        f"{int(one['n']):,} of {int(whole['n']):,} examples",
        f"calibration error of all {percent(whole['error'], 2)} (chance {percent(whole['null'], 2)})",
    )


@calibration.caption
def _caption(result: Result, *, task: Name, **_: Any) -> str:
    shown = _task(result, task)
    if shown is None:
        return EMPTY
    rows = records(_rows(result, shown, "whole"))
    told = [_said(row) for row in rows[:3]]
    more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
    n, total = int(rows[0]["n"]), int(rows[0]["n_total"])
    so_far = f"the {n:,} of {total:,} examples scored so far" if n < total else f"{n:,} examples"
    return f"Calibration error on {so_far} of {cut(shown, 24)}: {'; '.join(told)}{more}."


def _said(row: Row) -> str:
    value = f"{cut(row['model'], 16)} {percent(row['error'])}"
    if not row["error"] > row["null_high"]:
        return f"{value}, within what chance gives an exact confidence ({percent(row['null'])} on average)"
    over = float(row["overconfidence"])
    way = "too sure" if over > 0 else "not sure enough"
    return f"{value} (chance {percent(row['null'])}), on average {percent(abs(over))} {way}"


@calibration.table
def _table(result: Result, *, task: Name, **_: Any) -> pd.DataFrame:
    return result.table[result.table["task"] == _task(result, task)].drop(columns=["n_total"])
