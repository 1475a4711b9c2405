"""Task x task: how much the weights that two tasks need overlap, and how that compares with chance."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Range
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import QUIET, blank, colour_bar, frame, symmetric_limit
from viz.charts._pairs import diagonal, pair_grid, square, square_height
from viz.charts._tables import at_threshold, between, model_rows, number, top
from viz.charts._words import ABOUT, against_chance, counted, grid, lines, safe, start
from viz.style import DIVERGING, SEQUENTIAL, percent

HOW = (
    "A task's mask marks the weights it needs: those where the task's own change is larger than the mask threshold "
    "times what the other tasks add or take away there. Below the diagonal: intersection over union of two masks, in "
    "percent. Above the diagonal: the lift, that is this overlap / the overlap that chance gives, as a power of two "
    "(0 is chance, 1 twice as much, -1 half as much). Chance: each task's changes shuffled among the weights. "
    "Diagonal, grey: the percentage of weights in the task's own mask. Masks overlap a lot by chance alone, because "
    "all are cut from the same sum, so read the lift first."
)

MaskThreshold = Annotated[float, Range(0.05, 2, step=0.05), "mask threshold λ; smaller keeps more weights per task"]


def _rows(result: Result, mask_threshold: float) -> tuple[pd.DataFrame, float]:
    rows, threshold = at_threshold(result, mask_threshold)
    return between(model_rows(rows), result.tasks), threshold


def _log_lift(row: pd.Series) -> float:
    """log2 of the lift; -10 stands for masks that never meet, so that they are drawn and not left out."""
    lift = number(row, "lift")
    return max(math.log2(lift), -10.0) if lift > 0 else (-10.0 if lift == 0 else math.nan)


def _lift_text(row: pd.Series) -> str:
    """The lift for its square, without a leading zero: `+.29`."""
    return "" if math.isnan(_log_lift(row)) else f"{_log_lift(row):+.2f}".replace("0.", ".", 1).replace("-", "−")


def _densities(rows: pd.DataFrame, tasks: tuple[str, ...]) -> list[float]:
    """Share of weights in each task's mask, from whichever row names the task first; NaN where none does."""
    known: dict[str, float] = {}
    for _, row in rows.iterrows():
        known.setdefault(row["task_a"], number(row, "density_a"))
        known.setdefault(row["task_b"], number(row, "density_b"))
    return [known.get(task, math.nan) for task in tasks]


def _hover(row: pd.Series) -> str:
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
def mask_overlap_pairs(result: Result, *, mask_threshold: MaskThreshold = 0.4) -> go.Figure:
    """Intersection over union (below), lift over chance (above) and density (diagonal) of the task masks.

    Shows the computed threshold nearest to `mask_threshold`.
    """
    tasks = result.tasks
    if len(tasks) < 2:
        return blank("An overlap needs the masks of two tasks. Add another fine-tune.")
    rows, threshold = _rows(result, mask_threshold)
    if rows.empty:
        return blank("There is nothing to show yet: no masks were compared.")
    densities = _densities(rows, tasks)
    iou = pair_grid(rows, tasks, lambda row: 100 * row["iou"], np.nan, float, "lower")
    lift = pair_grid(rows, tasks, _log_lift, np.nan, float, "upper")
    low, high = _spread(iou)
    limit = symmetric_limit(lift, 0.2)
    figure = frame(
        square_height(len(tasks)) + 10, x=f"task (mask threshold {threshold:.2f})", y="task", **square(tasks)
    )
    common = {"xgap": 1, "ygap": 1, "hoverinfo": "text", "hoverongaps": False}
    label = (lambda text: {"text": text, "texttemplate": "%{text}"}) if len(tasks) <= 10 else (lambda text: {})
    figure.add_heatmap(
        z=iou, zmin=low, zmax=high, colorscale=SEQUENTIAL, name="IoU", **common,
        hovertext=pair_grid(rows, tasks, _hover, "", object, "lower"),
        colorbar=colour_bar("lower half:<br>IoU (%)", right=0.46, nticks=4),
        **label(pair_grid(rows, tasks, lambda row: f"{100 * row['iou']:.0f}", "", object, "lower")),
    )  # fmt: skip
    figure.add_heatmap(
        z=lift, zmin=-limit, zmid=0, zmax=limit, colorscale=DIVERGING, name="lift", **common,
        hovertext=pair_grid(rows, tasks, _hover, "", object, "upper"),
        colorbar=colour_bar("upper half:<br>log2 lift", left=0.54, nticks=4),
        **label(pair_grid(rows, tasks, _lift_text, "", object, "upper")),
    )  # fmt: skip
    return figure.add_heatmap(
        z=diagonal(densities, float, np.nan), colorscale=[[0, QUIET], [1, QUIET]], showscale=False,
        name="density", hovertext=_own(tasks, densities, threshold), **common,
        **label(diagonal([percent(d, 0).removesuffix(" %") for d in densities], object, "")),
    )  # fmt: skip


@mask_overlap_pairs.caption
def _caption(result: Result, *, mask_threshold: float) -> str:
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
def _table(result: Result, *, mask_threshold: float) -> pd.DataFrame:
    rows, _ = _rows(result, mask_threshold)
    return rows.drop(columns=["level", "layer", "layer_index", "kind", "tensor"])
