"""Task map: cosine similarity of every two task vectors in clustered order, with the tree and the lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._clusters import Join, clustered
from viz.charts._figure import QUIET, blank, colour_bar, frame, symmetric_limit
from viz.charts._mark import Name, Pair, outline_square
from viz.charts._pairs import diagonal, distances, no_row, of_each, pair_grid, pair_picks, square, square_height
from viz.charts._tables import Row, between, model_rows, number, top
from viz.charts._words import grid, lines, safe, short, start
from viz.style import DIVERGING, NEUTRAL, task_colour

HOW = (
    "Each square is the cosine of the angle between two task vectors: their inner product divided by both lengths. 1 "
    "is the same direction, 0 unrelated, -1 opposite. Independent directions of so many weights lie very close to 0: "
    "the hover gives that chance level and twice its standard deviation. The colours fit the pairs shown, blue for "
    "alike and orange for opposed; the diagonal, always 1, is grey. Alike tasks stand side by side, and the tree joins "
    "them at the average 1 - cosine between their groups (average linkage): low joins are alike, unrelated tasks join "
    "at 1, and a tree is drawn for noise too. Bars: the length of each task vector, from 0."
)
Colours = Mapping[str, str] | None


def _rows(result: Result) -> pd.DataFrame:
    return between(model_rows(result.table), result.tasks)


def _band(row: Row) -> str:
    return f"{number(row, 'null'):.2g} ± {2 * number(row, 'null_sd'):.2g}"


def _hover(row: Row) -> str:
    pair = f"{safe(row['task_a'])} · {safe(row['task_b'])}"
    if not math.isfinite(number(row, "cosine")):
        return lines(pair, "no cosine: one of the task vectors is zero")
    return lines(
        pair,
        f"cosine {row['cosine']:.5f}",
        f"chance {_band(row)} (two standard deviations)",
        f"lengths {row['norm_a']:.4g} and {row['norm_b']:.4g}, inner product {row['dot']:.4g}",
    )


@chart(title="Cosine similarity of task vectors", how=HOW, result="cosine")
def cosine_map(result: Result, *, pair: Pair = None, task: Name = None, colours: Colours = None) -> go.Figure:
    """Cosine of the angle between every two task vectors over the whole model, alike tasks side by side."""
    if len(result.tasks) < 2:
        return blank("A cosine needs two task vectors. Add another fine-tune.")
    rows = _rows(result)
    if rows.empty:
        return blank("There is nothing to show yet: no pair of tasks was compared.")
    order, joins = clustered(distances(rows, result.tasks, lambda row: 1 - number(row, "cosine")))
    tasks = tuple(result.tasks[i] for i in order)
    figure = frame(square_height(len(tasks)) + (70 if len(tasks) > 2 else 0), x="task", y="task", **square(tasks))
    _squares(figure, rows, tasks)
    _bars(
        figure,
        of_each(rows, "norm"),
        tasks,
        {t: (colours or {}).get(t) or task_colour(i) for i, t in enumerate(result.tasks)},
    )
    if len(tasks) > 2:
        _tree(figure, joins, result.tasks)
    outline_square(figure, tasks, pair, task)
    return figure


def _squares(figure: go.Figure, rows: pd.DataFrame, tasks: tuple[str, ...]) -> None:
    values = pair_grid(rows, tasks, lambda row: row["cosine"], np.nan, float)
    # Typical cosines are far below 1; without this floor numerical dust would fill the whole scale.
    limit = symmetric_limit(values, 1e-3)
    digits = 2 if limit >= 0.5 else 3
    texts = pair_grid(rows, tasks, lambda row: _short_number(row["cosine"], digits), "", object)
    shown = {"text": texts, "texttemplate": "%{text}"} if len(tasks) <= 10 else {}
    own = grid(len(tasks), len(tasks))
    for i, task in enumerate(tasks):
        own[i, i] = lines(safe(task), "with itself: 1")
    common = {"xgap": 1, "ygap": 1, "hoverongaps": False, "hoverinfo": "text", "customdata": pair_picks(tasks)}
    figure.add_heatmap(
        z=diagonal([1.0] * len(tasks), float, np.nan), colorscale=[[0, QUIET], [1, QUIET]], showscale=False,
        hovertext=own, name="itself", **common,
    )  # fmt: skip
    figure.add_heatmap(
        z=values, zmin=-limit, zmid=0, zmax=limit, colorscale=DIVERGING, name="cosine", **common,
        hovertext=pair_grid(rows, tasks, _hover, no_row(), object),
        colorbar=colour_bar("← opposed · cosine · alike →", right=0.86), **shown,
    )  # fmt: skip


def _bars(figure: go.Figure, known: dict[str, float], tasks: tuple[str, ...], colours: Mapping[str, str]) -> None:
    """The length of each task vector, beside its row."""
    longest = max((n for n in known.values() if math.isfinite(n)), default=0.0) or 1.0
    figure.add_bar(
        x=np.array([known.get(task, math.nan) for task in tasks]), y=np.arange(len(tasks), dtype=float),
        orientation="h", xaxis="x2", width=0.7, marker={"color": [colours[task] for task in tasks]}, name="length",
        hovertext=[lines(safe(t), f"length of its task vector ‖τ‖ = {known.get(t, math.nan):.4g}") for t in tasks],
        hoverinfo="text", showlegend=False, customdata=np.array([{"task": task} for task in tasks], dtype=object),
    )  # fmt: skip
    figure.update_layout(
        xaxis={"domain": [0, 0.86]},
        xaxis2={"domain": [0.885, 1], "anchor": "y", "range": [0, 1.05 * longest], "showticklabels": False,
                "showgrid": False, "zeroline": True, "side": "top",
                "title": {"text": "‖τ‖", "standoff": 2, "font": {"size": 11}}},
    )  # fmt: skip


def _tree(figure: go.Figure, joins: list[Join], names: tuple[str, ...]) -> None:
    """The dendrogram above the map: each join at the average 1 - cosine between its two groups."""
    heights = [join.height for join in joins]
    span = max(max(heights) - min(heights), 0.02)
    low, high = min(heights) - 0.25 * span, max(heights) + 0.12 * span
    x: list[float] = []
    y: list[float] = []
    for join in joins:
        feet = [low if math.isnan(height) else height for _, height in (join.left, join.right)]
        x += [join.left[0], join.left[0], join.right[0], join.right[0], math.nan]
        y += [feet[0], join.height, join.height, feet[1], math.nan]
    line = {"color": NEUTRAL, "width": 1.5}
    common = {"yaxis": "y2", "showlegend": False}
    figure.add_scatter(x=np.array(x), y=np.array(y), mode="lines", line=line, hoverinfo="skip", name="tree", **common)
    figure.add_scatter(
        x=np.array([(join.left[0] + join.right[0]) / 2 for join in joins]), y=np.array(heights), mode="markers",
        marker={"color": NEUTRAL, "size": 5}, hoverinfo="text", name="joins",
        hovertext=[_join_hover(join, names) for join in joins], **common,
    )  # fmt: skip
    figure.update_layout(
        yaxis={"domain": [0, 0.8]},
        yaxis2={"domain": [0.83, 1], "range": [low, high], "tickvals": np.array([min(heights), max(heights)]),
                "tickformat": ".3f", "showgrid": False, "zeroline": False, "automargin": True,
                "title": {"text": "1 − cosine", "standoff": 8, "font": {"size": 11}},
                "tickfont": {"size": 10}},
    )  # fmt: skip


def _join_hover(join: Join, names: tuple[str, ...]) -> str:
    groups = [", ".join(short(names[i]) for i in part[:6]) + (" …" if len(part) > 6 else "") for part in join.members]
    return lines(f"joined at 1 − cosine = {join.height:.4f}", *groups, "on average between these groups; unrelated: 1")


def _short_number(value: float, digits: int) -> str:
    """A cosine without its leading zero: `.085`, `−.012`; empty where there is none."""
    if not math.isfinite(value):
        return ""
    return f"{value:.{digits}f}".replace("0.", ".", 1).replace("-", "−")


@cosine_map.caption
def _caption(result: Result, **_: Any) -> str:
    rows = _rows(result)
    known = rows[rows["cosine"].notna()] if len(rows) else rows
    if len(result.tasks) < 2 or known.empty:
        return "There are no two task vectors with a length above zero, so there is no angle to show."
    row = top(known, known["cosine"].abs())
    beyond = abs(row["cosine"] - row["null"]) > 2 * row["null_sd"]
    told = f"{'beyond' if beyond else 'within'} what chance gives ({_band(row)})"
    said = f"{row['task_a']} and {row['task_b']} have cosine {row['cosine']:.3f}, {told}"
    if len(known) == 1:
        return start(said) + "."
    low, high = known["cosine"].min(), known["cosine"].max()
    return f"{start(said)}; of {len(known)} pairs, {low:.3f} to {high:.3f}, it is the furthest from 0."


@cosine_map.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    return _rows(result).drop(columns=["level", "layer", "layer_index", "kind", "tensor"])
