"""Task x task: how often two tasks change the same weight in opposite directions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, colour_bar, frame, ground, symmetric_limit
from viz.charts._mark import Name, Pair, outline_square
from viz.charts._pairs import no_row, pair_grid, pair_picks, square, square_height
from viz.charts._tables import Row, between, model_rows, number, pooled, top
from viz.charts._words import against_chance, large, lines, points, safe, start
from viz.style import DIVERGING, count, percent

HOW = (
    "Each square is a pair of tasks: of the weights that both change, the percentage that they change in opposite "
    "directions. Formula: weights with opposite signs / weights changed by both. Chance is 50 %: independent changes "
    "agree in sign as often as not. The colour is the difference from chance in percentage points: blue above, "
    "orange below, white at chance."
)


def _rows(result: Result) -> pd.DataFrame:
    return between(model_rows(result.table), result.tasks)


def _hover(row: Row) -> str:
    pair = f"{safe(row['task_a'])} · {safe(row['task_b'])}"
    if not math.isfinite(number(row, "conflict")):
        return lines(pair, "no weight is changed by both")
    return lines(
        pair,
        f"sign conflict {percent(row['conflict'], 2)}",
        f"chance {percent(row['null'], 2)} ({points(row['conflict'] - row['null'], 2)})",
        f"n = {count(row['n_both'])} weights changed by both",
        f"overlap of the changed weights {percent(number(row, 'overlap'))}" if "overlap" in row else "",
    )


@chart(title="Sign conflict between pairs of tasks", how=HOW, result="sign_conflict")
def sign_conflict_pairs(result: Result, *, pair: Pair = None, task: Name = None) -> go.Figure:
    """Percentage of shared weights that two tasks change in opposite directions, for every pair."""
    tasks = result.tasks
    if len(tasks) < 2:
        return blank("Signs can disagree only between two or more tasks. Add another fine-tune.")
    rows = _rows(result)
    if rows.empty:
        return blank("There is nothing to show yet: no pair of tasks was compared.")
    excess = pair_grid(rows, tasks, lambda row: 100 * (row["conflict"] - row["null"]), np.nan, float)
    texts = pair_grid(rows, tasks, lambda row: percent(row["conflict"]).removesuffix(" %"), "", object)
    hover = pair_grid(rows, tasks, _hover, no_row(), object)
    limit = symmetric_limit(excess, 1.0)
    title = "number: % in conflict" if len(tasks) <= 10 else "percentage points from chance"
    figure = frame(square_height(len(tasks)), x="task", y="task", **square(tasks))
    ground(figure).add_heatmap(
        z=excess, zmin=-limit, zmid=0, zmax=limit, colorscale=DIVERGING, xgap=1, ygap=1, hovertext=hover,
        hoverinfo="text", customdata=pair_picks(tasks), text=texts if len(tasks) <= 10 else None,
        texttemplate="%{text}" if len(tasks) <= 10 else None,
        colorbar=colour_bar(f"{title}<br>← below · above chance →"),
    )  # fmt: skip
    outline_square(figure, tasks, pair, task)
    return figure


@sign_conflict_pairs.caption
def _caption(result: Result, **_: Any) -> str:
    rows = _rows(result)
    known = rows[rows["conflict"].notna()] if len(rows) else rows
    if len(result.tasks) < 2 or known.empty:
        return "There is no weight that two of the tasks change, so there are no signs to compare."
    row = top(known, known["conflict"])
    said = (
        f"{row['task_a']} and {row['task_b']} pull {percent(row['conflict'])} of their shared "
        f"{large(result.provenance)}weights in opposite directions: {against_chance(row['conflict'], row['null'])}"
    )
    if len(known) == 1:
        return start(said) + "."
    mean = percent(pooled(known, "conflict", "n_both"))
    return f"{start(said)}; this is the most of {len(known)} pairs, which together are at {mean}."


@sign_conflict_pairs.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    rows = _rows(result)
    return rows.drop(columns=["level", "layer", "layer_index", "kind", "tensor"])
