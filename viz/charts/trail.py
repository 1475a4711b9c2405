"""The trail of settings: whether each move helped, on average and for the worst task."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, frame
from viz.charts._tables import top
from viz.charts._words import lines, safe
from viz.style import NEGATIVE, NEUTRAL, POSITIVE, percent

HOW = (
    "One step to the right per setting you tried. Line with circles: score as a percentage of each task's expert, "
    "averaged over the tasks. Dashed line with squares: the same for the task that is worst at that setting. 100 % is "
    "as good as the separate experts; the chance level differs per task and is in the scores figure. Hollow marks are "
    "quick estimates on some of the examples. The ring marks the setting that is shown now."
)

_LINES = (
    ("normalized", "average of tasks", POSITIVE, "solid", "circle"),
    ("worst", "worst task", NEGATIVE, "dash", "square"),
)


def _rows(result: Result) -> pd.DataFrame:
    return result.table.sort_values("move", kind="stable").reset_index(drop=True)


def _now(rows: pd.DataFrame, current: int | None) -> pd.Series:
    """The row of the current move, or the last one."""
    at = rows[rows["move"] == current] if current is not None else rows
    return (at if len(at) else rows).iloc[-1]


def _hover(row: pd.Series) -> str:
    return lines(
        f"move {int(row['move'])} · {safe(row['method'])}",
        safe(row["label"]),
        f"average {percent(row['normalized'], 2)} of the experts",
        f"worst {safe(row['worst_task'])} {percent(row['worst'], 2)}",
        "" if row["complete"] else "quick estimate on some of the examples",
    )


@chart(title="Did the last move help?", how=HOW, result="trail")
def trail(result: Result, *, current: int | None = None) -> go.Figure:
    """Average and worst score relative to the experts, for every setting tried so far."""
    rows = _rows(result)
    if rows.empty:
        return blank("Move a slider: every setting you try is kept here.")
    moves = rows["move"].to_numpy(dtype=float)
    complete = rows["complete"].to_numpy(dtype=bool)
    hover = [_hover(row) for _, row in rows.iterrows()]
    picks = np.array([{"move": int(move)} for move in moves], dtype=object)
    figure = frame(
        300, x="move (number of the setting)", y="score (% of the experts)",
        xaxis={"tickformat": "d", "automargin": True, "nticks": 8, "dtick": 1 if len(rows) <= 8 else None,
               "range": [moves.min() - 0.6, moves.max() + 0.6], "showgrid": False, "zeroline": False},
        yaxis={"automargin": True, "ticksuffix": ""},
    )  # fmt: skip
    for column, name, colour, dash, symbol in _LINES:
        figure.add_scatter(
            x=moves, y=100 * rows[column].to_numpy(dtype=float), name=name, mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2}, hovertext=hover, hoverinfo="text",
            customdata=picks,
            marker={"color": colour, "size": 8, "symbol": [symbol if c else symbol + "-open" for c in complete]},
        )  # fmt: skip
    now = _now(rows, current)
    figure.add_scatter(
        x=np.array([float(now["move"])] * 2), y=100 * np.array([now["normalized"], now["worst"]], dtype=float),
        name="shown now", mode="markers", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 17, "color": NEUTRAL, "line": {"width": 2}},
    )  # fmt: skip
    return figure


@trail.caption
def _caption(result: Result, *, current: int | None) -> str:
    rows = _rows(result)
    if rows.empty:
        return "No setting has been tried yet."
    now = _now(rows, current)
    quick = "" if now["complete"] else " (quick estimate)"
    said = f"Move {int(now['move'])} ({now['method']}) reaches {percent(now['normalized'])} of the experts{quick}"
    earlier = rows[rows["move"] < now["move"]]
    if len(earlier):
        before = earlier.iloc[-1]
        change = float(now["normalized"] - before["normalized"])
        # Equal to the digit that is printed.
        word = "about the same as" if not abs(change) >= 0.0005 else ("up from" if change > 0 else "down from")
        said += f", {word} {percent(before['normalized'])} before"
    best = top(rows, rows["normalized"]) if rows["normalized"].notna().any() else now
    if math.isfinite(best["normalized"]) and best["move"] != now["move"]:
        said += f"; the best so far is move {int(best['move'])} with {percent(best['normalized'])}"
    return f"{said}; worst task now: {now['worst_task']} with {percent(now['worst'])}."


@trail.table
def _table(result: Result, *, current: int | None) -> pd.DataFrame:
    kept = ["move", "method", "label", "normalized", "worst", "worst_task", "complete"]
    return _rows(result)[kept]
