"""The score per task: the merged model between chance, the base and the single-task expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, downwards, frame, names_axis
from viz.charts._mark import Name, Pair, outline
from viz.charts._tables import top
from viz.charts._words import lines, safe, short, start
from viz.style import NEUTRAL, NEUTRAL_FAINT, percent, task_colour

HOW = (
    "One row per task. The diamond is the merged model, its line the 95 % interval (Wilson for accuracy, else from a "
    "bootstrap over examples): with few examples it is wide, and two settings whose intervals overlap widely may be "
    "equally good. Hollow circle: the base without fine-tuning. Filled circle: the task's own fine-tune, the expert. "
    "Tick: chance, what guessing gives. Faint diamond: an earlier setting. At the right: merged score / expert score; "
    '100 % means nothing was lost. "Quick" marks a first estimate on some of the examples, which is being refined.'
)

Relative = Annotated[bool, "show scores as a percentage of the expert's instead of as it is"]
Colours = Mapping[str, str] | None
ROLES = ("merged", "base", "expert", "chance")
_GHOSTS = ("diamond-open", "square-open", "triangle-up-open", "cross-open")
_MARKS: dict[str, dict[str, Any]] = {
    "chance": {"symbol": "line-ns-open", "size": 13, "color": NEUTRAL, "line": {"width": 2}},
    "base": {"symbol": "circle-open", "size": 11, "color": NEUTRAL, "line": {"width": 2}},
    "expert": {"symbol": "circle", "size": 11, "color": NEUTRAL},
}


def _table_of(result: Result, relative: bool) -> pd.DataFrame:
    """Rows of known tasks with `of_expert`, and `at` `at_low` `at_high`: what the figure shows, in percent."""
    rows = result.table[result.table["task"].isin(list(result.tasks))].drop_duplicates(["model", "task"], keep="last")
    expert = rows[rows["model"] == "expert"].set_index("task")["score"].astype(float)
    goal = rows["task"].map(expert.where(expert > 0)).astype(float)
    rows = rows.assign(of_expert=rows["score"] / goal)
    unit = goal if relative else 1.0
    shown = {f"at{end}": 100 * rows[column] / unit
             for end, column in (("", "score"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
    rows = rows.assign(**shown)
    return rows[rows["at"].notna()].reset_index(drop=True)


def _metric(rows: pd.DataFrame) -> str:
    """The metric that all tasks share, else the word for any."""
    named = rows["metric"].unique()
    return str(named[0]) if len(named) == 1 else "score"


def _partial(row: pd.Series) -> bool:
    return bool(row["n"] < row["n_total"])


def _hover(row: pd.Series) -> str:
    right = f"{int(row['correct']):,} of {int(row['n']):,} right" if row["metric"] == "accuracy" else ""
    scored = (right or f"{int(row['n']):,} examples") if row["n"] > 0 else ""
    interval = f"95 % interval {percent(row['low'])} to {percent(row['high'])}" if row["n"] > 0 else ""
    return lines(
        f"{safe(row['task'])} · {safe(row['model'])}",
        f"{safe(row['metric'])} {percent(row['score'], 2)}",
        scored and f"{scored}, {interval}",
        f"quick: {int(row['n']):,} of {int(row['n_total']):,} examples" if _partial(row) else "",
        f"{percent(row['of_expert'])} of the expert" if np.isfinite(row["of_expert"]) else "",
    )


def _row_label(task: str, merged: pd.DataFrame) -> str:
    own = merged[merged["task"] == task]
    if own.empty or not _partial(own.iloc[0]):
        return short(task)
    n, total = int(own.iloc[0]["n"]), int(own.iloc[0]["n_total"])
    return f"{short(task)}<br><span style='font-size:10px'>quick: {n:,} of {total:,}</span>"


@chart(title="Scores of the merged model", how=HOW, result="scores")
def scores(
    result: Result, *, relative: Relative = False, pair: Pair = None, task: Name = None, colours: Colours = None
) -> go.Figure:
    """Score of the merged model per task, between chance, base and expert, with its 95 % interval.

    Draws whatever models are present; models of other names are earlier or pinned settings.
    """
    rows, tasks = _table_of(result, relative), result.tasks
    if not tasks or rows.empty:
        missing = relative and len(result.table) and not (result.table["model"] == "expert").any()
        return blank("A percentage of the expert needs the experts' scores." if missing else "No task scored yet.")
    unit = f"{_metric(rows)} (% of the expert's)" if relative else f"{_metric(rows)} (%)"
    merged = rows[rows["model"] == "merged"]
    names = downwards(names_axis(tasks, 14, every=1))
    figure = frame(
        140 + 44 * len(tasks), x=unit, y="task", meta={"y": list(tasks)}, margin={"l": 8, "r": 72, "t": 8, "b": 8},
        xaxis={"range": _range(rows, relative), "automargin": True, "zeroline": False},
        # Half a row more on top, for the heading of the column at the right.
        yaxis={**names, "ticktext": [_row_label(t, merged) for t in tasks], "range": [len(tasks) - 0.5, -1]},
    )  # fmt: skip
    figure.update_layout(legend={"itemclick": False, "itemdoubleclick": False})
    _gaps(figure, rows, tasks)
    ghosts = [m for m in rows["model"].drop_duplicates() if m not in ROLES]
    for index, model in enumerate(ghosts):
        mark = {"symbol": _GHOSTS[index % len(_GHOSTS)], "size": 12, "color": NEUTRAL, "line": {"width": 1.5}}
        name = short(model, 10)
        _marks(figure, rows, tasks, model, name, {**mark, "opacity": 0.6})
    for model in ("chance", "base", "expert"):
        _marks(figure, rows, tasks, model, model, _MARKS[model])
    _merged(figure, merged, tasks, [(colours or {}).get(t) or task_colour(i) for i, t in enumerate(tasks)])
    for place in [i for i, name in enumerate(tasks) if name in (*(pair or ()), task)]:
        outline(figure, (0, 1), (place - 0.45, place + 0.45), xref="paper")
    return figure


def _range(rows: pd.DataFrame, relative: bool) -> list[float]:
    """A range that stays while sliders move: the whole scale."""
    return [0.0, max(106.0, float(rows["at"].max()) + 4)] if relative else [0.0, 102.0]


def _gaps(figure: go.Figure, rows: pd.DataFrame, tasks: tuple[str, ...]) -> None:
    """A quiet line from base to expert in each row: what there is to win."""
    for place, task in enumerate(tasks):
        ends = rows[(rows["task"] == task) & rows["model"].isin(["base", "expert"])]["at"]
        if len(ends) == 2:
            line = {"color": NEUTRAL_FAINT, "width": 5}
            figure.add_shape(type="line", x0=ends.min(), x1=ends.max(), y0=place, y1=place, layer="below", line=line)


def _marks(
    figure: go.Figure, rows: pd.DataFrame, tasks: tuple[str, ...], model: str, name: str, marker: dict[str, Any]
) -> None:
    own = rows[rows["model"] == model]
    if own.empty:
        return
    figure.add_scatter(
        x=own["at"].to_numpy(dtype=float), y=np.array([tasks.index(t) for t in own["task"]], dtype=float),
        mode="markers", name=name, marker=marker, hovertext=[_hover(r) for _, r in own.iterrows()], hoverinfo="text",
        customdata=np.array([{"task": task} for task in own["task"]], dtype=object),
    )  # fmt: skip


def _merged(figure: go.Figure, merged: pd.DataFrame, tasks: tuple[str, ...], colours: list[str]) -> None:
    """One trace per task, so that each interval has the colour of its task, and the text at the right."""
    for first, (_, row) in enumerate(merged.iterrows()):
        place = tasks.index(row["task"])
        reach = {"array": np.array([row["at_high"] - row["at"]]), "arrayminus": np.array([row["at"] - row["at_low"]])}
        figure.add_scatter(
            x=np.array([row["at"]]), y=np.array([float(place)]), mode="markers", name="merged",
            showlegend=first == 0, hovertext=[_hover(row)], hoverinfo="text",
            customdata=np.array([{"task": row["task"]}], dtype=object),
            error_x={"type": "data", "symmetric": False, "color": colours[place], "thickness": 2, "width": 5, **reach},
            marker={"symbol": "diamond", "size": 13, "color": colours[place], "opacity": 0.65 if _partial(row) else 1},
        )  # fmt: skip
        if np.isfinite(row["of_expert"]):
            _right(figure, percent(row["of_expert"], 0), place)
    if len(merged) and merged["of_expert"].notna().any():
        _right(figure, "of<br>expert", -0.8, 11)


def _right(figure: go.Figure, text: str, y: float, size: int = 13) -> None:
    at = {"xref": "paper", "x": 1, "xanchor": "left", "xshift": 6, "y": y, "yanchor": "middle"}
    figure.add_annotation(text=text, showarrow=False, font={"size": size}, **at)


@scores.caption
def _caption(result: Result, **_: Any) -> str:
    rows = _table_of(result, False)
    merged = rows[rows["model"] == "merged"]
    if merged.empty:
        return "The merged model has not been scored yet."
    n, total, tasks = int(merged["n"].sum()), int(merged["n_total"].sum()), len(merged)
    quick = f"Quick estimate on {n:,} of {total:,} examples: " if n < total else ""
    about = f"on average over {tasks} tasks" if tasks > 1 else f"on {merged['task'].iloc[0]}"
    # One task without an expert would make the average one over other tasks than it says.
    of_expert = bool(merged["of_expert"].notna().all())
    value, unit = ("of_expert", f"of the expert's {_metric(rows)}") if of_expert else ("score", _metric(rows))
    worst = top(merged, -merged[value])
    end = f"; worst is {worst['task']} with {percent(worst[value])}" if tasks > 1 else ""
    said = (
        f"{about} the merged model reaches {percent(merged[value].mean())} {unit}{_beside(rows, merged, value)}{end}."
    )
    return quick + said if quick else start(said)


def _beside(rows: pd.DataFrame, merged: pd.DataFrame, value: str) -> str:
    """The same average for base and chance, each only where it covers the same tasks."""
    told = []
    for name in ("base", "chance"):
        own = rows[(rows["model"] == name) & rows["task"].isin(list(merged["task"]))]
        if len(own) == len(merged):
            told.append(f"{name} {percent(own[value].mean())}")
    return f" ({', '.join(told)})" if told else ""


@scores.table
def _table(result: Result, **_: Any) -> pd.DataFrame:
    kept = ["task", "model", "metric", "score", "low", "high", "n", "n_total", "correct", "of_expert"]
    rows = _table_of(result, False)[kept]
    place = {task: i for i, task in enumerate(result.tasks)}
    return rows.sort_values("task", key=lambda names: names.map(place), kind="stable")
