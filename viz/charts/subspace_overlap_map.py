"""Layers x kinds of module: where two tasks use the same strongest inputs and outputs more than chance would."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.params import Choice
from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, colour_bar, downwards, frame, ground, names_axis, symmetric_limit
from viz.charts._mark import Name, outline_cell
from viz.charts._tables import between, number, of_pair, ordered, pooled, top
from viz.charts._words import against_chance, brief, grid, lines, points, safe, start
from viz.style import DIVERGING, percent

HOW = (
    "One square per layer and kind of module. Each task changes a weight matrix most along a few directions: those of "
    "its inputs that it reads and those of its outputs that it writes. The subspace overlap is the part of one task's "
    "strongest directions that lies in the other's (the mean squared cosine of the angles between the two spaces). The "
    "colour is the overlap minus its chance level, in percentage points: two random spaces of k of m directions share "
    "k / m. Blue: the tasks use the same directions more than that, and can disturb or help each other there; white: "
    "no more than chance; orange: they avoid each other. Empty: no matrix that two tasks changed."
)

Pair = tuple[str, str] | None
Side = Annotated[
    str,
    Choice("overlap", "left", "right", labels=("both ends", "outputs: what tasks write", "inputs: what tasks read")),
    "which end of the matrices is compared",
]
_ENDS = {
    "overlap": "strongest directions",
    "left": "strongest output directions",
    "right": "strongest input directions",
}
_NULLS = {"overlap": "null", "left": "null_left", "right": "null_right"}
_SCOPE = ["layer", "layer_index", "kind"]


def _read(result: Result, pair: Pair, side: str, level: str) -> pd.DataFrame:
    """One row per scope of that level: overlap, null, null_sd (of one pair), kept directions and matrices."""
    rows = between(result.at(level), result.tasks)
    rows = rows.assign(overlap=rows[side], null=rows[_NULLS[side]], kept=rows["rank"] * rows["n_matrices"])
    if pair is not None:
        return of_pair(rows, pair)
    pools = [
        {**dict(zip(_SCOPE, key, strict=True)), "overlap": pooled(part, "overlap", "kept"),
         "null": pooled(part, "null", "kept"), "null_sd": math.nan, "kept": part["kept"].sum(),
         "n_matrices": part["n_matrices"].max()}
        for key, part in rows.groupby(_SCOPE, sort=False)
    ]  # fmt: skip
    return pd.DataFrame(pools, columns=[*_SCOPE, "overlap", "null", "null_sd", "kept", "n_matrices"])


def _whom(pair: Pair) -> str:
    return "all pairs of tasks" if pair is None else f"{pair[0]} and {pair[1]}"


def _hover(row: pd.Series, pair: Pair, side: str) -> str:
    where = f"{safe(row['layer'])} · {safe(row['kind'])}"
    if not math.isfinite(row["overlap"]):
        return lines(where, safe(_whom(pair)), "nothing to compare: no two tasks changed a matrix here")
    # Only where both ends are taken together is the spread of chance known.
    spread = f" ± {percent(2 * row['null_sd'], 2)}" if side == "overlap" and math.isfinite(row["null_sd"]) else ""
    return lines(
        where,
        safe(_whom(pair)),
        f"{percent(row['overlap'], 2)} of the {_ENDS[side]} shared",
        f"chance {percent(row['null'], 2)}{spread} ({points(row['overlap'] - row['null'], 2)})",
        f"{row['kept']:,.0f} directions compared, {int(row['n_matrices'])} matri{_plural(row['n_matrices'])}",
    )


def _plural(many: float) -> str:
    return "x" if many == 1 else "ces"


@chart(title="Where tasks use the same directions", how=HOW, result="subspace_overlap")
def subspace_overlap_map(
    result: Result, *, side: Side = "overlap", pair: Pair = None, layer: Name = None, kind: Name = None
) -> go.Figure:
    """Overlap of the strongest singular spaces above its chance level, for each layer and kind of module.

    For the chosen pair, or for all pairs pooled exactly.
    """
    if len(result.tasks) < 2:
        return blank("Directions can be shared only by two or more tasks. Add another fine-tune.")
    rows = _read(result, pair, side, "cell")
    rows = rows[rows["n_matrices"] > 0]
    if rows.empty:
        return blank("There is nothing to show yet: no two tasks changed the same weight matrix.")
    layers, kinds = ordered(rows, "layer"), ordered(rows, "kind")
    excess = np.full((len(kinds), len(layers)), np.nan)
    hover = grid(*excess.shape, lines("no such matrix", "no two tasks changed a matrix of this kind here"))
    picks = grid(*excess.shape, None)
    for _, row in rows.iterrows():
        at = kinds.index(row["kind"]), layers.index(row["layer"])
        excess[at] = 100 * (row["overlap"] - row["null"])
        hover[at] = _hover(row, pair, side)
        picks[at] = {"layer": row["layer"], "kind": row["kind"]}
    limit = symmetric_limit(excess, 1.0)
    figure = frame(
        max(220, 150 + 30 * len(kinds)), x="layer", y="kind of module", meta={"x": layers, "y": kinds},
        xaxis=names_axis(layers, 12), yaxis=downwards(names_axis(brief(kinds), 16, every=1)),
    )  # fmt: skip
    outline_cell(figure, layers, kinds, layer, kind)
    title = "overlap, percentage points from chance<br>← below · above chance →"
    return ground(figure).add_heatmap(
        z=excess, zmin=-limit, zmid=0, zmax=limit, colorscale=DIVERGING, xgap=2, ygap=2, hovertext=hover,
        hoverinfo="text", customdata=picks, colorbar=colour_bar(title),
    )  # fmt: skip


@subspace_overlap_map.caption
def _caption(result: Result, *, side: str, pair: Pair, layer: Name, kind: Name) -> str:
    rows = _read(result, pair, side, "model") if len(result.tasks) > 1 else pd.DataFrame()
    if rows.empty or not math.isfinite(number(rows.iloc[0], "overlap")):
        return "No two of the tasks changed the same weight matrix, so there are no directions to compare."
    share, null = number(rows.iloc[0], "overlap"), number(rows.iloc[0], "null")
    said = f"{_whom(pair)} share {percent(share)} of their {_ENDS[side]}, {against_chance(share, null)}"
    cells = _read(result, pair, side, "cell")
    above = (cells["overlap"] - cells["null"]).astype(float)
    if above.notna().sum() > 1:
        row = top(cells, above)
        said += (
            f"; furthest above its own chance level is {row['layer']} · {row['kind']} ({points(above.max())})"
            if (above.max() > 0)
            else "; no square is above its chance level"
        )
    return start(said) + "."


@subspace_overlap_map.table
def _table(result: Result, *, side: str, pair: Pair, layer: Name, kind: Name) -> pd.DataFrame:
    rows = _read(result, pair, side, "cell")
    rows = rows[rows["n_matrices"] > 0]
    shown = rows[["layer", "kind", "overlap", "null", "kept", "n_matrices"]]
    return shown.assign(above_null=rows["overlap"] - rows["null"])
