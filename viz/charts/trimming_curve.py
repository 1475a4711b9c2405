"""Trimming curve: how much of each task vector's norm sits in its largest weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Range
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, frame
from viz.charts._mark import FADED, Name, Pair, stressed
from viz.charts._tables import model_rows, top
from viz.charts._words import against_chance, counted, lines, safe, short, start
from viz.style import NEUTRAL, percent, task_colour, task_symbol

HOW = (
    "Keep only the largest weights of each task vector: how much of its length is left? Across, on a logarithmic "
    "scale: the percentage of the weights kept. Up: the length of what is kept divided by the whole length. The higher "
    "a curve, the fewer weights carry the task, and the less a trim costs. Dotted is chance: a vector of normal random "
    "numbers with as many entries as the task changed weights. The large marks show the current density. Values are "
    "read from a histogram; the hover gives the largest possible error. At 100 % no changed weight is left out."
)
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
TICK_TEXTS = tuple(f"{tick:g}" for tick in TICKS)
SAME = 0.005
"""Chance levels that differ by less than half a point everywhere are drawn as one line."""

Density = Annotated[float, Range(0, 1, open_low=True, step=0.01), "fraction of the weights kept, where the marks are"]
Colours = Mapping[str, str] | None


def _rows(result: Result) -> pd.DataFrame:
    rows = model_rows(result.table)
    known = rows[rows["task"].isin(list(result.tasks)) & rows["kept"].notna()]
    return known.sort_values("density", kind="stable").reset_index(drop=True)


def _marked(rows: pd.DataFrame, density: float) -> pd.DataFrame:
    """Each task's row at the computed density nearest to the wanted one."""
    grid = np.unique(rows["density"].to_numpy(dtype=float))
    return rows[rows["density"] == grid[np.argmin(np.abs(grid - density))]].drop_duplicates("task")


def _hover(row: pd.Series) -> str:
    return lines(
        f"{safe(row['task'])} · top {_share(row['density'])} of the weights",
        f"holds {percent(row['kept'], 2)} of the norm (± {percent(row['bin_error'], 2)})",
        f"chance (normal numbers) {percent(row['null'], 2)}",
        f"{percent(row['effective_density'])} of all weights, {percent(row['of_changed'])} of those the task changed",
        f"90 % of the norm: top {percent(row['density_90'])} (chance {percent(row['null_90'])})",
    )


def _share(density: float) -> str:
    """A density as percent, with as few digits as it needs."""
    return f"{100 * density:.3g} %"


@chart(title="How much a trim leaves of each task vector", how=HOW, result="redundancy")
def trimming_curve(
    result: Result, *, density: Density = 0.2, pair: Pair = None, task: Name = None, colours: Colours = None
) -> go.Figure:
    """Share of each task vector's norm that its largest weights hold, for every density."""
    rows = _rows(result)
    if rows.empty:
        return blank("There is nothing to trim: no task changed a weight.")
    figure = frame(
        340 + 20 * -(-len(result.tasks) // 3),
        x=f"largest weights kept (% of all {counted(result.provenance)}, logarithmic)",
        y="norm kept (% of the task vector's)",
        xaxis={"type": "log", "range": [np.log10(80 * rows["density"].min()), 2.05],
               "zeroline": False, "automargin": True, "tickvals": TICKS, "ticktext": TICK_TEXTS},
        yaxis={"range": [0, 103], "zeroline": False, "automargin": True, "nticks": 6},
    )  # fmt: skip
    figure.update_layout(legend={"tracegroupgap": 0})
    _add_chance(figure, rows, result.tasks, colours)
    for index, name in enumerate(result.tasks):
        own, colour = rows[rows["task"] == name], _colour(name, index, colours)
        if own.empty:
            continue
        figure.add_scatter(
            x=100 * own["density"].to_numpy(dtype=float), y=100 * own["kept"].to_numpy(dtype=float),
            name=short(name), legendgroup=f"task {index}", mode="lines+markers", line={"color": colour, "width": 2},
            marker={"color": colour, "symbol": task_symbol(index), "size": 5},
            opacity=1 if stressed(name, pair, task) else FADED,
            hovertext=[_hover(row) for _, row in own.iterrows()], hoverinfo="text",
            customdata=np.array([{"task": name}] * len(own), dtype=object),
        )  # fmt: skip
    return _mark(figure, _marked(rows, density), result.tasks, colours)


def _mark(figure: go.Figure, now: pd.DataFrame, tasks: tuple[str, ...], colours: Colours) -> go.Figure:
    """A line at the current density, and every task's own mark on its curve there."""
    at = 100 * float(now["density"].iloc[0])
    figure.add_vline(x=at, line={"color": NEUTRAL, "width": 1, "dash": "dash"})
    for index, task in enumerate(tasks):
        own = now[now["task"] == task]
        if own.empty:
            continue
        figure.add_scatter(
            x=np.array([at]), y=100 * own["kept"].to_numpy(dtype=float), mode="markers", showlegend=False,
            legendgroup=f"task {index}", hovertext=[_hover(row) for _, row in own.iterrows()], hoverinfo="text",
            marker={"color": _colour(task, index, colours), "symbol": task_symbol(index), "size": 11},
            customdata=np.array([{"task": task}] * len(own), dtype=object),
        )  # fmt: skip
    return figure


def _add_chance(figure: go.Figure, rows: pd.DataFrame, tasks: tuple[str, ...], colours: Colours) -> None:
    """One dotted grey line where all tasks share a chance level, else one per task in its colour."""
    by_task = rows.groupby("density")["null"]
    together = float((by_task.max() - by_task.min()).max()) < SAME
    shown = [task for task in tasks if (rows["task"] == task).any()]
    for place, task in enumerate(shown[:1] if together else shown):
        own = rows[rows["task"] == task]
        colour = NEUTRAL if together else _colour(task, tasks.index(task), colours)
        figure.add_scatter(
            x=100 * own["density"].to_numpy(dtype=float), y=100 * own["null"].to_numpy(dtype=float), name="chance",
            showlegend=place == 0, legendgroup="chance", legendrank=2000, mode="lines",
            line={"color": colour, "width": 2, "dash": "dot"}, hoverinfo="skip",
        )  # fmt: skip


def _colour(task: str, index: int, colours: Colours) -> str:
    return (colours or {}).get(task) or task_colour(index)


@trimming_curve.caption
def _caption(result: Result, *, density: float, **_: Any) -> str:
    rows = _rows(result)
    if rows.empty:
        return "No task changed a weight, so there is nothing to trim."
    now = _marked(rows, density)
    least, most = top(now, -now["kept"]), top(now, now["kept"])
    held = f"the top {_share(least['density'])} of the {counted(result.provenance)}"
    said = f"{held} hold {percent(least['kept'])} of the norm of {least['task']}"
    said += f": {against_chance(least['kept'], least['null'])}"
    if len(now) > 1:
        said += f"; that is the least of {len(now)} tasks, {most['task']} keeps {percent(most['kept'])}"
    few = now[(now["of_changed"] == 1) & (now["density"] < 1)]
    if len(few):
        row = top(few, -few["changed"])
        said += f"; {row['task']} changed only {percent(row['changed'])} of the weights, so all its change is kept"
    return start(said) + "."


@trimming_curve.table
def _table(result: Result, *, density: float, **_: Any) -> pd.DataFrame:
    rows = _rows(result)
    return rows.drop(columns=["level", "layer", "layer_index", "kind", "tensor"])
