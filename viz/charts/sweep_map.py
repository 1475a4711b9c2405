"""A sweep of two controls: a map of the mean, filling in from coarse to fine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import MAX_TICKS, blank, colour_bar, frame, ground
from viz.charts._mark import Name
from viz.charts._sweeps import (
    HONEST,
    Measure,
    Place,
    at,
    at_point,
    axes,
    best,
    caption,
    cursor,
    hover,
    not_scored,
    shown,
    table,
)
from viz.charts._words import grid, safe, short
from viz.style import SEQUENTIAL

HOW = (
    "One cell per pair of values; every other setting is as it was when the sweep was started. A cell with a gap "
    "around it is scored; a paler one without takes the colour of the nearest scored cell until its own turn comes; "
    f"cells without colour are still unknown. {HONEST}The colours run from the lowest to the highest number here, so "
    "a strong contrast may be a small difference: the bar says how small, and the caption what chance gives. Click a "
    "cell, or drag the ring to it, to set both controls; arrow keys move the ring and Enter sets it."
)


@chart(title="Two controls", how=HOW, result="sweep_map")
def sweep_map(result: Result, *, measure: Measure = "mean", task: Name = None, current: Place = None) -> go.Figure:
    """A number for every pair of values of two controls, with the present setting and the best one marked."""
    if result.table.empty or not result.tasks:
        return blank("No point of this sweep has been scored yet.")
    what, (across, up) = shown(result, measure, task), axes(result)[:2]
    xs, ys = (np.array(axis["values"], dtype=float) for axis in (across, up))
    scored, nearest = _cells(what.rows, what.values, len(ys), len(xs))
    figure = frame(
        190 + int(np.clip(34 * len(ys), 150, 460)), x=short(across["label"], 40), y=short(up["label"], 26),
        xaxis=_axis(xs), yaxis=_axis(ys),
    )  # fmt: skip
    known = 100 * what.values[np.isfinite(what.values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    low, high = (low, high) if high - low >= 1 else (low - 0.5, high + 0.5)
    common = {"zmin": low, "zmax": high, "colorscale": SEQUENTIAL}
    standing = np.where(nearest >= 0, 100 * what.values[nearest], np.nan)
    told, picks = grid(len(ys), len(xs)), grid(len(ys), len(xs), None)
    for j, i in np.ndindex(len(ys), len(xs)):
        picks[j, i] = {"cell": [int(i), int(j)]}
        one, row = int(nearest[j, i]), int(scored[j, i])
        near = [float(what.rows.iloc[one][c]) for c in "xy"] if one >= 0 else None
        told[j, i] = hover(result, what, row) if row >= 0 else not_scored(result, [float(xs[i]), float(ys[j])], near)
    ground(figure).add_heatmap(
        z=np.where(scored >= 0, np.nan, standing), opacity=0.45, showscale=False, hoverinfo="skip", name="coarse",
        **common,
    )  # fmt: skip
    figure.add_heatmap(
        z=np.where(scored >= 0, standing, np.nan), xgap=2, ygap=2, hovertext=told, hoverinfo="text", customdata=picks,
        colorbar=colour_bar(safe(what.unit)), name="scored", **common,
    )  # fmt: skip
    _best(figure, what.rows, best(what))
    texts = [[at_point(result, what, (x, y), int(scored[j, i])) for i, x in enumerate(xs)] for j, y in enumerate(ys)]
    _cursor(figure, result, (xs, ys), texts, at(current, 2))
    return figure


def _cells(rows: pd.DataFrame, values: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Per cell [height, width] the row that scored it, and the row whose colour it has: −1 for none.

    A row stands for the cells within its reach; of several the nearest, of equally near ones the finer.
    """
    scored = np.full((height, width), -1)
    place = rows[["i", "j"]].to_numpy(dtype=int)
    scored[place[:, 1], place[:, 0]] = np.arange(len(rows))
    across = np.abs(np.arange(width)[None, None, :] - place[:, 0, None, None])
    up = np.abs(np.arange(height)[None, :, None] - place[:, 1, None, None])
    reach = rows["reach"].to_numpy(dtype=int)[:, None, None]
    far = np.where((across <= reach) & (up <= reach), across**2 + up**2 + reach / 1e3, np.inf)
    nearest = np.where(np.isfinite(far.min(0)), far.argmin(0), -1)
    return scored, np.where(scored >= 0, scored, nearest)


def _axis(values: np.ndarray) -> dict[str, Any]:
    """Cells at 0, 1, …, labelled with their values, thinned out where there are many."""
    step = -(-len(values) // (MAX_TICKS // 2))
    at = np.arange(0, len(values), step)
    texts = [f"{values[i]:g}" for i in at]
    bounds = [-0.5, len(values) - 0.5]
    return {"tickmode": "array", "tickvals": at, "ticktext": texts, "range": bounds, "showgrid": False,
            "zeroline": False, "automargin": True, "title_standoff": 16}  # fmt: skip


def _best(figure: go.Figure, rows: pd.DataFrame, top: int | None) -> None:
    if top is not None:
        x, y = (rows[c].to_numpy(dtype=float)[[top]] for c in "ij")
        figure.add_scatter(
            x=x, y=y, mode="markers", name=f"best of {len(rows)}", hoverinfo="skip", showlegend=False,
            marker={"symbol": "star", "size": 16, "color": "#ffffff", "line": {"color": "#111827", "width": 2}},
        )  # fmt: skip


def _cursor(
    figure: go.Figure,
    result: Result,
    grids: tuple[np.ndarray, np.ndarray],
    texts: list[list[str]],
    place: list[float] | None,
) -> None:
    """Where the panel may put its ring: every cell; and where the present setting lies, between cells too."""
    (across, up), (xs, ys) = axes(result)[:2], grids
    points = [{"x": i, "y": j, "value": [i, j], "text": texts[j][i]} for j in range(len(ys)) for i in range(len(xs))]
    at = None
    if place and xs.min() <= place[0] <= xs.max() and ys.min() <= place[1] <= ys.max():
        at = [float(np.interp(p, values, np.arange(len(values)))) for p, values in zip(place, grids, strict=True)]
    label = f"cursor: set {across['label']} and {up['label']}"
    figure.update_layout(meta={"cursor": cursor(label, points, at)})


@sweep_map.caption
def _caption(result: Result, *, measure: str, task: Name, current: Place) -> str:
    return caption(result, measure, task, current)


@sweep_map.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    return table(result)
