"""Spectra: in how few directions each task's update lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Choice
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, frame
from viz.charts._mark import FADED, Name, Pair, stressed
from viz.charts._tables import model_rows, top
from viz.charts._words import lines, safe, short, start
from viz.style import NEUTRAL, count, percent, task_colour, task_symbol

HOW = (
    "A weight matrix turns inputs into outputs along directions of its own, each with a strength: its singular values. "
    "The curve says how much of a task's update (of its squared length) lies in its strongest directions. A curve that "
    "rises at once means that the task needs few of them, so several tasks have room beside each other and the update "
    "can be stored small. The dotted line is chance: matrices of the same shapes filled with independent random "
    "numbers. Several matrices: each keeps the same share of its own directions. A curve that ends early belongs to "
    "matrices so large that only their strongest directions were computed."
)
WHOLE = "the whole model"
MOST = 0.9

Colours = Mapping[str, str] | None
Scale = Annotated[
    str, Choice("linear", "log", labels=("all directions alike", "the strongest in detail")), "scale of the directions"
]


def _rows(result: Result, kind: str | None) -> pd.DataFrame:
    rows = result.at("kind", kind=kind) if kind else model_rows(result.table)
    return rows[rows["task"].isin(list(result.tasks))].reset_index(drop=True)


def _known(result: Result, kind: Name) -> Name:
    """The chosen kind, where the result has it; else the whole model."""
    return kind if kind and len(result.at("kind", kind=kind)) else None


def _where(kind: str | None) -> str:
    return kind or WHOLE


def _needed(own: pd.DataFrame) -> float:
    """Share of all directions that hold 90 % of the squared length: rank_90 / full_rank; NaN where not known."""
    row = own.iloc[0]
    return float(row["rank_90"] / row["full_rank"]) if row["full_rank"] else math.nan


@chart(title="How many directions a task needs", how=HOW, result="spectrum")
def singular_spectra(
    result: Result,
    *,
    kind: Name = None,
    scale: Scale = "linear",
    pair: Pair = None,
    task: Name = None,
    colours: Colours = None,
) -> go.Figure:
    """Cumulative energy of the singular values of each task, over the share of directions kept, beside chance."""
    kind = _known(result, kind)
    rows = _rows(result, kind)
    drawn = rows[rows["energy"].notna()]
    if drawn.empty:
        return blank(_nothing(kind))
    legend_rows = -(-(len(result.tasks) + 1) // 3)
    figure = frame(
        330 + 20 * legend_rows, x="share of the singular directions (%)", y="squared length in them (%)"
    ).update_yaxes(range=[0, 102])
    figure.update_xaxes(
        {"range": [0, 103]} if scale == "linear" else {"type": "log", "range": [-1.05, 2.04], "dtick": 1}
    )
    for index, name in enumerate(result.tasks):
        own = drawn[drawn["task"] == name]
        own = own[own["rank_fraction"] > 0] if scale == "log" else own
        if own.empty:
            continue
        colour = (colours or {}).get(name) or task_colour(index)
        figure.add_scatter(
            x=100 * own["rank_fraction"].to_numpy(dtype=float), y=100 * own["energy"].to_numpy(dtype=float),
            name=short(name), mode="lines+markers", line={"color": colour, "width": 2},
            opacity=1 if stressed(name, pair, task) else FADED,
            marker={"color": colour, "symbol": task_symbol(index), "size": 5},
            hovertext=[_hover(row, kind) for _, row in own.iterrows()], hoverinfo="text",
            customdata=np.array([{"task": name}] * len(own), dtype=object),
        )  # fmt: skip
    _add_chance(figure, drawn, scale)
    return _add_line(figure, scale)


def _nothing(kind: str | None) -> str:
    where = f" of kind {kind}" if kind else ""
    return f"There is nothing to show yet: no task changed a weight matrix{where}."


def _hover(row: pd.Series, kind: str | None) -> str:
    known = math.isfinite(row["effective_rank"])
    return lines(
        f"{safe(row['task'])} · {safe(_where(kind))}",
        f"{percent(row['energy'], 2)} of the squared length in the strongest {percent(row['rank_fraction'])}",
        f"chance {percent(row['null'], 2)}",
        f"effective rank {row['effective_rank']:,.0f} of {row['full_rank']:,.0f}" if known else "",
        f"90 % in {row['rank_90']:,.0f} of {row['full_rank']:,.0f} directions" if math.isfinite(row["rank_90"]) else "",
        f"{count(row['n_matrices'])} matrices",
    )


def _add_chance(figure: go.Figure, rows: pd.DataFrame, scale: str) -> None:
    """The dotted line: the mean of the tasks' chance curves, which differ only by where they put their change."""
    mean = rows.groupby("rank_fraction")["null"].mean()
    mean = mean[mean.index > 0] if scale == "log" else mean
    at = np.asarray(mean.index, dtype=float)
    told = [
        lines("chance", f"{percent(y, 2)} in {percent(x)} of the directions") for x, y in zip(at, mean, strict=True)
    ]
    figure.add_scatter(
        x=100 * at, y=100 * mean.to_numpy(dtype=float), name="chance", mode="lines", hovertext=told, hoverinfo="text",
        line={"color": NEUTRAL, "width": 2, "dash": "dot"},
    )  # fmt: skip


def _add_line(figure: go.Figure, scale: str) -> go.Figure:
    """Where 90 % of the squared length is reached."""
    figure.add_shape(
        type="line", xref="paper", x0=0, x1=1, y0=100 * MOST, y1=100 * MOST, layer="below",
        line={"color": NEUTRAL, "width": 1, "dash": "dash"},
    )  # fmt: skip
    right = {"x": 0 if scale == "log" else 1, "xanchor": "left" if scale == "log" else "right"}
    return figure.add_annotation(
        text="90 %", xref="paper", y=100 * MOST, yanchor="top", showarrow=False, font={"size": 11}, **right
    )


@singular_spectra.caption
def _caption(result: Result, *, kind: Name, **_: Any) -> str:
    kind = _known(result, kind)
    rows = _rows(result, kind)
    firsts = rows.drop_duplicates("task")
    if firsts.empty or not (firsts["n_matrices"] > 0).any():
        return _nothing(kind)
    needs = firsts.assign(needs=[_needed(firsts.iloc[[i]]) for i in range(len(firsts))])
    needs = needs[needs["needs"].notna()]
    if needs.empty:
        return f"In {_where(kind)}, 90 % of no task's update lies in the directions that are known; chance is dotted."
    least, most = top(needs, -needs["needs"]), top(needs, needs["needs"])
    chance = _chance_needs(rows[rows["task"] == least["task"]])
    said = f"in {_where(kind)}, 90 % of {least['task']}'s squared length lies in {percent(least['needs'])} of its "
    said += f"directions, where chance would need {percent(chance)}"
    if len(needs) > 1:
        said += f"; {most['task']} needs most, {percent(most['needs'])}"
    return start(said) + "."


def _chance_needs(own: pd.DataFrame) -> float:
    """Share of directions at which the chance curve reaches 90 %, read between the points of the grid."""
    return float(np.interp(MOST, own["null"].to_numpy(dtype=float), own["rank_fraction"].to_numpy(dtype=float)))


@singular_spectra.table
def _table(result: Result, *, kind: Name, **_: Any) -> pd.DataFrame:
    shown = ["task", "rank_fraction", "energy", "null", "effective_rank", "rank_90", "full_rank", "n_matrices"]
    return _rows(result, _known(result, kind))[shown]
