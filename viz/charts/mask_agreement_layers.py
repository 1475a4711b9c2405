"""Layers: how many tasks need each weight, from none (catastrophic) to all (universal)."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from explorer.params import Choice, Range
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, downwards, frame, names_axis
from viz.charts._mark import Name, outline, pick_of
from viz.charts._tables import at_threshold, ordered
from viz.charts._words import counted, lines, safe
from viz.style import NEUTRAL, SEQUENTIAL, percent

HOW = (
    "Each bar splits the weights of one layer by how many tasks need them, that is, have them in their mask at this "
    "mask threshold. None: catastrophic, the weight serves no task and yet is changed by the merge. One: selfish. "
    "Two or more: shared. All: universal. The thin outlined bar below each is what chance gives: the same changes, "
    "shuffled so that the tasks are independent. Only the difference between the two bars says something about these "
    "models. Consensus merging keeps the weights that at least k tasks need; those of fewer stay as in the base and "
    "are drawn grey. Drag the handle on the scale above, or use the arrow keys, to choose k: the line shows where it "
    "cuts each bar."
)

MaskThreshold = Annotated[float, Range(0.05, 2, step=0.05), "mask threshold λ; smaller keeps more weights per task"]
By = Annotated[
    str, Choice("layer", "kind", "model", labels=("by layer", "by kind of module", "whole model")), "what has a bar"
]
MinTasks = Annotated[int, Range(0, 30, step=1), "k of consensus merging: weights of fewer tasks are drawn grey"]
WHOLE = "whole model"
_AXIS = {"layer": "layer", "kind": "kind of module", "model": "model"}
_SCALE_PIXELS = 60
_REMOVED = "rgba(123, 132, 148, 0.28)"


def _word(k: int, tasks: int) -> str:
    """The field's word for weights that k of the tasks need."""
    if k == 0:
        return "catastrophic"
    if k == tasks:
        return "universal" if tasks > 1 else "needed"
    return "selfish" if k == 1 else "shared"


def _rows(result: Result, mask_threshold: float, by: str) -> tuple[pd.DataFrame, float]:
    """Rows of the whole model and of layers or kinds at the nearest threshold, with a `place` to show them at."""
    rows, threshold = at_threshold(result, mask_threshold)
    rows = rows[rows["level"].isin(["model", by])]
    place = rows[by].astype(str).where(rows["level"] == by, WHOLE) if by != "model" else WHOLE
    return rows.assign(place=place).reset_index(drop=True), threshold


def _places(rows: pd.DataFrame, by: str) -> list[str]:
    whole = [WHOLE] if (rows["level"] == "model").any() else []
    return whole + (ordered(rows[rows["level"] == by], by) if by != "model" else [])


def _colours(tasks: int) -> list[str]:
    """One colour per k: grey for no task, then from dark blue to yellow."""
    # Cividis starts so dark that it would vanish on the dark page, hence not from its very end.
    stops = np.linspace(0.15, 1.0, max(tasks, 1))
    return [NEUTRAL, *sample_colorscale(SEQUENTIAL, list(stops))][: tasks + 1]


def _shares(rows: pd.DataFrame, places: list[str], tasks: int, column: str) -> np.ndarray:
    """Percentages [tasks + 1, places] of the weights that k = 0 … tasks need."""
    wide = rows.drop_duplicates(["k", "place"]).pivot(index="k", columns="place", values=column)
    return 100 * wide.reindex(index=range(tasks + 1), columns=places).to_numpy(dtype=float)


@chart(title="How many tasks need each weight", how=HOW, result="mask_agreement")
def mask_agreement_layers(
    result: Result,
    *,
    mask_threshold: MaskThreshold = 0.4,
    min_tasks: MinTasks = 2,
    by: By = "layer",
    layer: Name = None,
    kind: Name = None,
) -> go.Figure:
    """Share of weights that 0, 1, … all tasks need, per layer or kind of module and for the whole model.

    Shows the computed threshold nearest to `mask_threshold`, beside chance. The handle in the figure sets `min_tasks`
    (the panel's event `drag`).
    """
    rows, threshold = _rows(result, mask_threshold, by)
    if not result.tasks or rows.empty:
        return blank("There is nothing to show yet: no masks were counted.")
    tasks, places = len(result.tasks), _places(rows, by)
    k = min(min_tasks, tasks + 1) if tasks > 1 else 0
    height = 40 * len(places) if len(places) <= 16 else 26 * len(places)
    top = height / (height + _SCALE_PIXELS)
    figure = frame(
        height + _SCALE_PIXELS + 84, x=f"weights (%), threshold {threshold:.2f}", y=_AXIS[by], barmode="stack",
        xaxis={"range": [0, 100], "ticksuffix": "", "automargin": True}, showlegend=False, bargap=0,
        yaxis={**downwards(names_axis(places, 14, every=1)), "domain": [0, top]},
        meta={"y": places, **({"handle": _handle(k, tasks)} if tasks > 1 else {})},
    )  # fmt: skip
    removed = np.zeros(len(places))
    shares, nulls = (_shares(rows, places, tasks, column) for column in ("share", "null"))
    for needed, colour in enumerate(_colours(tasks)):
        share, null, kept = shares[needed], nulls[needed], needed >= k
        hover = [_hover(p, needed, tasks, s, c, k) for p, s, c in zip(places, share, null, strict=True)]
        _bars(figure, share, null, hover, colour if kept else _REMOVED, needed, picks=_picks(rows, places, by))
        removed += 0 if kept else np.nan_to_num(share)
    _cut(figure, removed)
    _scale(figure, tasks, k, top)
    chosen = {"layer": layer, "kind": kind}.get(by)
    if chosen in places:
        outline(figure, (0, 1), (places.index(chosen) - 0.45, places.index(chosen) + 0.45), xref="paper")
    return figure


def _bars(
    figure: go.Figure, share: np.ndarray, null: np.ndarray, hover: list[str], colour: str, k: int, picks: np.ndarray
) -> None:
    """One slice of every bar, and thin below it what chance gives."""
    at = np.arange(len(share), dtype=float)
    common = {"orientation": "h", "hoverinfo": "text", "hovertext": hover, "name": f"k = {k}", "customdata": picks}
    outline = {"color": NEUTRAL, "width": 0.5}
    # Hatched, because the greys of cividis' middle are too near to a plain grey.
    pattern = {"shape": "/", "size": 5, "fgcolor": NEUTRAL, "bgcolor": "rgba(0,0,0,0)"} if k == 0 else {}
    figure.add_bar(
        y=at - 0.1, x=share, width=0.5, marker={"color": colour, "line": outline, "pattern": pattern}, **common
    )
    figure.add_bar(
        y=at + 0.27, x=null, width=0.14, opacity=0.75,
        marker={"color": colour, "line": {**outline, "width": 1}, "pattern": pattern}, **common,
    )  # fmt: skip


def _cut(figure: go.Figure, removed: np.ndarray) -> None:
    """Where k cuts each bar: a short line across each, dark on a light halo."""
    x = np.repeat(removed, 3)
    y = np.repeat(np.arange(len(removed), dtype=float), 3) + np.tile([-0.42, 0.4, np.nan], len(removed))
    for colour, width in (("#ffffff", 4), ("#111827", 2)):
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"color": colour, "width": width}, hoverinfo="skip", name="consensus k",
        )  # fmt: skip


def _scale(figure: go.Figure, tasks: int, k: int, top: float) -> None:
    """The legend as a scale of k from 0 to all tasks, with the handle's line where k cuts it."""
    figure.add_bar(
        x=np.arange(tasks + 1), y=np.ones(tasks + 1), width=1, xaxis="x2", yaxis="y2", hoverinfo="text", name="scale",
        marker={"color": [c if n >= k else _REMOVED for n, c in enumerate(_colours(tasks))],
                "line": {"color": NEUTRAL, "width": 0.5},
                "pattern": {"shape": ["/"] + [""] * tasks, "size": 5, "fgcolor": NEUTRAL}},
        hovertext=[lines(f"needed by {n} of {tasks}: {_word(n, tasks)}") for n in range(tasks + 1)],
    )  # fmt: skip
    step = 1 if tasks <= 10 else 2
    words = "needed by k tasks" + ("<br>0 catastrophic · 1 selfish" if tasks > 1 else "")
    bottom = 1 - (1 - top) * 0.42
    figure.update_layout(
        xaxis2={"anchor": "y2", "side": "top", "range": [-0.5, tasks + 1], "showgrid": False, "zeroline": False,
                "tickvals": np.arange(0, tasks + 1, step), "ticks": "", "fixedrange": True,
                "title": {"text": words, "standoff": 4, "font": {"size": 12}}},
        yaxis2={"domain": [bottom, 1], "range": [0, 1], "visible": False, "fixedrange": True},
    )  # fmt: skip
    if tasks == 1:
        return
    for colour, width in (("#ffffff", 6), ("#111827", 3)):
        ends = {"x0": k - 0.5, "x1": k - 0.5, "y0": bottom - 0.1 * (1 - top), "y1": 1, "xref": "x2", "yref": "paper"}
        figure.add_shape(type="line", line={"color": colour, "width": width}, **ends)
    figure.add_annotation(
        x=k - 0.5, y=bottom - 0.1 * (1 - top), xref="x2", yref="paper", text=f"consensus k = {k}", showarrow=False,
        yanchor="top", xanchor="left" if k < tasks / 2 else "right", font={"size": 12},
    )  # fmt: skip


def _handle(k: int, tasks: int) -> dict[str, Any]:
    """What the panel needs to put a slider on the scale of k (see `PlotlyPanel`)."""
    return {
        "argument": "min_tasks", "label": "consensus k: keep weights that at least this many tasks need",
        "low": 0, "high": tasks + 1, "step": 1, "value": k, "axes": ["xaxis2", "yaxis2"], "ends": [-0.5, tasks + 0.5],
    }  # fmt: skip


def _picks(rows: pd.DataFrame, places: list[str], by: str) -> np.ndarray:
    whole = WHOLE if (rows["level"] == "model").any() else None
    return np.array([None if place == whole else pick_of(by, place) for place in places], dtype=object)


def _hover(place: str, needed: int, tasks: int, share: float, null: float, k: int) -> str:
    told = "needed by no task" if needed == 0 else f"needed by {needed} of {tasks} task{'s' if tasks > 1 else ''}"
    shown = f"{percent(share / 100, 2)} of the weights, chance {percent(null / 100, 2)}"
    fate = f"consensus merging with k = {k} {'keeps' if needed >= k else 'leaves'} them"
    return lines(
        safe(place), f"{told} ({_word(needed, tasks)})", shown, fate + ("" if needed >= k else " as in the base")
    )


@mask_agreement_layers.caption
def _caption(result: Result, *, mask_threshold: float, min_tasks: int, **_: Any) -> str:
    rows, threshold = at_threshold(result, mask_threshold)
    model, tasks = rows[rows["level"] == "model"], len(result.tasks)
    if not tasks or model.empty:
        return "There are no masks to count."
    what = counted(result.provenance)

    def told(chosen: pd.Series) -> str:
        share, null = (float(model.loc[chosen, column].sum()) for column in ("share", "null"))
        return f"{percent(share)} (chance {percent(null)})"

    if tasks == 1:
        needed = told(model["k"] == 1)
        return f"At mask threshold {threshold:.2f}, {result.tasks[0]}, the only task, needs {needed} of the {what}."
    return (
        f"At mask threshold {threshold:.2f}, {told(model['k'] == 0)} of the {what} are needed by no task, "
        f"{told(model['k'] == 1)} by exactly one and {told(model['k'] == tasks)} by all {tasks}; consensus merging "
        f"with k = {min_tasks} leaves {told(model['k'] < min_tasks)} as in the base."
    )


@mask_agreement_layers.table
def _table(result: Result, *, mask_threshold: float, by: str, min_tasks: int, **_: Any) -> pd.DataFrame:
    rows, _threshold = _rows(result, mask_threshold, by)
    words = [_word(int(k), len(result.tasks)) for k in rows["k"]]
    shown = ["level", "layer", "kind", "threshold", "k", "word", "kept", "share", "null"]
    return rows.assign(word=words, kept=rows["k"] >= min_tasks)[shown]
