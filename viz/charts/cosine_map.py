"""Task x task: cosine similarity of the task vectors, beside what independent directions would show."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import QUIET, blank, colour_bar, frame, symmetric_limit
from viz.charts._pairs import diagonal, no_row, pair_grid, square, square_height
from viz.charts._tables import between, model_rows, number, top
from viz.charts._words import grid, lines, safe, start
from viz.style import DIVERGING

HOW = (
    "Each square is the cosine of the angle between two task vectors (fine-tuned weights minus base weights, all "
    "weights as one long arrow): their inner product divided by both lengths. 1 is the same direction, 0 is "
    "unrelated, -1 is opposite. Independent directions of so many weights lie very close to 0: the hover gives that "
    "chance level and twice its standard deviation. The colours fit the pairs shown, blue for alike and orange for "
    "opposed; the diagonal, always 1, is grey and does not stretch the scale."
)


def _rows(result: Result) -> pd.DataFrame:
    return between(model_rows(result.table), result.tasks)


def _band(row: pd.Series) -> str:
    return f"{number(row, 'null'):.2g} ± {2 * number(row, 'null_sd'):.2g}"


def _hover(row: pd.Series) -> str:
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
def cosine_map(result: Result) -> go.Figure:
    """Cosine of the angle between every two task vectors, over the whole model."""
    tasks = result.tasks
    if len(tasks) < 2:
        return blank("A cosine needs two task vectors. Add another fine-tune.")
    rows = _rows(result)
    if rows.empty:
        return blank("There is nothing to show yet: no pair of tasks was compared.")
    values = pair_grid(rows, tasks, lambda row: row["cosine"], np.nan, float)
    # Typical cosines are far below 1; without this floor numerical dust would fill the whole scale.
    limit = symmetric_limit(values, 1e-3)
    digits = 2 if limit >= 0.5 else 3
    texts = pair_grid(rows, tasks, lambda row: _short_number(row["cosine"], digits), "", object)
    shown = {"text": texts, "texttemplate": "%{text}"} if len(tasks) <= 10 else {}
    figure = frame(square_height(len(tasks)), x="task", y="task", **square(tasks))
    own = grid(len(tasks), len(tasks))
    for i, task in enumerate(tasks):
        own[i, i] = lines(safe(task), "with itself: 1")
    figure.add_heatmap(
        z=diagonal([1.0] * len(tasks), float, np.nan), colorscale=[[0, QUIET], [1, QUIET]],
        showscale=False, hovertext=own, hoverinfo="text", hoverongaps=False, xgap=1, ygap=1,
    )  # fmt: skip
    return figure.add_heatmap(
        z=values, zmin=-limit, zmid=0, zmax=limit, colorscale=DIVERGING, xgap=1, ygap=1, hoverongaps=False,
        hovertext=pair_grid(rows, tasks, _hover, no_row(), object), hoverinfo="text",
        colorbar=colour_bar("← opposed · cosine · alike →"), **shown,
    )  # fmt: skip


def _short_number(value: float, digits: int) -> str:
    """A cosine without its leading zero: `.085`, `−.012`; empty where there is none."""
    if not math.isfinite(value):
        return ""
    return f"{value:.{digits}f}".replace("0.", ".", 1).replace("-", "−")


@cosine_map.caption
def _caption(result: Result) -> str:
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
def _table(result: Result) -> pd.DataFrame:
    return _rows(result).drop(columns=["level", "layer", "layer_index", "kind", "tensor"])
