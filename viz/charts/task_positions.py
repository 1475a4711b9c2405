"""A plane in which tasks of similar direction lie near to one another: classical MDS of the cosine distance."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, frame
from viz.charts._mark import Name, Pair, stressed
from viz.charts._pairs import distances, of_each
from viz.charts._places import Scaling, classical_scaling, label_offsets
from viz.charts._tables import between, model_rows, number
from viz.charts._words import lines, safe, short, start
from viz.style import NEUTRAL, percent, task_colour, task_symbol

HOW = (
    "Each point is a task; tasks whose task vectors point the same way lie near to one another. Distance: 1 - cosine, "
    "put into a plane by classical multidimensional scaling. Stress says how far the plane is from the true distances: "
    "√(Σ(drawn - true)² / Σ true²); 0 is exact, above 0.2 read only the exact numbers in the hover. By chance, that is "
    "with unrelated tasks, all are 1 apart, and a plane holds 2 / (tasks - 1) of that, in any arrangement: a share not "
    "far above this one shows no structure. The axes have no meaning: turning or mirroring the map changes nothing. "
    "The base is not shown: only angles count here, so it has no place among the points; nor have lengths."
)
Colours = Mapping[str, str] | None
_SIZES = (265.0, 345.0)
"""Pixels of the plane on a telephone and in a wide window: the height of the figure is the limit there."""


def _placed(result: Result) -> tuple[tuple[str, ...], np.ndarray, Scaling | None]:
    """Tasks with a direction of their own, their distances [T, T], and their places; None for fewer than two."""
    rows = between(model_rows(result.table), result.tasks)
    if rows.empty:
        return (), np.zeros((0, 0)), None
    sizes = of_each(rows, "norm")
    tasks = tuple(task for task in result.tasks if sizes.get(task, 0) > 0)
    found = distances(rows, result.tasks, lambda row: 1 - number(row, "cosine"))
    kept = [result.tasks.index(task) for task in tasks]
    found = found[np.ix_(kept, kept)]
    if len(tasks) < 2 or not np.isfinite(found).all():
        return tasks, found, None
    return tasks, found, classical_scaling(np.clip(found, 0, None))


@chart(title="Tasks as points: who points the same way?", how=HOW, result="cosine")
def task_positions(result: Result, *, pair: Pair = None, task: Name = None, colours: Colours = None) -> go.Figure:
    """A plane of the tasks in which distance is 1 - cosine of the task vectors, as nearly as a plane allows."""
    if len(result.tasks) < 2:
        return blank("A map needs two task vectors. Add another fine-tune.")
    tasks, between_tasks, scaling = _placed(result)
    if scaling is None:
        return blank("There are no two task vectors with a direction to compare.")
    middle, reach = _window(scaling.points)
    axes = [
        {"range": [middle[i] - reach, middle[i] + reach], "zeroline": False, "automargin": True, "nticks": 5}
        for i in (0, 1)
    ]
    figure = frame(
        430, x="first direction of the plane (1 − cosine)", y="second direction (1 − cosine)",
        xaxis=axes[0], yaxis={**axes[1], "scaleanchor": "x", "scaleratio": 1}, showlegend=False,
    )  # fmt: skip
    if pair is not None and set(pair) <= set(tasks):
        ends = scaling.points[[tasks.index(name) for name in pair]]
        figure.add_scatter(x=ends[:, 0], y=ends[:, 1], mode="lines", line={"color": NEUTRAL, "dash": "dot"},
                           hoverinfo="skip", name="pair")  # fmt: skip
    for index, name in enumerate(tasks):
        colour = (colours or {}).get(name) or task_colour(result.tasks.index(name))
        chosen = name == task or name in (pair or ())
        figure.add_scatter(
            x=scaling.points[index : index + 1, 0], y=scaling.points[index : index + 1, 1], mode="markers",
            name=short(name), hovertext=[_hover(tasks, index, between_tasks, scaling)], hoverinfo="text",
            opacity=1 if stressed(name, pair, task) else 0.5, customdata=np.array([{"task": name}], dtype=object),
            marker={"color": colour, "symbol": task_symbol(result.tasks.index(name)), "size": 18 if chosen else 13},
        )  # fmt: skip
    _names(figure, tasks, (scaling.points - middle + reach) / (2 * reach), scaling.points)
    return figure


def _window(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle and half width of a square that holds all points with room for names; never narrower than 0.1."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, max(0.05, 0.68 * float((high - low).max()))


def _names(figure: go.Figure, tasks: tuple[str, ...], fractions: np.ndarray, points: np.ndarray) -> None:
    """The tasks' names beside their points, with a thin line where a name had to stand further off."""
    font, limit = (12, 14) if len(tasks) <= 10 else (10, 9)
    plain = [html.unescape(short(task, limit)) for task in tasks]
    offsets = label_offsets(fractions, plain, _SIZES, letter=0.55 * font, line=1.25 * font)
    for task, at, (dx, dy) in zip(tasks, points, offsets, strict=True):
        figure.add_annotation(
            x=float(at[0]), y=float(at[1]), text=short(task, limit), ax=dx, ay=-dy, xanchor="center", yanchor="middle",
            showarrow=True, arrowhead=0, arrowwidth=1, arrowcolor=NEUTRAL,
            standoff=8, font={"size": font}, borderpad=0,
        )  # fmt: skip


def _hover(tasks: tuple[str, ...], index: int, true: np.ndarray, scaling: Scaling) -> str:
    """Exact distances to the nearest other tasks, beside those in the plane."""
    drawn = np.linalg.norm(scaling.points - scaling.points[index], axis=1)
    others = [i for i in np.argsort(true[index], kind="stable") if i != index]
    near = [f"to {safe(tasks[i])}: 1 − cosine {true[index, i]:.4f} (drawn {drawn[i]:.3f})" for i in others[:6]]
    more = f"… and {len(others) - 6} more, further away" if len(others) > 6 else ""
    return lines(safe(tasks[index]), *near, more, "unrelated (chance): 1")


@task_positions.caption
def _caption(result: Result, **_: Any) -> str:
    tasks, true, scaling = _placed(result)
    if scaling is None or not math.isfinite(scaling.stress):
        return "There are no two task vectors with different directions, so there is no map to read."
    pairs = np.triu_indices(len(tasks), 1)
    at = int(np.argmin(true[pairs]))
    a, b = tasks[pairs[0][at]], tasks[pairs[1][at]]
    nearest = f"1 − cosine {true[pairs][at]:.3f}; unrelated, by chance: 1"
    left_out = len(result.tasks) - len(tasks)
    without = f"; {left_out} without any change left out" if left_out else ""
    if len(tasks) == 2:
        return f"{start(a)} and {b} lie {nearest}{without}."
    said = f"{start(a)} and {b} lie nearest ({nearest})"
    shares = f"{percent(scaling.explained)} of the differences (unrelated tasks, by chance: {_chance(len(tasks))})"
    warning = ", so read the exact numbers and not the distances" if scaling.stress > 0.2 else ""
    return f"{said}; the plane holds {shares}, stress {scaling.stress:.2f}{warning}{without}."


def _chance(tasks: int) -> str:
    """Share of the variation that a plane holds when all tasks are equally far apart."""
    return percent(min(1.0, 2 / (tasks - 1)))


@task_positions.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    tasks, _true, scaling = _placed(result)
    points = np.zeros((0, 2)) if scaling is None else scaling.points
    shown = {"task": list(tasks) if scaling else [], "x": points[:, 0], "y": points[:, 1]}
    told = (math.nan, math.nan) if scaling is None else (scaling.explained, scaling.stress)
    return pd.DataFrame(shown).assign(explained=told[0], stress=told[1])
