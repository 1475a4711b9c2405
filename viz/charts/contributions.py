"""What became of every task vector in the merge, and how much of the merged update each of them makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, downwards, frame, names_axis
from viz.charts._mark import Name, Pair, outline
from viz.charts._tables import Row, model_rows, number, records, top
from viz.charts._words import lines, safe, start
from viz.style import NEGATIVE, NEUTRAL, NEUTRAL_FAINT, POSITIVE, percent, task_colour

HOW = (
    "Left: each task vector's squared length, split by what the merge does at each weight: kept, it moves the task's "
    "way; out-voted, the other way; dropped, not at all (trimmed, masked, or too small for the stored dtype). Right: "
    "the part of the merged update that goes with each task vector, from the mixture of task vectors nearest to it; "
    "what is missing to 100 % is no mixture of them. A share may be below 0. Chance is no guide here: the tick and "
    "the hover show what plain averaging of the same fine-tunes would give."
)
Colours = Mapping[str, str] | None
_HATCH = {"shape": "/", "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.7, "size": 6}
_PARTS = (
    ("kept", "kept", {"color": POSITIVE}),
    ("outvoted", "out-voted", {"color": NEGATIVE, "pattern": _HATCH}),
    ("dropped", "dropped", {"color": NEUTRAL_FAINT}),
)
_KEPT = (
    "task", "share", "share_average", "kept", "dropped", "dropped_average", "outvoted", "outvoted_average", "cosine",
    "cosine_average", "coefficient", "departure", "departure_average", "norm", "update_norm", "n",
)  # fmt: skip


def _rows(result: Result) -> pd.DataFrame:
    rows = model_rows(result.table)
    return rows[rows["task"].isin(list(result.tasks))].reset_index(drop=True)


def _hover(row: Row) -> str:
    def beside(name: str) -> str:
        return f"{percent(number(row, name))} (plain averaging {percent(number(row, f'{name}_average'))})"

    return lines(
        safe(row["task"]),
        f"{beside('share')} of the merged update",
        f"kept {percent(number(row, 'kept'))} of its squared length",
        f"out-voted {beside('outvoted')}",
        f"dropped {beside('dropped')}",
        f"nearest mixture takes it {number(row, 'coefficient'):.3g} times",
        f"cosine with the merged update {number(row, 'cosine'):.3f} ({number(row, 'cosine_average'):.3f})",
        f"merged model {number(row, 'departure'):.2f} × ‖τ‖ from this fine-tune"
        f" ({number(row, 'departure_average'):.2f})",
    )


@chart(title="What became of every task vector", how=HOW, result="contributions")
def contributions(result: Result, *, pair: Pair = None, task: Name = None, colours: Colours = None) -> go.Figure:
    """Per task: the kept, out-voted and dropped part of its vector, and its share of the merged update."""
    rows, tasks = _rows(result), list(result.tasks)
    if not tasks or rows["kept"].notna().sum() == 0:
        return blank("There is nothing to show yet: no merge was measured, or no task changes a weight.")
    figure = frame(
        140 + 34 * len(tasks), x="squared<br>length (%)", y="task", meta={"y": tasks}, barmode="stack",
        xaxis={"domain": [0, 0.56], "nticks": 3, "range": [0, 100], "automargin": True, "zeroline": False},
        xaxis2={"domain": [0.7, 1], "nticks": 4, "title": {"text": "update<br>(%)", "standoff": 8}, "anchor": "y",
                "range": _range(rows), "automargin": True, "zeroline": True},
        yaxis=downwards(names_axis(tasks, 14, every=1)), bargap=0.35,
    )  # fmt: skip
    figure.update_layout(legend={"itemclick": False, "itemdoubleclick": False, "traceorder": "normal"})
    told = records(rows)
    at = np.array([tasks.index(r["task"]) for r in told], dtype=float)
    hover, picks = [_hover(r) for r in told], np.array([{"task": r["task"]} for r in told], dtype=object)
    same: dict[str, Any] = {"hovertext": hover, "hoverinfo": "text", "customdata": picks}
    for column, name, marker in _PARTS:
        values = 100 * rows[column].to_numpy(dtype=float)
        figure.add_bar(x=values, y=at, orientation="h", name=name, marker=marker, **same)
    paint = [(colours or {}).get(t) or task_colour(i) for i, t in enumerate(tasks)]
    figure.add_bar(
        x=100 * rows["share"].to_numpy(dtype=float), y=at, orientation="h", name="share of the update", xaxis="x2",
        marker={"color": [paint[int(i)] for i in at]}, showlegend=False, **same,
    )  # fmt: skip
    figure.add_scatter(
        x=100 * rows["share_average"].to_numpy(dtype=float), y=at, mode="markers", name="plain averaging", xaxis="x2",
        marker={"symbol": "line-ns-open", "size": 18, "color": NEUTRAL, "line": {"width": 3}}, **same,
    )  # fmt: skip
    for place in [i for i, name in enumerate(tasks) if name in (*(pair or ()), task)]:
        outline(figure, (0, 1), (place - 0.48, place + 0.48), xref="paper")
    return figure


def _range(rows: pd.DataFrame) -> list[float]:
    """From 0, or from a negative share, to a round number beyond every bar and tick."""
    values = 100 * rows[["share", "share_average"]].to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    return [min(0.0, 1.1 * low), max(10.0, 1.1 * high)]


@contributions.caption
def _caption(result: Result, **_: Any) -> str:
    rows = _rows(result)
    known = rows[rows["share"].notna()]
    if rows["kept"].notna().sum() == 0:
        return "No merge was measured, or no task changes a weight."
    if known.empty:
        return "The merged model is the base: no weight is moved, so every task vector is dropped whole."
    most, lost = top(known, known["share"]), top(known, -known["kept"])
    of = "its own model's update" if result.provenance.get("output") == "per_task" else "the merged update"
    said = f"{start(most['task'])} makes {percent(most['share'])} of {of}"
    said += f" (plain averaging {percent(most['share_average'])})"
    if len(known) > 1:
        said += (
            f"; {lost['task']} loses most of itself: {percent(lost['outvoted'])} is out-voted and "
            f"{percent(lost['dropped'])} dropped (plain averaging {percent(lost['outvoted_average'])} and "
            f"{percent(lost['dropped_average'])})"
        )
    return said + "."


@contributions.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    return _rows(result)[list(_KEPT)]
