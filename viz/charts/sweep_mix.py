"""A sweep over three tasks: a triangle of every way to share a fixed total among them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, colour_bar, frame
from viz.charts._mark import Name
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
    not_scored,
    shown,
    table,
)
from viz.charts._words import safe, short
from viz.style import NEUTRAL, NEUTRAL_FAINT, SEQUENTIAL

HOW = (
    "Three tasks share a fixed total. In a corner one task gets all of it; on the opposite edge it gets nothing; in "
    "the middle all get a third. Other tasks and settings are as they were when the sweep was started. Points with an "
    "edge are scored; paler ones take the colour of the nearest scored point until their own turn comes; hollow dots "
    f"are still unknown. {HONEST}The colours run from the lowest to the highest number here, so look at the bar before "
    "you trust a contrast, and at the caption for what chance gives. Click a point, or drag the ring to it, to set the "
    "three coefficients; arrow keys move the ring and Enter sets it."
)
HEIGHT = math.sqrt(3) / 2
_SIDE_PIXELS = 270
"""About how long an edge is drawn on a telephone; elsewhere it is hardly longer."""


@chart(title="Three tasks sharing one total", how=HOW, result="sweep_mix")
def sweep_mix(result: Result, *, measure: Measure = "mean", task: Name = None, current: Place = None) -> go.Figure:
    """A number for every way to share a total of the coefficient among three tasks."""
    if result.table.empty or not result.tasks:
        return blank("No point of this sweep has been scored yet.")
    what, three = shown(result, measure, task), axes(result)
    total = max(three[0]["values"])
    steps = len(three[0]["values"]) - 1
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "fixedrange": True}
    figure = frame(
        470, x=f"shares of a total of {total:g}", y="", showlegend=False,
        xaxis={**bare, "range": [-0.14, 1.14], "title": {"text": f"shares of a total of {total:g}", "standoff": 14}},
        yaxis={**bare, "range": [-0.2, HEIGHT + 0.2], "scaleanchor": "x", "constrain": "domain",
               "title": {"text": f"share of {short(three[2]['task'], 20)}"}},
    )  # fmt: skip
    _triangle(figure, three, total, steps)
    cells: list[tuple[int, ...]] = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    look = _look(what, steps)
    _unknown(figure, result, cells, what, look)
    _scored(figure, result, what, look)
    row = {tuple(cell): n for n, cell in enumerate(result.table[["i", "j", "k"]].astype(int).to_numpy().tolist())}
    points = [
        {"x": x, "y": y, "value": list(c), "text": at_point(result, what, _values(three, c), row.get(c, -1))}
        for c, (x, y) in zip(cells, map(_spot, cells), strict=True)
    ]
    place = at(current, 3)
    inside = place is not None and min(place) >= 0 and math.isclose(sum(place), total, rel_tol=1e-3)
    spot = _spot(place) if place and inside else None
    label = "cursor: share the total among " + ", ".join(str(a["task"]) for a in three)
    return figure.update_layout(meta={"cursor": cursor(label, points, spot)})


def _spot(shares: Any) -> tuple[float, float]:
    """Where a mix lies: the first task in the left corner, the second in the right one, the third on top."""
    first, second, third = (float(s) for s in shares)
    whole = first + second + third
    return (second + third / 2) / whole, HEIGHT * third / whole


def _values(three: list[dict[str, Any]], cell: tuple[int, ...]) -> list[float]:
    return [float(axis["values"][i]) for axis, i in zip(three, cell, strict=True)]


def _triangle(figure: go.Figure, three: list[dict[str, Any]], total: float, steps: int) -> None:
    """The edges, faint lines at every share where there are few, and the corners' names."""
    x, y = zip(*(_spot(c) for c in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0))), strict=True)
    inner: list[tuple[float, float]] = []
    for i in range(1, steps) if steps <= 10 else ():
        share, rest = i / steps, 1 - i / steps
        for ends in (((share, rest, 0), (share, 0, rest)), ((rest, share, 0), (0, share, rest)),
                     ((rest, 0, share), (0, rest, share))):  # fmt: skip
            inner += [*map(_spot, ends), (math.nan, math.nan)]
    if inner:
        lines = np.array(inner)
        figure.add_scatter(
            x=lines[:, 0], y=lines[:, 1], mode="lines", hoverinfo="skip", line={"color": NEUTRAL_FAINT, "width": 1}
        )
    figure.add_scatter(
        x=np.array(x), y=np.array(y), mode="lines", hoverinfo="skip", line={"color": NEUTRAL, "width": 1.5}
    )
    for axis, corner, shift in zip(three, ((0, 0), (1, 0), (0.5, HEIGHT)), (-38, -38, 38), strict=True):
        anchor = {0: "left", 1: "right"}.get(int(corner[0]) if corner[0] != 0.5 else 2, "center")
        edge = {"left": -0.13, "right": 1.13, "center": 0.5}[anchor]
        figure.add_annotation(
            x=edge, y=corner[1], yshift=shift, text=f"<b>{short(axis['task'], 16)}</b><br>{total:g}",
            showarrow=False, xanchor=anchor, font={"size": 12},
        )  # fmt: skip


def _look(what: Shown, steps: int) -> dict[str, Any]:
    """The markers: hexagons that nearly touch, coloured from the lowest to the highest number."""
    known = 100 * what.values[np.isfinite(what.values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    low, high = (low, high) if high - low >= 1 else (low - 0.5, high + 0.5)
    size = float(np.clip(1.08 * _SIDE_PIXELS / steps, 9, 60))
    return {"cmin": low, "cmax": high, "colorscale": SEQUENTIAL, "symbol": "hexagon", "size": size}


def _unknown(
    figure: go.Figure, result: Result, cells: list[tuple[int, ...]], what: Shown, look: dict[str, Any]
) -> None:
    """Points that are not scored: pale in the colour of the nearest one whose reach they lie in, or hollow dots."""
    scored = what.rows[["i", "j", "k"]].to_numpy(dtype=int)
    taken = {tuple(cell) for cell in scored.tolist()}
    left = [c for c in cells if c not in taken]
    if not left:
        return
    far = np.abs(np.array(left)[:, None, :] - scored[None]).max(-1)
    reach = what.rows["reach"].to_numpy(dtype=int)
    near = np.where(far <= reach, far + reach / 1e3, np.inf)
    found = np.where(np.isfinite(near.min(1)), near.argmin(1), -1)
    hollow = {"symbol": "circle-open", "size": 6, "color": NEUTRAL}
    for chosen, name in ((found >= 0, "coarse"), (found < 0, "not scored")):
        own = [(c, int(f)) for c, f, yes in zip(left, found, chosen, strict=True) if yes]
        if not own:
            continue
        spots = np.array([_spot(c) for c, _ in own])
        pale = {**look, "color": 100 * what.values[[f for _, f in own]], "opacity": 0.4}
        told = [_still(result, c, what.rows.iloc[f] if f >= 0 else None) for c, f in own]
        figure.add_scatter(
            x=spots[:, 0], y=spots[:, 1], mode="markers", name=name, hoverinfo="text", hovertext=told,
            customdata=np.array([{"cell": list(c)} for c, _ in own], dtype=object),
            marker=pale if name == "coarse" else hollow,
        )  # fmt: skip


def _still(result: Result, cell: tuple[int, ...], near: pd.Series | None) -> str:
    return not_scored(result, _values(axes(result), cell), None if near is None else [float(near[c]) for c in "xyz"])


def _scored(figure: go.Figure, result: Result, what: Shown, look: dict[str, Any]) -> None:
    """Every scored point in its colour, a star on the best."""
    cells = what.rows[["i", "j", "k"]].to_numpy(dtype=int).tolist()
    spots, values = np.array([_spot(c) for c in cells]), 100 * what.values
    figure.add_scatter(
        x=spots[:, 0], y=spots[:, 1], mode="markers", name="scored", hoverinfo="text",
        hovertext=[hover(result, what, i) for i in range(len(values))],
        customdata=np.array([{"cell": c} for c in cells], dtype=object),
        marker={**look, "color": values, "line": {"color": NEUTRAL, "width": 1},
                "colorbar": colour_bar(safe(what.unit))},
    )  # fmt: skip
    top = best(what)
    if top is not None:
        figure.add_scatter(
            x=spots[[top], 0], y=spots[[top], 1], mode="markers", hoverinfo="skip", name=f"best of {len(values)}",
            marker={"symbol": "star", "size": 15, "color": "#ffffff", "line": {"color": "#111827", "width": 2}},
        )  # fmt: skip


@sweep_mix.caption
def _caption(result: Result, *, measure: str, task: Name, current: Place) -> str:
    return caption(result, measure, task, current)


@sweep_mix.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    return table(result)
