"""Depth profile: how far each fine-tune moved the weights, relative to their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Choice
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, frame, names_axis
from viz.charts._mark import FADED, Name, Pair, outline, stressed
from viz.charts._tables import ordered, top
from viz.charts._words import brief, lines, out_of, safe, short, start
from viz.style import percent, task_colour, task_symbol

HOW = (
    "How far fine-tuning moved the weights of each layer: the length of the task vector there divided by the length "
    "of the base's weights there, in percent. A merge with equal coefficients gives a task with a longer vector more "
    "say. Chance level: if a task's change were spread evenly over the weights that it changed, each part would hold a "
    "share of its squared length equal to its share of those weights; the hover gives both shares."
)

By = Annotated[str, Choice("layer", "kind", labels=("by layer", "by kind of module")), "what the figure is split by"]
Colours = Mapping[str, str] | None


def _rows(result: Result, by: str) -> pd.DataFrame:
    rows = result.at(by)
    return rows[rows["task"].isin(list(result.tasks))].reset_index(drop=True)


def _hover(row: pd.Series, by: str) -> str:
    return lines(
        f"{safe(row['task'])} · {safe(row[by])}",
        f"moved by {percent(row['relative_norm'], 2)} of the base's length (‖τ‖ = {row['norm']:.4g})",
        f"{percent(row['share'])} of this task's whole change; spread evenly (chance) {percent(row['null'])}",
        f"changed {percent(row['changed'])}: {out_of(row['n_changed'], row['n'])}",
    )


@chart(title="How far each fine-tune moved", how=HOW, result="norm_profile")
def norm_profile(
    result: Result,
    *,
    by: By = "layer",
    pair: Pair = None,
    task: Name = None,
    layer: Name = None,
    kind: Name = None,
    colours: Colours = None,
) -> go.Figure:
    """Length of each task vector relative to the base's weights, per layer or kind of module."""
    rows = _rows(result, by)
    if not result.tasks or rows.empty:
        return blank("There is nothing to show yet: no task vector was measured.")
    places = ordered(rows, by)
    what = "layer" if by == "layer" else "kind of module"
    legend_rows = -(-len(result.tasks) // 3)
    figure = frame(
        320 + 20 * legend_rows, x=what, y="relative norm (% of the base)", meta={"x": places},
        xaxis=names_axis(brief(places)), yaxis={"rangemode": "tozero", "automargin": True},
    )  # fmt: skip
    for index, name in enumerate(result.tasks):
        own = rows[rows["task"] == name].drop_duplicates(by)
        at = np.array([places.index(place) for place in own[by]], dtype=float)
        order = np.argsort(at, kind="stable")
        own = own.iloc[order]
        colour = (colours or {}).get(name) or task_colour(index)
        figure.add_scatter(
            x=at[order], y=100 * own["relative_norm"].to_numpy(dtype=float), name=short(name),
            # Kinds of module have no order, so no line leads from one to the next.
            mode="lines+markers" if by == "layer" else "markers", line={"color": colour, "width": 2},
            marker={"color": colour, "symbol": task_symbol(index), "size": 9},
            opacity=1 if stressed(name, pair, task) else FADED,
            hovertext=[_hover(row, by) for _, row in own.iterrows()], hoverinfo="text",
            customdata=np.array([{"task": name, by: place} for place in own[by]], dtype=object),
        )  # fmt: skip
    chosen = layer if by == "layer" else kind
    if chosen in places:
        place = places.index(chosen)
        outline(figure, (place - 0.5, place + 0.5), (0, 1), yref="paper")
    return figure


@norm_profile.caption
def _caption(result: Result, *, by: str, **_: Any) -> str:
    model, rows = result.at("model"), _rows(result, by)
    moved = model[model["relative_norm"].notna() & model["task"].isin(list(result.tasks))]
    if moved.empty:
        return "No task vector was measured."
    far = top(moved, moved["relative_norm"])
    said = f"{start(far['task'])} moved furthest, by {percent(far['relative_norm'], 2)} of the base's length"
    said += _densest(rows, by, str(far["task"]))
    if len(moved) > 1:
        near = top(moved, -moved["relative_norm"])
        said += f"; {near['task']} moved least, by {percent(near['relative_norm'], 2)}"
    return said + "."


def _densest(rows: pd.DataFrame, by: str, task: str) -> str:
    """Where a task's change is most above an even spread."""
    own = rows[(rows["task"] == task) & rows["share"].notna() & (rows["null"] > 0)]
    if len(own) < 2:
        return ""
    row = top(own, own["share"] / own["null"])
    where = f"{percent(row['share'])} lies in {row[by]}"
    return f"; of its change, {where}, where an even spread (chance) would put {percent(row['null'])}"


@norm_profile.table
def _table(result: Result, *, by: str, **_: Any) -> pd.DataFrame:
    return _rows(result, by)[[by, "task", "norm", "relative_norm", "n", "n_changed", "changed", "share", "null"]]
