"""Depth profile of interference between whole matrices: one of three measures, beside its chance level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Choice
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, frame, names_axis
from viz.charts._mark import FADED, Name, Pair, outline, stressed
from viz.charts._tables import model_rows, ordered, top
from viz.charts._words import brief, lines, safe, short, start
from viz.style import NEUTRAL, NEUTRAL_FAINT, POSITIVE, percent, task_colour, task_symbol

HOW = (
    "Three ways to say how the tasks' weight matrices get in each other's way. Singular task interference: how far "
    "the strongest directions of different tasks overlap at both ends of a matrix at once, as a multiple of their "
    "strength; T equal tasks give (T − 1)². WUDI layer loss: what the sum of all tasks disturbs on the inputs that a "
    "task's own update reacts to, as a share of what that update does (both squared). Subspace alignment: the share "
    "of a task's length that lies in the strongest directions of the sum; here low is bad. The grey boxes are chance: "
    "what unrelated tasks of the same shapes and strengths would give, from the lowest to the highest of the tasks."
)

By = Annotated[str, Choice("layer", "kind", labels=("by layer", "by kind of module")), "what the figure is split by"]
Colours = Mapping[str, str] | None
ALL = "all tasks"


class _Measure(NamedTuple):
    """What is shown: its column, axis, words for hovers and captions, and whether it is given in percent."""

    value: str
    axis: str
    words: str
    in_percent: bool

    def text(self, value: float, digits: int = 1) -> str:
        """The value in its unit."""
        return percent(value, digits) if self.in_percent else f"{value:.{digits + 1}f}"


_MEASURES = {
    "sti": _Measure("sti", "interference (multiple of strength)", "singular task interference", False),
    "wudi_loss": _Measure("disturbance", "disturbance (% of own effect)", "disturbance by the other tasks", True),
    "sar": _Measure("alignment", "alignment (% of own length)", "alignment with the sum of all tasks", True),
}


def _rows(result: Result, level: str) -> pd.DataFrame:
    """Rows of known tasks with a value, `value` and `task` columns the same for all measures."""
    rows = result.at(level) if level != "model" else model_rows(result.table)
    rows = rows if "task" in rows else rows.assign(task=ALL)
    rows = rows.assign(value=rows[_MEASURES[result.kind].value])
    known = rows["task"].isin([*result.tasks, *([ALL] if result.kind == "sti" and result.tasks else [])])
    return rows[known & rows["value"].notna()].reset_index(drop=True)


def _hover(row: pd.Series, by: str, measure: _Measure) -> str:
    return lines(
        f"{safe(row['task'])} · {safe(row[by])}",
        f"{measure.words}: {measure.text(row['value'], 2)}",
        f"chance {measure.text(row['null'], 2)}",
        f"{int(row['n_matrices']):,} matri{'x' if row['n_matrices'] == 1 else 'ces'}",
    )


@chart(title="Interference between matrices", how=HOW, result=("sti", "wudi_loss", "sar"))
def matrix_interference_layers(
    result: Result,
    *,
    by: By = "layer",
    pair: Pair = None,
    task: Name = None,
    layer: Name = None,
    kind: Name = None,
    colours: Colours = None,
) -> go.Figure:
    """Singular task interference, WUDI loss or subspace alignment per layer or kind of module, beside chance."""
    measure, rows = _MEASURES[result.kind], _rows(result, by)
    if rows.empty:
        return blank("There is nothing to show yet: no task changed a weight matrix.")
    places = ordered(rows, by)
    what = "layer" if by == "layer" else "kind of module"
    named = [t for t in (result.tasks if result.kind != "sti" else (ALL,)) if (rows["task"] == t).any()]
    figure = frame(
        300 + 20 * -(-(len(named) + 1) // 3), x=what, y=measure.axis, meta={"x": places},
        xaxis=names_axis(brief(places)),
    )  # fmt: skip
    # alignments lie close together, far from 0
    figure.update_yaxes(rangemode="normal" if result.kind == "sar" else "tozero")
    unit = 100 if measure.in_percent else 1
    _add_chance(figure, rows, places, by, measure)
    for place, name in enumerate(named):
        # beside one another where no line tells the tasks apart
        aside = 0.6 * ((place + 0.5) / len(named) - 0.5) if by == "kind" else 0.0
        index = result.tasks.index(name) if name in result.tasks else 0
        own = rows[rows["task"] == name].drop_duplicates(by)
        own = own.assign(at=[places.index(p) for p in own[by]]).sort_values("at")
        colour = POSITIVE if name == ALL else (colours or {}).get(name) or task_colour(index)
        figure.add_scatter(
            x=own["at"].to_numpy(dtype=float) + aside, y=unit * own["value"].to_numpy(dtype=float), name=short(name),
            # Kinds of module have no order, so no line leads from one to the next.
            mode="lines+markers" if by == "layer" else "markers", line={"color": colour, "width": 2},
            marker={"color": colour, "symbol": task_symbol(index), "size": 9},
            opacity=1 if name == ALL or stressed(name, pair, task) else FADED,
            hovertext=[_hover(row, by, measure) for _, row in own.iterrows()], hoverinfo="text",
            customdata=np.array([{**({} if name == ALL else {"task": name}), by: p} for p in own[by]], dtype=object),
        )  # fmt: skip
    chosen = layer if by == "layer" else kind
    if chosen in places:
        outline(figure, (places.index(chosen) - 0.5, places.index(chosen) + 0.5), (0, 1), yref="paper")
    return figure


def _add_chance(figure: go.Figure, rows: pd.DataFrame, places: list[str], by: str, measure: _Measure) -> None:
    """A box per place from the lowest to the highest chance level of the tasks, at least a line thick."""
    unit = 100 if measure.in_percent else 1
    spans = rows.groupby(by)["null"].agg(["min", "max"]).reindex(places)
    low, high = (unit * spans[k].to_numpy(dtype=float) for k in ("min", "max"))
    told = [
        lines(f"chance · {safe(place)}", measure.text(a / unit, 2), f"to {measure.text(b / unit, 2)}" if b > a else "")
        for place, a, b in zip(places, low, high, strict=True)
    ]
    figure.add_bar(
        x=np.arange(len(places), dtype=float), y=high - low, base=low, width=0.72, name="chance", hovertext=told,
        hoverinfo="text", marker={"color": NEUTRAL_FAINT, "line": {"color": NEUTRAL, "width": 2}},
    )  # fmt: skip


@matrix_interference_layers.caption
def _caption(result: Result, *, by: str, **_: Any) -> str:
    measure, model = _MEASURES[result.kind], _rows(result, "model")
    if model.empty:
        return "No task changed a weight matrix, so there is nothing to compare with chance."
    low_is_bad = result.kind == "sar"
    worst = top(model, -model["value"] if low_is_bad else model["value"])
    whose = "" if result.kind == "sti" else f" of {worst['task']}"
    word = "lowest" if low_is_bad else "highest"
    which = f", the {word} of {len(model)} tasks," if len(model) > 1 else ""
    said = f"{measure.words}{whose}{which} is {measure.text(worst['value'])}: {_beside(worst, measure)}"
    return start(said) + _extreme(_rows(result, by), by, measure, low_is_bad) + "."


def _beside(row: pd.Series, measure: _Measure) -> str:
    """The value beside its chance level; within a tenth of it the two are called about the same."""
    value, null = float(row["value"]), float(row["null"])
    if not math.isfinite(null):
        return "the chance level is not known"
    chance = measure.text(null)
    if abs(value - null) <= 0.1 * abs(null) + 1e-12:
        return f"about what chance gives ({chance})"
    return f"{'more' if value > null else 'less'} than chance gives ({chance})"


def _extreme(rows: pd.DataFrame, by: str, measure: _Measure, low_is_bad: bool) -> str:
    """The place that is worst beside its own chance level."""
    beside = (rows["null"] - rows["value"] if low_is_bad else rows["value"] - rows["null"]).astype(float)
    if rows[by].nunique() < 2 or beside.notna().sum() < 2:
        return ""
    side = "below" if low_is_bad else "above"
    if not beside.max() > 0:
        return f"; no {by} lies {side} its chance level"
    row = top(rows, beside)
    whose = "" if row["task"] == ALL else f" for {row['task']}"
    return f"; furthest {side} its own chance level is {row[by]}{whose} ({measure.text(row['value'])})"


@matrix_interference_layers.table
def _table(result: Result, *, by: str, **_: Any) -> pd.DataFrame:
    measure = _MEASURES[result.kind]
    task = [] if result.kind == "sti" else ["task"]
    return _rows(result, by)[[by, *task, measure.value, "null", "n_matrices"]]
