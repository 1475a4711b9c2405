"""Layers x kinds of module: where the tasks pull weights in opposite directions more than chance would."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from explorer.results import Result
from viz.charts._api import chart
from viz.charts._figure import blank, colour_bar, downwards, frame, ground, names_axis, symmetric_limit
from viz.charts._mark import Name, Pair, outline_cell
from viz.charts._tables import between, number, of_pair, ordered, pooled, top
from viz.charts._words import against_chance, brief, grid, large, lines, out_of, points, safe, start
from viz.style import DIVERGING, percent

HOW = (
    "One square per layer and kind of module. For all tasks it shows the minority mass: of everything the tasks "
    "change there, summed in size, the part that pulls against the sign with the larger total. For a pair it shows "
    "the sign conflict: of the weights that both change, the part that they change in opposite directions. "
    "The colour is the value minus its chance level, in percentage points: blue is more disagreement than "
    "independent changes of the same sizes would show, orange is less, white is chance. Chance is 50 % for a pair; "
    "for all tasks it depends on their number and sizes and is computed for each square. Empty: nothing to compare."
)


class _Measure(NamedTuple):
    """What is shown: the column of its value, of the number of weights behind it, and words for hovers."""

    value: str
    n: str
    label: str
    counted: str


_MASS = _Measure("minority_mass", "n_positions", "minority mass", "weights changed by two or more tasks")
_CONFLICT = _Measure("conflict", "n_both", "sign conflict", "weights changed by both")


def _read(result: Result, pair: Pair, level: str) -> tuple[pd.DataFrame, _Measure]:
    """One row per scope of that level with its value, null and n; pairs are pooled where none is chosen."""
    measure = _MASS if result.kind == "minority_mass" else _CONFLICT
    rows = result.at(level)
    if measure is _MASS:
        # Where no weight is changed twice, mass and null are both 0: nothing to compare, not agreement.
        return rows.assign(minority_mass=rows["minority_mass"].where(rows["n_positions"] > 0)), measure
    if pair is not None:
        return of_pair(rows, pair), measure
    scope = ["layer", "layer_index", "kind"]
    pools = [
        {**dict(zip(scope, key, strict=True)), "conflict": pooled(part, "conflict", "n_both"),
         "null": pooled(part, "null", "n_both"), "n_both": part["n_both"].sum()}
        for key, part in between(rows, result.tasks).groupby(scope, sort=False)
    ]  # fmt: skip
    return pd.DataFrame(pools, columns=[*scope, "conflict", "null", "n_both"]), measure


def _whom(result: Result, pair: Pair) -> str:
    if pair is not None and result.kind == "sign_conflict":
        return f"{pair[0]} and {pair[1]}"
    return "all tasks" if result.kind == "minority_mass" else "all pairs of tasks"


def _hover(row: pd.Series, measure: _Measure, whom: str) -> str:
    where = f"{safe(row['layer'])} · {safe(row['kind'])}"
    if not math.isfinite(row[measure.value]):
        return lines(where, safe(whom), "nothing to compare: nothing was changed by two tasks here")
    counted = out_of(row[measure.n], row["n"], measure.counted) if "n" in row else ""
    return lines(
        where,
        safe(whom),
        f"{measure.label} {percent(row[measure.value], 2)}",
        f"chance {percent(row['null'], 2)} ({points(row[measure.value] - row['null'], 2)})",
        counted or f"n = {int(row[measure.n]):,} {measure.counted}",
    )


@chart(title="Where tasks disagree", how=HOW, result=("minority_mass", "sign_conflict"))
def sign_conflict_map(result: Result, *, pair: Pair = None, layer: Name = None, kind: Name = None) -> go.Figure:
    """Disagreement in sign above its chance level, for each layer and kind of module.

    Draws `minority_mass` (all tasks) or `sign_conflict` (the chosen pair, or all pairs pooled exactly).
    """
    if len(result.tasks) < 2:
        return blank("Signs can disagree only between two or more tasks. Add another fine-tune.")
    rows, measure = _read(result, pair, "cell")
    if rows.empty:
        return blank("There is nothing to show yet: no weights were compared.")
    whom = _whom(result, pair)
    layers, kinds = ordered(rows, "layer"), ordered(rows, "kind")
    excess = np.full((len(kinds), len(layers)), np.nan)
    empty = lines("no such weights", "this layer has no module of this kind")
    hover, picks = grid(*excess.shape, empty), grid(*excess.shape, None)
    for _, row in rows.iterrows():
        at = kinds.index(row["kind"]), layers.index(row["layer"])
        excess[at] = 100 * (row[measure.value] - row["null"])
        hover[at], picks[at] = _hover(row, measure, whom), {"layer": row["layer"], "kind": row["kind"]}
    limit = symmetric_limit(excess, 1.0)
    figure = frame(
        150 + 30 * len(kinds), x="layer", y="kind of module", meta={"x": layers, "y": kinds},
        xaxis=names_axis(layers, 12), yaxis=downwards(names_axis(brief(kinds), 16, every=1)),
    )  # fmt: skip
    title = "percentage points from chance<br>← below · above chance →"
    ground(figure).add_heatmap(
        z=excess, zmin=-limit, zmid=0, zmax=limit, colorscale=DIVERGING, xgap=2, ygap=2, hovertext=hover,
        hoverinfo="text", customdata=picks, colorbar=colour_bar(title),
    )  # fmt: skip
    outline_cell(figure, layers, kinds, layer, kind)
    return figure


@sign_conflict_map.caption
def _caption(result: Result, *, pair: Pair, **_: Any) -> str:
    rows, measure = _read(result, pair, "model")
    if len(result.tasks) < 2 or rows.empty or not math.isfinite(number(rows.iloc[0], measure.value)):
        return "There is no weight that two of the tasks change, so there are no signs to compare."
    share, null = number(rows.iloc[0], measure.value), number(rows.iloc[0], "null")
    value, chance = percent(share), against_chance(share, null)
    size = large(result.provenance)
    if measure is _MASS:
        whose = f"the {size}changes of {len(result.tasks)} tasks"
        said = f"of {whose}, {value} by size pulls against the stronger sign: {chance}"
    else:
        said = f"{_whom(result, pair)} pull {value} of their shared {size}weights in opposite directions: {chance}"
    return start(said) + _extreme(_read(result, pair, "cell")[0], measure) + "."


def _extreme(cells: pd.DataFrame, measure: _Measure) -> str:
    """The square furthest above its chance level, or a clause saying that none is above it."""
    above = (cells[measure.value] - cells["null"]).astype(float)
    if above.notna().sum() < 2:
        return ""
    if above.max() < 0.0005:  # as it would be printed
        return "; no square is above its chance level"
    row = top(cells, above)
    return f"; furthest above its own chance level is {row['layer']} · {row['kind']} ({points(above.max())})"


@sign_conflict_map.table
def _table(result: Result, *, pair: Pair, **_: Any) -> pd.DataFrame:
    rows, measure = _read(result, pair, "cell")
    shown = ["layer", "kind", measure.value, "null", measure.n, *(["n"] if "n" in rows else [])]
    return rows[shown].assign(above_null=rows[measure.value] - rows["null"])
