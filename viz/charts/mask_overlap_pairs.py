"""Task x task: how much the weights that two tasks need overlap, and how that compares with chance."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Range
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._clusters import clustered
from viz.charts._figure import QUIET, blank, colour_bar, frame, symmetric_limit
from viz.charts._mark import Name, Pair, outline_square
from viz.charts._pairs import diagonal, distances, of_each, pair_grid, pair_picks, square, square_height
from viz.charts._tables import Row, at_threshold, between, model_rows, number, top
from viz.charts._words import ABOUT, against_chance, counted, grid, lines, safe, start
from viz.style import DIVERGING, SEQUENTIAL, percent

HOW = (
    "A task's mask marks the weights it needs: those where the task's own change is larger than the mask threshold "
    "times what the other tasks add or take away there. Below the diagonal: intersection over union of two masks, in "
    "percent. Above it: the lift, this overlap / the overlap that chance gives; 1× is chance, and 2× is as far from it "
    "as ½×. Chance: each task's changes shuffled among the weights. Diagonal, grey: the percentage of weights in the "
    "task's own mask. Masks overlap a lot by chance alone, because all are cut from the same sum: read the lift first. "
    "Tasks that overlap most stand side by side (average linkage on 1 - overlap, mean over all thresholds, so that "
    "the order stays when the threshold moves)."
)

MaskThreshold = Annotated[float, Range(0.05, 2, step=0.05), "mask threshold λ; smaller keeps more weights per task"]


def _rows(result: Result, mask_threshold: float) -> tuple[pd.DataFrame, float]:
    rows, threshold = at_threshold(result, mask_threshold)
    return between(model_rows(rows), result.tasks), threshold


def _log_lift(row: Row) -> float:
    """log2 of the lift; -10 stands for masks that never meet, so that they are drawn and not left out."""
    lift = number(row, "lift")
    return max(math.log2(lift), -10.0) if lift > 0 else (-10.0 if lift == 0 else math.nan)


def _lift_text(row: Row) -> str:
    """The lift for its square: `1.22×`, `.81×`."""
    lift = number(row, "lift")
    return "" if math.isnan(lift) else f"{lift:.2f}×".removeprefix("0")


def _order(result: Result) -> tuple[str, ...]:
    """The tasks, those that overlap most side by side; the same at every threshold."""
    rows = between(model_rows(result.table), result.tasks)
    mean = rows.groupby(["task_a", "task_b"], sort=False)[["iou"]].mean().reset_index()
    order, _ = clustered(distances(mean, result.tasks, lambda row: 1 - number(row, "iou")))
    return tuple(result.tasks[i] for i in order)


def _lift_bar(limit: float) -> dict[str, Any]:
    """The colour bar of the lift: log2 underneath, factors in its labels."""
    factor = max(f for f in (1.1, 1.2, 1.5, 2, 4, 8, 32, 128, 512) if math.log2(f) <= max(0.95 * limit, 0.14))
    shown = (1 / factor, 1, factor)
    ticks: dict[str, Any] = {"tickmode": "array", "tickvals": np.log2(shown), "ticktext": [f"{f:.2g}×" for f in shown]}
    return colour_bar("◥ lift (× chance)", left=0.54, **ticks)


def _hover(row: Row) -> str:
    a, b = safe(row["task_a"]), safe(row["task_b"])
    if not math.isfinite(number(row, "iou")):
        return lines(f"{a} · {b}", "both masks are empty")
    return lines(
        f"{a} · {b}",
        f"intersection over union {percent(row['iou'], 2)}",
        f"chance {percent(row['null'], 2)} (each task's changes shuffled)",
        f"if masks of these sizes lay independently {percent(row['independent'], 2)}",
        f"lift {number(row, 'lift'):.3f} × chance (log2 {_log_lift(row):+.3f})",
        f"in the mask: {a} {percent(row['density_a'])}, {b} {percent(row['density_b'])}",
        f"mask threshold {row['threshold']:.2f}",
    )


def _own(tasks: tuple[str, ...], densities: list[float], threshold: float) -> np.ndarray:
    hover = grid(len(tasks), len(tasks))
    for i, task in enumerate(tasks):
        hover[i, i] = lines(safe(task), f"{percent(densities[i], 2)} of the weights are in its mask",
                            f"mask threshold {threshold:.2f}")  # fmt: skip
    return hover


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Ends of the colour scale in percent: around the data, at least ten points apart, inside 0-100."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 100.0)
    pad = max(0.0, (10 - (high - low)) / 2)
    return max(0.0, math.floor(low - pad)), min(100.0, math.ceil(high + pad))


@chart(title="Overlap of the weights that tasks need", how=HOW, result="mask_overlap")
def mask_overlap_pairs(
    result: Result, *, mask_threshold: MaskThreshold = 0.4, pair: Pair = None, task: Name = None
) -> go.Figure:
    """Intersection over union (below), lift over chance (above) and density (diagonal) of the task masks.

    Shows the computed threshold nearest to `mask_threshold`; tasks that overlap most stand side by side.
    """
    if len(result.tasks) < 2:
        return blank("An overlap needs the masks of two tasks. Add another fine-tune.")
    rows, threshold = _rows(result, mask_threshold)
    if rows.empty:
        return blank("There is nothing to show yet: no masks were compared.")
    tasks = _order(result)
    layout = square(tasks)
    note = f"λ = {threshold:.2f}; diagonal: % in mask"
    legend = f"task<br><span style='font-size:11px'>{note}</span>"
    figure = frame(square_height(len(tasks)) + 24, x=legend, y="task", **layout)
    _squares(figure, rows, tasks, threshold)
    outline_square(figure, tasks, pair, task)
    return figure


def _squares(figure: go.Figure, rows: pd.DataFrame, tasks: tuple[str, ...], threshold: float) -> None:
    iou = pair_grid(rows, tasks, lambda row: 100 * row["iou"], np.nan, float, "lower")
    lift = pair_grid(rows, tasks, _log_lift, np.nan, float, "upper")
    own = of_each(rows, "density")
    densities = [own.get(task, math.nan) for task in tasks]
    low, high = _spread(iou)
    limit = symmetric_limit(lift, 0.2)
    common = {"xgap": 1, "ygap": 1, "hoverinfo": "text", "hoverongaps": False, "customdata": pair_picks(tasks)}
    label = (lambda text: {"text": text, "texttemplate": "%{text}"}) if len(tasks) <= 10 else (lambda text: {})
    figure.add_heatmap(
        z=iou, zmin=low, zmax=high, colorscale=SEQUENTIAL, name="IoU", **common,
        hovertext=pair_grid(rows, tasks, _hover, "", object, "lower"),
        colorbar=colour_bar("◣ IoU (%)", right=0.46, nticks=4),
        **label(pair_grid(rows, tasks, lambda row: f"{100 * row['iou']:.0f}", "", object, "lower")),
    )  # fmt: skip
    figure.add_heatmap(
        z=lift, zmin=-limit, zmid=0, zmax=limit, colorscale=DIVERGING, name="lift", **common,
        hovertext=pair_grid(rows, tasks, _hover, "", object, "upper"), colorbar=_lift_bar(limit),
        **label(pair_grid(rows, tasks, _lift_text, "", object, "upper")),
    )  # fmt: skip
    figure.add_heatmap(
        z=diagonal(densities, float, np.nan), colorscale=[[0, QUIET], [1, QUIET]], showscale=False,
        name="density", hovertext=_own(tasks, densities, threshold), **common,
        **label(diagonal([percent(d, 0).removesuffix(" %") for d in densities], object, "")),
    )  # fmt: skip


@mask_overlap_pairs.caption
def _caption(result: Result, *, mask_threshold: float, **_: Any) -> str:
    rows, threshold = _rows(result, mask_threshold)
    known = rows[rows["iou"].notna()] if len(rows) else rows
    if len(result.tasks) < 2 or known.empty:
        return "There are no two masks that hold any weight, so there is no overlap to show."
    row = top(known, known["iou"] - known["null"])
    said = (
        f"at mask threshold {threshold:.2f}, {row['task_a']} and {row['task_b']} share {percent(row['iou'])} of the "
        f"{counted(result.provenance)} that either needs: {against_chance(row['iou'], row['null'])}"
    )
    if len(known) == 1:
        return start(said) + "."
    if row["iou"] <= row["null"]:
        return f"{start(said)}; none of the {len(known)} pairs is above its chance level."
    above = int((known["iou"] > (1 + ABOUT) * known["null"]).sum())
    rest = f"{above or 'none'} are more than a tenth above"
    return f"{start(said)}; of {len(known)} pairs it is furthest above chance, and {rest}."


@mask_overlap_pairs.table
def _table(result: Result, *, mask_threshold: float, **_: Any) -> pd.DataFrame:
    rows, _threshold = _rows(result, mask_threshold)
    return rows.drop(columns=["level", "layer", "layer_index", "kind", "tensor"])
