"""Where in the network a merge loses each task: its numbers by layer or kind of module, beside plain averaging's."""

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
from viz.charts._tables import Row, number, ordered, records, top
from viz.charts._words import brief, lines, safe, short, start
from viz.style import NEUTRAL, NOTHING, percent, task_colour, task_symbol

HOW = (
    "One line per task. Distance: how far the merged model lies from the task's own fine-tune, in lengths of its task "
    "vector there; 0 is the fine-tune itself, 1 as far as the base. The largest of each task is drawn larger. Share: "
    "the part of the merged update that goes with the task vector. Out-voted and dropped: the part of its squared "
    "length at weights that the merge moves the other way, or not at all. Chance is no guide here: the dashed line is "
    "plain averaging of the same fine-tunes, the mean over the tasks or that of the selected one."
)
MEASURES = {
    "departure": ("distance from the fine-tune (× ‖τ‖)", "lies furthest from", "lies at"),
    "share": ("share of the update (%)", "contributes most", "makes"),
    "outvoted": ("out-voted (% of its squared length)", "is out-voted most", "out-voted:"),
    "dropped": ("dropped (% of its squared length)", "is dropped most", "dropped:"),
}
Show = Annotated[
    str,
    Choice(
        "departure", "share", "outvoted", "dropped",
        labels=("distance from each fine-tune", "share of the update", "out-voted", "dropped"),
    ),
    "which of a task's numbers is drawn",
]  # fmt: skip
By = Annotated[str, Choice("layer", "kind", labels=("by layer", "by kind of module")), "what the figure is split by"]
Colours = Mapping[str, str] | None


def _rows(result: Result, by: str, show: str) -> pd.DataFrame:
    """The rows of known tasks that hold a number."""
    rows = result.at(by)
    return rows[rows["task"].isin(list(result.tasks)) & rows[show].notna()].reset_index(drop=True)


def _told(value: float, show: str) -> str:
    if show != "departure":
        return percent(value)
    return f"{value:.2f} × ‖τ‖" if np.isfinite(value) else NOTHING


def _hover(row: Row, by: str) -> str:
    return lines(
        f"{safe(row['task'])} · {safe(row[by])}",
        *(
            f"{name} {_told(number(row, column), column)}"
            f" (plain averaging {_told(number(row, f'{column}_average'), column)})"
            for column, name in (("departure", "distance"), ("share", "share of the update"),
                                 ("outvoted", "out-voted"), ("dropped", "dropped"))
        ),
        f"‖τ‖ {number(row, 'norm'):.4g}, merged update {number(row, 'update_norm'):.4g}",
    )  # fmt: skip


@chart(title="Where the merge departs from each fine-tune", how=HOW, result="contributions")
def contribution_layers(
    result: Result,
    *,
    show: Show = "departure",
    by: By = "layer",
    pair: Pair = None,
    task: Name = None,
    layer: Name = None,
    kind: Name = None,
    colours: Colours = None,
) -> go.Figure:
    """Distance, share, out-voted or dropped part of every task, per layer or kind of module."""
    rows = _rows(result, by, show)
    if not result.tasks or rows.empty:
        return blank("There is nothing to show yet: no merge was measured, or no task changes a weight.")
    places = ordered(rows, by)
    unit = 1 if show == "departure" else 100
    figure = frame(
        320 + 20 * -(-len(result.tasks) // 3), x="layer" if by == "layer" else "kind of module",
        y=MEASURES[show][0], meta={"x": places}, xaxis=names_axis(brief(places)),
        yaxis={"rangemode": "tozero", "automargin": True},
    )  # fmt: skip
    hovers = np.array([_hover(row, by) for row in records(rows)], dtype=object)
    for index, name in enumerate(result.tasks):
        is_own = (rows["task"] == name).to_numpy()
        own = rows[is_own]
        if own.empty:
            continue
        values, colour = unit * own[show].to_numpy(dtype=float), (colours or {}).get(name) or task_colour(index)
        figure.add_scatter(
            x=_places(own, by, places), y=values, name=short(name),
            # Kinds of module have no order, so no line leads from one to the next.
            mode="lines+markers" if by == "layer" else "markers", line={"color": colour, "width": 2},
            marker={"color": colour, "symbol": task_symbol(index), "size": np.where(values == values.max(), 14, 8)},
            opacity=1 if stressed(name, pair, task) else FADED,
            hovertext=hovers[is_own].tolist(), hoverinfo="text",
            customdata=np.array([{"task": name, by: place} for place in own[by]], dtype=object),
        )  # fmt: skip
    _average(figure, rows[rows["task"] == task] if task else rows, by, show, unit, places)
    chosen = layer if by == "layer" else kind
    if chosen in places:
        place = places.index(chosen)
        outline(figure, (place - 0.5, place + 0.5), (0, 1), yref="paper")
    return figure


def _places(rows: pd.DataFrame, by: str, places: list[str]) -> np.ndarray:
    return np.array([places.index(place) for place in rows[by]], dtype=float)


def _average(figure: go.Figure, rows: pd.DataFrame, by: str, show: str, unit: float, places: list[str]) -> None:
    """Plain averaging's numbers: the mean over these rows' tasks."""
    mean = rows.groupby(by, sort=False)[f"{show}_average"].mean().reindex(places)
    values = unit * mean.to_numpy(dtype=float)
    figure.add_scatter(
        x=np.arange(len(places), dtype=float), y=values, name="plain averaging",
        mode="lines" if by == "layer" else "markers", line={"color": NEUTRAL, "width": 2, "dash": "dash"},
        marker={"symbol": "line-ew-open", "size": 22, "color": NEUTRAL, "line": {"width": 2}},
        hovertext=[f"plain averaging {_told(v, show)}" for v in mean], hoverinfo="text",
    )  # fmt: skip


@contribution_layers.caption
def _caption(result: Result, *, show: str, by: str, **_: Any) -> str:
    rows = _rows(result, by, show)
    if rows.empty:
        return "No merge was measured, or no task changes a weight."
    far = top(rows, rows[show])
    average = f"(plain averaging {_told(far[f'{show}_average'], show)})"
    value = _told(far[show], show)
    if show == "departure":
        whose = "its own" if result.provenance.get("output") == "per_task" else "the merged"
        said = f"In {far[by]} {whose} model lies furthest from {far['task']}, by {value} {average}"
        return said + f"; {_counted(rows, show)}."
    return f"{start(far['task'])} {MEASURES[show][1]} in {far[by]}, with {value} {average}."


def _counted(rows: pd.DataFrame, show: str) -> str:
    """How many of the tasks lie further from their fine-tune than the base does, anywhere."""
    beyond, tasks = rows[rows[show] > 1]["task"].nunique(), rows["task"].nunique()
    if not beyond:
        return "nowhere is it further from a fine-tune than the base is"
    return f"somewhere it is further from {beyond} of {tasks} fine-tunes than the base is"


@contribution_layers.table
def _table(result: Result, *, show: str, by: str, **_: Any) -> pd.DataFrame:
    rows = result.at(by)
    rows = rows[rows["task"].isin(list(result.tasks))]
    names = ("departure", "share", "outvoted", "dropped")
    return rows[[by, "task", *(c for n in names for c in (n, f"{n}_average")), "norm", "update_norm", "n"]]
