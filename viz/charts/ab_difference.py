"""B against the pinned setting A: the paired difference per task, and its average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Range
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, downwards, frame, names_axis, symmetric_limit
from viz.charts._mark import Name, Pair, outline
from viz.charts._tables import Row, records
from viz.charts._words import cut, lines, points, safe, start
from viz.style import NEUTRAL, NEUTRAL_FAINT, percent, task_colour

HOW = (
    "One row per task, the average over the tasks below them. Dot: score of setting B minus that of the pinned "
    "setting A on the same held-out examples, in points (hundredths of the score); right of 0, B is better. Line: 95 % "
    "interval from resampling the examples in pairs. Grey band: differences too small to be worth naming, as you set "
    "it. Filled dot: larger than the band, and more than chance would give: for a task p below 0.05 after Holm's "
    "correction for the number of tasks, by McNemar's exact test where answers are right or wrong and else by swapping "
    "the two settings' answers at random; for the average an interval without 0. Hollow dot: otherwise."
)

MinEffect = Annotated[float, Range(0, 0.2, step=0.001), "smallest difference of scores worth naming"]
Colours = Mapping[str, str] | None
BETTER, WORSE, SMALL, OPEN = "B better", "B worse", "no difference worth naming", "not told from chance"
SIGNIFICANT = 0.05
_MEAN = "mean"


def verdict(row: Row, min_effect: float) -> str:
    """What a row says: B better or worse, a difference below `min_effect`, or one that chance might give as well."""
    difference = float(row["difference"])
    if abs(difference) < min_effect - 1e-12 or difference == 0:
        return SMALL
    sure = float(row["p_holm"]) < SIGNIFICANT if row["part"] == "task" else row["low"] > 0 or row["high"] < 0
    return (BETTER if difference > 0 else WORSE) if sure else OPEN


def _rows(result: Result) -> list[Row]:
    """The tasks that are known in their order, then the mean."""
    table = result.table
    tasks = table[(table["part"] == "task") & table["task"].isin(list(result.tasks))]
    order = {task: place for place, task in enumerate(result.tasks)}
    tasks = tasks.sort_values("task", key=lambda names: names.map(order), kind="stable")
    return records(pd.concat([tasks, table[table["part"] == "mean"]]) if len(tasks) else tasks)


def _hover(row: Row, min_effect: float) -> str:
    mean = row["part"] == "mean"
    return lines(
        "average over the tasks" if mean else safe(row["task"]),
        f"B − A {points(row['difference'], 2)}: {verdict(row, min_effect)}",
        f"95 % interval {points(row['low'], 2)} to {points(row['high'], 2)}",
        _scores(row),
        _only(row),
        "" if mean else f"{safe(row['test'])} p {_p(row['p'])}, after Holm {_p(row['p_holm'])}",
        f"so far {int(row['n']):,} of {int(row['n_total']):,} examples" if row["n"] < row["n_total"] else "",
    )


def _scores(row: Row) -> str:
    both, n = f"A {percent(row['score_a'], 2)}, B {percent(row['score_b'], 2)}", f"{int(row['n']):,} examples"
    return f"{both} of {n}" if _right_or_wrong(row) else f"{safe(row['metric'] or 'mean score')}: {both}; {n}"


def _only(row: Row) -> str:
    a, b = f"{int(row['only_a']):,}", f"{int(row['only_b']):,}"
    return f"only A right: {a}, only B right: {b}" if _right_or_wrong(row) else f"A better on {a} examples, B on {b}"


def _right_or_wrong(row: Row) -> bool:
    return bool(row["test"] == "McNemar")


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "unknown"
    return "below 0.0001" if value < 0.0001 else f"{value:.2g}"


@chart(title="B against the pinned A", how=HOW, result="ab_difference")
def ab_difference(
    result: Result, *, min_effect: MinEffect = 0.005, pair: Pair = None, task: Name = None, colours: Colours = None
) -> go.Figure:
    """Score of the setting shown now minus that of the pinned one, per task, on the same examples."""
    rows = _rows(result)
    if not rows:
        return blank("No example has been answered by both settings yet.")
    names = [*(str(r["task"]) for r in rows if r["part"] == "task"), _MEAN]
    ends = np.array([100 * float(r[end]) for r in rows for end in ("low", "high", "difference")])
    limit = symmetric_limit(ends, max(1.0, 150 * min_effect))
    axis = downwards(names_axis(names, 16, every=1))
    axis["ticktext"] = [*axis["ticktext"][:-1], "<b>average</b>"]
    figure = frame(
        120 + 34 * len(names), x="B − A (% points)", y="task",
        meta={"y": names}, xaxis={"range": [-1.04 * limit, 1.04 * limit], "automargin": True, "zeroline": False},
        yaxis=axis, showlegend=False, margin={"l": 8, "r": 8, "t": 30, "b": 8},
    )  # fmt: skip
    _background(figure, min_effect, len(names))
    for place, row in enumerate(rows):
        name = str(row["task"])
        at = result.tasks.index(name) if row["part"] == "task" else -1
        colour = (colours or {}).get(name) or task_colour(at) if at >= 0 else NEUTRAL
        _mark(figure, row, place, colour, min_effect)
    for place in [i for i, name in enumerate(names[:-1]) if name in (*(pair or ()), task)]:
        outline(figure, (0, 1), (place - 0.45, place + 0.45), xref="paper")
    return figure


def _background(figure: go.Figure, min_effect: float, rows: int) -> None:
    """The band of differences not worth naming, zero, a line above the average, and which side is whose."""
    band, down = 100 * min_effect, {"yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    figure.add_shape(type="rect", x0=-band, x1=band, fillcolor=NEUTRAL_FAINT, line={"width": 0}, name="band", **down)
    figure.add_shape(type="line", x0=0, x1=0, line={"color": NEUTRAL, "width": 1.5}, **down)
    across = {"xref": "paper", "x0": 0, "x1": 1, "y0": rows - 1.5, "y1": rows - 1.5}
    figure.add_shape(type="line", line={"color": NEUTRAL_FAINT, "width": 1}, **across)
    for text, x, anchor in (("◂ A better", 0, "left"), ("B better ▸", 1, "right")):
        at = {"xref": "paper", "x": x, "xanchor": anchor, "yref": "paper", "y": 1, "yanchor": "bottom"}
        figure.add_annotation(text=text, showarrow=False, font={"size": 12}, **at)


def _mark(figure: go.Figure, row: Row, place: int, colour: str, min_effect: float) -> None:
    at, low, high = (100 * float(row[c]) for c in ("difference", "low", "high"))
    sure = verdict(row, min_effect) in (BETTER, WORSE)
    symbol = "diamond" if row["part"] == "mean" else "circle"
    figure.add_scatter(
        x=np.array([at]), y=np.array([float(place)]), mode="markers", name=str(safe(row["task"] or _MEAN)),
        hovertext=[_hover(row, min_effect)], hoverinfo="text",
        customdata=np.array([{"task": row["task"]} if row["part"] == "task" else None], dtype=object),
        error_x={"type": "data", "symmetric": False, "array": np.array([max(0.0, high - at)]),
                 "arrayminus": np.array([max(0.0, at - low)]), "color": colour, "thickness": 2, "width": 5},
        marker={"symbol": symbol if sure else f"{symbol}-open", "size": 12, "color": colour,
                "line": {"width": 2, "color": colour}},
    )  # fmt: skip


@ab_difference.caption
def _caption(result: Result, *, min_effect: float, **_: Any) -> str:
    rows = _rows(result)
    if not rows:
        return "No example has been answered by both settings yet."
    mean, tasks = rows[-1], rows[:-1]
    n, total = int(mean["n"]), int(mean["n_total"])
    so_far = f"On the {n:,} of {total:,} examples that both have answered so far, " if n < total else ""
    whom = f"on average over {len(tasks)} tasks" if len(tasks) > 1 else f"on {tasks[0]['task']}"
    said = f"{so_far}{whom} B − A is {points(mean['difference'])} ({_interval(mean)}): "
    said += _of_mean(mean, min_effect)
    found = {word: [str(r["task"]) for r in tasks if verdict(r, min_effect) == word] for word in (BETTER, WORSE)}
    told = [f"{word} on {_some(names)}" for word, names in found.items() if names]
    rest = f"beyond chance, {' and '.join(told)}" if told else "no difference that chance may not give"
    by_task = f"; by task, corrected for {len(tasks)} tests: {rest}" if len(tasks) > 1 else ""
    return start(f"{said}{by_task}.")


def _of_mean(mean: Row, min_effect: float) -> str:
    word, least = verdict(mean, min_effect), points(min_effect).lstrip("+")
    if word == SMALL:
        wide = max(abs(float(mean["low"])), abs(float(mean["high"])))
        unsure = f", though the interval reaches beyond {least}" if wide > min_effect and math.isfinite(wide) else ""
        return f"{SMALL}{unsure}"
    return "which chance may give as well" if word == OPEN else word


def _interval(row: Row) -> str:
    return f"95 % interval {points(row['low']).removesuffix(' points')} to {points(row['high'])}"


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(cut(name, 24) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


@ab_difference.table
def _table(result: Result, *, min_effect: float, **_: Any) -> pd.DataFrame:
    rows = pd.DataFrame(_rows(result), columns=list(result.table.columns))
    told = [verdict(row, min_effect) for row in records(rows)]
    return rows.assign(min_effect=min_effect, verdict=pd.Series(told, index=rows.index, dtype=object))
