"""UpSet plot: which of at most six tasks need the same weights, each group beside its size by chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Choice, Range
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, downwards, frame, names_axis
from viz.charts._mark import Name, Pair, outline
from viz.charts._tables import Row, at_threshold, records, top
from viz.charts._words import against_chance, counted, lines, safe, short
from viz.style import NEUTRAL, NEUTRAL_FAINT, POSITIVE, percent, task_colour

HOW = (
    "Each column is a group of weights: those that exactly the tasks with a filled dot need, that is, have in their "
    "mask at this threshold, and none of the other tasks shown. The bar is the group's share of all weights, the line "
    "across it what chance gives: each task's changes shuffled among the weights. Raw sizes mislead, because large "
    "masks meet by chance: compare each bar with its line. The bars at the right are the tasks' whole masks. At most "
    "24 groups are drawn; weights that none of these tasks needs have no column, and tasks that are not shown are "
    "summed over. The hover also gives the size if masks of these densities lay independently (product of shares)."
)
GROUPS_MAX = 24
MaskThreshold = Annotated[float, Range(0.05, 2, step=0.05), "mask threshold λ; smaller keeps more weights per task"]
Order = Annotated[
    str, Choice("size", "lift", "degree", labels=("size", "size / chance", "number of tasks")), "order of the groups"
]
Colours = Mapping[str, str] | None
_NUMBERS = ["share", "null", "independent"]


def _groups(result: Result, mask_threshold: float, layer: Name) -> tuple[tuple[str, ...], pd.DataFrame, float]:
    """The tasks counted, one row per group with its `members`, and the threshold; unknown tasks are summed over."""
    rows, threshold = at_threshold(result, mask_threshold)
    known = (rows["level"] == "layer") & (rows["layer"] == layer)
    rows = rows[known if known.any() else rows["level"] == "model"]
    named = [set(json.loads(pattern)) for pattern in rows["pattern"]]
    tasks = tuple(task for task in result.tasks if any(task in names for names in named))
    members = pd.Series([tuple(task for task in tasks if task in names) for names in named], rows.index, dtype=object)
    grouped = rows.assign(members=members).groupby("members", sort=False)[_NUMBERS]
    groups = grouped.sum(min_count=1).reset_index()
    lift = groups["share"] / groups["null"].where(groups["null"] > 0)
    return tasks, groups.assign(degree=groups["members"].map(len), lift=lift), threshold


def _shown(groups: pd.DataFrame, order: str) -> pd.DataFrame:
    """The largest groups of one task or more that hold or would hold any weight, in the wanted order."""
    held = groups[(groups["degree"] > 0) & ((groups["share"] > 0) | (groups["null"] > 0))]
    largest = held.sort_values("share", ascending=False, kind="stable").head(GROUPS_MAX)
    keys = {"size": ["share"], "lift": ["lift", "share"], "degree": ["degree", "share"]}[order]
    ascending = [key == "degree" for key in keys]
    return largest.sort_values(keys, ascending=ascending, kind="stable").reset_index(drop=True)


def _choose(result: Result) -> str:
    if len(result.tasks) > 6:
        return "Choose at most six tasks: with more, most groups are too small to be drawn or read."
    return "There is nothing to show yet: no mask patterns were counted."


@chart(title="Which tasks need the same weights", how=HOW, result="mask_patterns")
def mask_upset(
    result: Result,
    *,
    mask_threshold: MaskThreshold = 0.4,
    order: Order = "size",
    pair: Pair = None,
    task: Name = None,
    layer: Name = None,
    colours: Colours = None,
) -> go.Figure:
    """Shares of the weights that exactly these tasks need, beside chance: an UpSet plot for at most six tasks.

    Of the whole model, or of the selected layer. Shows the computed threshold nearest to `mask_threshold`.
    """
    tasks, groups, threshold = _groups(result, mask_threshold, layer)
    if not tasks or not groups["share"].notna().any():
        return blank(_choose(result))
    shown = _shown(groups, order)
    rows = 26 * len(tasks)
    height = 250 + rows
    low = rows / (height - 60)
    scope = layer if (result.table["layer"] == layer).any() else "whole model"
    names = downwards(names_axis(tasks, 14, every=1))
    figure = frame(
        height, x=f"groups ({short(scope)}, λ = {threshold:.2f})", y="task", meta={"y": list(tasks)},
        xaxis={"domain": [0, 0.84], "range": [-0.6, max(len(shown), 6) - 0.4], "showticklabels": False,
               "showgrid": False, "zeroline": False, "title": {"standoff": 12}},
        yaxis={**names, "domain": [0, low], "showgrid": False}, showlegend=False, bargap=0.3,
    )  # fmt: skip
    chosen = {*(pair or ()), *((task,) if task else ())}
    _sizes(figure, shown, chosen, low)
    _matrix(figure, shown, tasks)
    _masks(figure, groups, tasks, {t: (colours or {}).get(t) or task_colour(i) for i, t in enumerate(result.tasks)})
    for place in [i for i, name in enumerate(tasks) if name in chosen]:
        outline(figure, (0, 1), (place - 0.48, place + 0.48), xref="paper")
    return figure


def _sizes(figure: go.Figure, shown: pd.DataFrame, chosen: set[str], low: float) -> None:
    """The bars, those of groups with every selected task in blue, and the lines that chance gives."""
    at = np.arange(len(shown), dtype=float)
    colours = [POSITIVE if chosen and chosen <= set(members) else NEUTRAL for members in shown["members"]]
    figure.add_bar(
        x=at, y=100 * shown["share"].to_numpy(dtype=float), marker={"color": colours}, name="share of weights",
        yaxis="y2", hoverinfo="text", hovertext=[_hover(row) for row in records(shown)], customdata=_picks(shown),
    )  # fmt: skip
    x = np.repeat(at, 3) + np.tile([-0.42, 0.42, np.nan], len(at))
    # Two lines, so that the chance level shows on the bar, beside it, and on both pages.
    for colour, width in (("#ffffff", 4.5), ("#111827", 2)):
        figure.add_scatter(
            x=x, y=np.repeat(100 * shown["null"].to_numpy(dtype=float), 3), mode="lines", name="chance",
            line={"color": colour, "width": width}, yaxis="y2", hoverinfo="skip",
        )  # fmt: skip
    figure.update_layout(
        yaxis2={"domain": [low + 0.03, 1], "title": {"text": "weights (%); line: chance", "standoff": 8},
                "rangemode": "tozero", "automargin": True, "zeroline": True},
    )  # fmt: skip


def _matrix(figure: go.Figure, shown: pd.DataFrame, tasks: tuple[str, ...]) -> None:
    """Dots: filled where the group's weights are needed by the task; a stem joins those of one group."""
    inside = [[i for i, name in enumerate(tasks) if name in members] for members in shown["members"]]
    stems = [end for rows in inside for end in (rows[0], rows[-1], math.nan)]
    figure.add_scatter(
        x=np.repeat(np.arange(len(shown), dtype=float), 3), y=np.array(stems, dtype=float), mode="lines",
        line={"color": NEUTRAL, "width": 3}, hoverinfo="skip", name="stems",
    )  # fmt: skip
    full = [i in rows for rows in inside for i in range(len(tasks))]
    figure.add_scatter(
        x=np.repeat(np.arange(len(shown), dtype=float), len(tasks)),
        y=np.tile(np.arange(len(tasks), dtype=float), len(shown)),
        mode="markers", name="groups", hoverinfo="text",
        hovertext=[text for row in records(shown) for text in [_hover(row)] * len(tasks)],
        marker={"size": 9 if len(shown) <= 12 else 7, "color": [NEUTRAL if f else NEUTRAL_FAINT for f in full]},
        customdata=np.repeat(_picks(shown), len(tasks)),
    )  # fmt: skip


def _masks(figure: go.Figure, groups: pd.DataFrame, tasks: tuple[str, ...], colours: Mapping[str, str]) -> None:
    """The whole mask of each task, beside its row of dots."""
    size = [float(groups.loc[[task in m for m in groups["members"]], "share"].sum()) for task in tasks]
    figure.add_bar(
        x=100 * np.array(size), y=np.arange(len(tasks), dtype=float), orientation="h", xaxis="x2", width=0.6,
        marker={"color": [colours[task] for task in tasks]}, name="mask", hoverinfo="text",
        hovertext=[
            lines(safe(task), f"{percent(share, 2)} of the weights are in its mask")
            for task, share in zip(tasks, size, strict=True)
        ],
        customdata=np.array([{"task": task} for task in tasks], dtype=object),
    )  # fmt: skip
    figure.update_layout(
        xaxis2={"domain": [0.86, 1], "anchor": "y", "side": "top", "range": [0, 105 * max(size) or 1], "nticks": 3,
                "showgrid": False, "tickfont": {"size": 10},
                "title": {"text": "mask (%)", "standoff": 4, "font": {"size": 11}}},
    )  # fmt: skip


def _picks(shown: pd.DataFrame) -> np.ndarray:
    """What a click on each group selects: its task or pair; nothing where it has none or more."""
    picks: np.ndarray = np.empty(len(shown), dtype=object)
    for i, members in enumerate(shown["members"]):
        picks[i] = {1: {"task": members[0]}, 2: {"pair": list(members)}}.get(len(members)) if members else None
    return picks


def _hover(row: Row) -> str:
    who = " · ".join(safe(name) for name in row["members"]) or "none of these tasks"
    lift = f"{row['lift']:.3f} × chance" if math.isfinite(row["lift"]) else ""
    return lines(
        who if row["degree"] != 1 else f"only {who}",
        f"{percent(row['share'], 3)} of the weights",
        f"chance {percent(row['null'], 3)} (each task's changes shuffled)",
        f"independent masks of these densities {percent(row['independent'], 3)}",
        lift,
    )


@mask_upset.caption
def _caption(result: Result, *, mask_threshold: float, layer: Name, order: str, **_: Any) -> str:
    tasks, groups, threshold = _groups(result, mask_threshold, layer)
    if not tasks or not groups["share"].notna().any():
        return _choose(result)
    shown, none = _shown(groups, order), groups[groups["degree"] == 0][["share", "null"]].sum()
    if shown.empty:
        return f"At mask threshold {threshold:.2f} no weight is in a mask, nor would any be by chance."
    what = f"{counted(result.provenance)}" + (f" of {layer}" if (result.table["layer"] == layer).any() else "")
    row = top(shown, (shown["share"] - shown["null"]).abs())
    first = row["members"][:3] if row["degree"] > 3 else row["members"][:-1]
    last = f"{row['degree'] - 3} more" if row["degree"] > 3 else row["members"][-1]
    who = f"{', '.join(first)} and {last}" if first else last
    said = f"furthest from chance is what {'only ' if row['degree'] == 1 else 'just '}{who} need"
    size = f"{percent(row['share'])}, {against_chance(row['share'], row['null'])}"
    groups_drawn = f"the {len(shown)} groups drawn cover" if len(shown) > 1 else "the one group drawn covers"
    rest = f"{percent(none['share'])} (chance {percent(none['null'])}) are needed by none"
    among = f", of {len(tasks)} of {len(result.tasks)} tasks" if len(tasks) < len(result.tasks) else ""
    return (
        f"At mask threshold {threshold:.2f}{among}, {groups_drawn} {percent(shown['share'].sum())} of the {what} and "
        f"{rest}; {said}{'s' if row['degree'] == 1 else ''}: {size}."
    )


@mask_upset.table
def _table(result: Result, *, mask_threshold: float, order: str, layer: Name, **_: Any) -> pd.DataFrame:
    _tasks, groups, threshold = _groups(result, mask_threshold, layer)
    keys = {"size": ["share"], "lift": ["lift", "share"], "degree": ["degree", "share"]}[order]
    ordered = groups.sort_values(keys, ascending=[key == "degree" for key in keys], kind="stable")
    names = [json.dumps(list(members)) for members in ordered["members"]]
    return ordered.assign(tasks=names, threshold=threshold)[["tasks", "degree", "threshold", *_NUMBERS, "lift"]]
