"""Layers: how many tasks need each weight, from none (catastrophic) to all (universal)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from explorer.params import Range
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, downwards, frame, names_axis
from viz.charts._tables import at_threshold, ordered
from viz.charts._words import counted, lines, safe
from viz.style import NEUTRAL, SEQUENTIAL, percent

HOW = (
    "Each bar splits the weights of one layer by how many tasks need them, that is, have them in their mask at this "
    "mask threshold. None: catastrophic, the weight serves no task and yet is changed by the merge. One: selfish. "
    "Two or more: shared. All: universal. The thin outlined bar below each is what chance gives: the same changes, "
    "shuffled so that the tasks are independent. Only the difference between the two bars says something about these "
    "models. Consensus merging keeps the weights that at least k tasks need."
)

MaskThreshold = Annotated[float, Range(0.05, 2, step=0.05), "mask threshold λ; smaller keeps more weights per task"]
WHOLE = "whole model"


def _word(k: int, tasks: int) -> str:
    """The field's word for weights that k of the tasks need."""
    if k == 0:
        return "catastrophic"
    if k == tasks:
        return "universal" if tasks > 1 else "needed"
    return "selfish" if k == 1 else "shared"


def _legend(k: int, tasks: int) -> str:
    """Short names, so that three stand beside one another on a telephone."""
    return f"{k} tasks" if 1 < k < tasks else _word(k, tasks)


def _rows(result: Result, mask_threshold: float) -> tuple[pd.DataFrame, float]:
    """Rows of the whole model and of the layers at the nearest threshold, with a `place` to show them at."""
    rows, threshold = at_threshold(result, mask_threshold)
    rows = rows[rows["level"].isin(["model", "layer"])]
    place = rows["layer"].astype(str).where(rows["level"] == "layer", WHOLE)
    return rows.assign(place=place).reset_index(drop=True), threshold


def _places(rows: pd.DataFrame) -> list[str]:
    whole = [WHOLE] if (rows["level"] == "model").any() else []
    return whole + ordered(rows[rows["level"] == "layer"], "layer")


def _colours(tasks: int) -> list[str]:
    """One colour per k: grey for no task, then from dark blue to yellow."""
    # Cividis starts so dark that it would vanish on the dark page, hence not from its very end.
    stops = np.linspace(0.15, 1.0, max(tasks, 1))
    return [NEUTRAL, *sample_colorscale(SEQUENTIAL, list(stops))][: tasks + 1]


def _listed(tasks: int) -> set[int]:
    """The k that the legend names: all of few, else both ends and some between."""
    return set(range(tasks + 1)) if tasks <= 8 else {0, 1, 2, tasks // 4, tasks // 2, 3 * tasks // 4, tasks}


def _shares(rows: pd.DataFrame, places: list[str], k: int, column: str) -> np.ndarray:
    by_place = rows[rows["k"] == k].drop_duplicates("place").set_index("place")[column]
    return 100 * by_place.reindex(places).to_numpy(dtype=float)


@chart(title="How many tasks need each weight", how=HOW, result="mask_agreement")
def mask_agreement_layers(result: Result, *, mask_threshold: MaskThreshold = 0.4) -> go.Figure:
    """Share of weights that 0, 1, … all tasks need, per layer and for the whole model, beside chance.

    Shows the computed threshold nearest to `mask_threshold`.
    """
    rows, threshold = _rows(result, mask_threshold)
    if not result.tasks or rows.empty:
        return blank("There is nothing to show yet: no masks were counted.")
    tasks, places = len(result.tasks), _places(rows)
    at = np.arange(len(places), dtype=float)
    figure = frame(
        150 + 20 * -(-len(_listed(tasks)) // 3) + 44 * len(places),
        x=f"weights (%), threshold {threshold:.2f}", y="layer", barmode="stack",
        xaxis={"range": [0, 100], "ticksuffix": "", "automargin": True}, meta={"y": places},
        yaxis=downwards(names_axis(places, 14, every=1)),
    )  # fmt: skip
    figure.update_layout(legend={"traceorder": "normal", "itemclick": False, "itemdoubleclick": False})
    for k, colour in enumerate(_colours(tasks)):
        share, null = (_shares(rows, places, k, column) for column in ("share", "null"))
        hover = [_hover(p, k, tasks, s, c) for p, s, c in zip(places, share, null, strict=True)]
        named = {"name": _legend(k, tasks), "orientation": "h", "hoverinfo": "text"}
        outline = {"color": NEUTRAL, "width": 0.5}
        # Hatched, because the greys of cividis' middle are too near to a plain grey.
        pattern = {"shape": "/", "size": 5, "fgcolor": NEUTRAL, "bgcolor": "rgba(0,0,0,0)"} if k == 0 else {}
        figure.add_bar(
            y=at - 0.1, x=share, width=0.5, hovertext=hover, showlegend=k in _listed(tasks),
            marker={"color": colour, "line": outline, "pattern": pattern}, **named,
        )  # fmt: skip
        figure.add_bar(
            y=at + 0.27, x=null, width=0.14, hovertext=hover, showlegend=False, opacity=0.75,
            marker={"color": colour, "line": {**outline, "width": 1}, "pattern": pattern}, **named,
        )  # fmt: skip
    return figure


def _hover(place: str, k: int, tasks: int, share: float, null: float) -> str:
    needed = "needed by no task" if k == 0 else f"needed by {k} of {tasks} task{'s' if tasks > 1 else ''}"
    shown = f"{percent(share / 100, 2)} of the weights, chance {percent(null / 100, 2)}"
    return lines(safe(place), f"{needed} ({_word(k, tasks)})", shown)


@mask_agreement_layers.caption
def _caption(result: Result, *, mask_threshold: float) -> str:
    rows, threshold = _rows(result, mask_threshold)
    model, tasks = rows[rows["level"] == "model"], len(result.tasks)
    if not tasks or model.empty:
        return "There are no masks to count."
    what = counted(result.provenance)

    def told(k: int) -> str:
        row = model[model["k"] == k]
        return f"{percent(row['share'].iloc[0])} (chance {percent(row['null'].iloc[0])})" if len(row) else "–"

    if tasks == 1:
        return f"At mask threshold {threshold:.2f}, {result.tasks[0]}, the only task, needs {told(1)} of the {what}."
    return (
        f"At mask threshold {threshold:.2f}, {told(0)} of the {what} are needed by no task, {told(1)} by exactly one "
        f"and {told(tasks)} by all {tasks}."
    )


@mask_agreement_layers.table
def _table(result: Result, *, mask_threshold: float) -> pd.DataFrame:
    rows, _ = _rows(result, mask_threshold)
    words = [_word(int(k), len(result.tasks)) for k in rows["k"]]
    return rows.assign(word=words)[["level", "layer", "threshold", "k", "word", "share", "null"]]
