"""A sweep of one control: every task's score along it, and the mean with its interval."""

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
from viz.charts._sweeps import (
    HONEST,
    Measure,
    Place,
    Shown,
    at,
    at_point,
    axes,
    best,
    caption,
    cursor,
    hover,
    shown,
    table,
)
from viz.charts._words import short
from viz.style import NEUTRAL, NEUTRAL_FAINT, task_colour, task_symbol

HOW = (
    "One point per value of the control; every other setting is as it was when the sweep was started. Thin lines: "
    "each task. Thick line: the number that is compared; its band is the 95 % interval over examples (bootstrap for "
    f"the mean, Wilson for one task). {HONEST}Dotted: chance, what guessing gives. Points far apart come first, then "
    "those between them. Click a point, or drag the cursor along the curve, to set the control; with "
    "the keyboard, arrow keys move the cursor and Enter sets it."
)
Colours = Mapping[str, str] | None


@chart(title="One control, all tasks", how=HOW, result="sweep_curve")
def sweep_curve(
    result: Result, *, measure: Measure = "mean", task: Name = None, colours: Colours = None, current: Place = None
) -> go.Figure:
    """Accuracy along one control, per task and on average, with the present value and the best one marked."""
    if result.table.empty or not result.tasks:
        return blank("No point of this sweep has been scored yet.")
    ordered = result.table.sort_values("x", kind="stable").reset_index(drop=True)
    result = Result(result.kind, result.tasks, ordered, result.columns, result.provenance)
    what, (axis, *_) = shown(result, measure, task), axes(result)
    values = np.array(axis["values"], dtype=float)
    low, high = float(values.min()), float(values.max())
    pad = 0.03 * (high - low or 1)
    lines = _lines(result, what)
    top = max(102.0, float(np.nanmax(lines)) + 4) if np.isfinite(lines).any() else 102.0
    figure = frame(
        430 + 12 * max(0, len(result.tasks) - 8), x=short(axis["label"], 40),
        y="score (% of the expert's)" if what.relative else "score (%)",
        xaxis={"range": [low - pad, high + pad], "automargin": True, "zeroline": False, "showgrid": False},
        yaxis={"range": [0, top], "automargin": True, "zeroline": False},
    )  # fmt: skip
    figure.update_layout(legend={"itemclick": False, "itemdoubleclick": False})
    _band(figure, what)
    told = [hover(result, what, i) for i in range(len(ordered))]
    picks = np.array([{"cell": [int(i)]} for i in ordered["i"]], dtype=object)
    for place, name in enumerate(result.tasks):
        colour = (colours or {}).get(name) or task_colour(place)
        figure.add_scatter(
            x=what.rows["x"].to_numpy(dtype=float), y=lines[place], name=short(name), mode="lines+markers",
            line={"color": colour, "width": 1.5}, opacity=FADED if task and task != name else 0.9,
            marker={"color": colour, "size": 6, "symbol": task_symbol(place)}, hovertext=told, hoverinfo="text",
            customdata=picks,
        )  # fmt: skip
    _measure(figure, what, told, picks)
    _cursor(figure, result, what, at(current, 1), values, top)
    return figure


def _lines(result: Result, what: Shown) -> np.ndarray:
    """What each task's line shows, in percent [tasks, points]: of its expert where the measure is."""
    experts = result.provenance.get("experts", {}) if what.relative else dict.fromkeys(result.tasks, 1.0)
    per = [experts.get(t) or np.nan for t in result.tasks]
    own = [what.rows[f"score:{t}"].to_numpy(dtype=float) for t in result.tasks]
    return 100 * np.array(own) / np.array(per)[:, None]


def _band(figure: go.Figure, what: Shown) -> None:
    known = np.isfinite(what.low) & np.isfinite(what.high)
    if known.sum() < 2:
        return
    x = what.rows["x"].to_numpy(dtype=float)[known]
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]), y=100 * np.concatenate([what.high[known], what.low[known][::-1]]),
        fill="toself", fillcolor=NEUTRAL_FAINT, line={"width": 0}, mode="lines", hoverinfo="skip",
        name="95 % interval",
    )  # fmt: skip


def _measure(figure: go.Figure, what: Shown, told: list[str], picks: np.ndarray) -> None:
    """The thick line, the star on its best point, and chance."""
    x = what.rows["x"].to_numpy(dtype=float)
    if np.isfinite(what.chance):
        ends = np.array([x.min(), x.max()])
        figure.add_scatter(
            x=ends, y=np.full(2, 100 * what.chance), mode="lines", name="chance", hoverinfo="skip",
            line={"color": NEUTRAL, "width": 1.5, "dash": "dot"},
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=100 * what.values, name=short(what.label, 30), mode="lines+markers", hovertext=told, hoverinfo="text",
        line={"color": NEUTRAL, "width": 4}, marker={"color": NEUTRAL, "size": 9}, customdata=picks,
    )  # fmt: skip
    top = best(what)
    if top is not None:
        figure.add_scatter(
            x=x[[top]], y=100 * what.values[[top]], name=f"best of {len(x)}", mode="markers", hoverinfo="skip",
            marker={"symbol": "star", "size": 17, "color": "#fee838", "line": {"color": "#111827", "width": 1.5}},
        )  # fmt: skip


def _cursor(
    figure: go.Figure, result: Result, what: Shown, place: list[float] | None, values: np.ndarray, top: float
) -> None:
    """The line of the present value, and where the panel may put its cursor."""
    row = {int(i): number for number, i in enumerate(what.rows["i"])}
    points = [
        {"x": float(v), "y": top / 2, "value": [i], "text": at_point(result, what, [v], row.get(i, -1))}
        for i, v in enumerate(values)
    ]
    label = f"cursor: set {axes(result)[0]['label']}"
    inside = place is not None and values.min() <= place[0] <= values.max()
    spot = [place[0], top / 2] if place and inside else None
    figure.update_layout(meta={"cursor": cursor(label, points, spot, along="x")})


@sweep_curve.caption
def _caption(result: Result, *, measure: str, task: Name, current: Place, **_: Any) -> str:
    return caption(result, measure, task, current)


@sweep_curve.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    return table(result)
