"""The words and tables around the view inside one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from explorer.drilling import ORDERS, Asked
from explorer.results import Result
from explorer.tiles import SUMS, Pyramid
from viz.panels.words import note, table
from viz.style import percent

PAIRS_SHOWN = 10
_CHOOSE = "Zoom in until one square is one weight, and click it: here you then see what every task wants of it."
CHOOSE = f'<div class="explorer-about">{note(_CHOOSE)}</div>'
LISTING = f'<div class="explorer-about">{note("Looking for the most disputed weights …")}</div>'


def caption(asked: Asked, shape: Sequence[int], pyramid: Pyramid) -> str:
    """What the picture shows, how much of it is in conflict, and why raw weights look like noise."""
    who = f"{asked.pair[0]} and {asked.pair[1]}" if asked.pair else f"all {len(pyramid.view.tasks)} tasks"
    trimmed = f", each task vector trimmed to its largest {asked.trim:.0%} first" if asked.trim < 1 else ""
    size = " × ".join(f"{s:,}" for s in shape) or "a single number"
    said = f"{size}, {who}{trimmed}. "
    if len(shape) < 2:
        said += f"The vector is wrapped into rows of {pyramid.grid.cols:,}, in reading order. "
    elif len(shape) > 2:
        said += "The first axis gives the rows, all others together the columns. "
    sums = dict(zip(SUMS, pyramid.level(*pyramid.base_level).sum((1, 2)), strict=False))
    if sums["both"]:
        said += (
            f"Of {int(sums['both']):,} weights that two or more tasks change, "
            f"{percent(sums['opposite'] / sums['both'])} have opposite signs; if every sign were a fair coin, "
            f"{percent(sums['chance'] / sums['both'])} would. "
        )
    else:
        said += "No weight here is changed by two tasks. "
    if asked.order == "stored":
        return said + "Neighbours in a matrix mean little, so weights as stored look like noise: try another order."
    return (
        said + f"Order: {ORDERS[asked.order]}, the largest minority mass first; sorting gives a gradient even to noise."
    )


def marks(found: Result, pyramid: Pyramid | None = None) -> list[dict[str, Any]]:
    """The most disputed weights as places of the picture, with their own row and column as label."""
    rows = _inverse(pyramid.view.row_order if pyramid else None)
    cols = _inverse(pyramid.view.col_order if pyramid else None)
    return [
        {
            "row": int(row if rows is None else rows[row]),
            "col": int(col if cols is None else cols[col]),
            "label": f"{rank} · row {row:,}, column {col:,}",
        }
        for rank, row, col in zip(found.table["rank"], found.table["row"], found.table["col"], strict=True)
    ]


def _inverse(order: np.ndarray | None) -> np.ndarray | None:
    return None if order is None else np.argsort(order)


def strongest(found: Result) -> str:
    """The most disputed weights as a table."""
    if found.table.empty:
        return note("No weight of this tensor is pulled both ways.")
    shown = pd.DataFrame(
        {
            "": found.table["rank"],
            "row": [f"{r:,}" for r in found.table["row"]],
            "column": [f"{c:,}" for c in found.table["col"]],
            "up": [number(x) for x in found.table["up"]],
            "wanted by": found.table["tasks_up"],
            "down": [number(x) for x in found.table["down"]],
            "wanted by ": found.table["tasks_down"],
        }
    )
    title = f"The {len(shown)} most disputed weights, by the size of the losing side"
    return _titled(title, table(shown, caption=title, numeric=("row", "column", "up", "down")))


def weight(found: Result) -> str:
    """One weight: where it is, the vote, the merged value, and every task's wish."""
    at, rows = found.provenance, found.table
    index = ", ".join(f"{i:,}" for i in at["index"]) or "the only one"
    where = f"{at['tensor']} [{index}] – flat position {at['flat']:,}. The base has {number(at['base'])}."
    elected = {"up": "up", "down": "down", "tie": "none: the votes cancel exactly", "none": "none: nobody votes"}
    vote = f"Elected sign (equal votes, after trimming): {elected[at['elected']]}."
    if at["why_not"]:
        merged = f"It cannot be merged by {at['method']} now. {at['why_not']}"
    elif at["one_model"]:
        merged = f"Merged by {at['method']}, as now set: {number(rows['merged'].iloc[0])}."
    else:
        merged = f"{at['method']} gives every task a model of its own; see the column merged."
    shown = pd.DataFrame(
        {
            "task": rows["task"],
            "change": [number(x) for x in rows["delta"]],
            "its own weight": [number(x) for x in rows["fine_tuned"]],
            "wants": [w if k else "trimmed away" for w, k in zip(rows["wants"], rows["kept"], strict=True)],
            "vote": [v or "–" for v in rows["vote"]],
        }
    )
    if not at["one_model"] and not at["why_not"]:
        shown["merged"] = [number(x) for x in rows["merged"]]
    lines = "".join(f"<p>{escape(line)}</p>" for line in (where, vote, merged))
    numeric = ("change", "its own weight", "merged")
    body = table(shown, caption="What every task wants of this weight", numeric=numeric)
    return _titled("One weight", lines + body)


def profile(found: Result, pair: tuple[str, str] | None) -> str:
    """A tensor's own numbers: per task, and the pairs furthest above their chance level."""
    rows = found.table
    tasks = rows[(rows["what"] == "task") & (rows["task"].isin(pair) if pair else True)]
    shown = pd.DataFrame(
        {
            "task": tasks["task"],
            "norm": [number(x) for x in tasks["norm"]],
            "drift": [_share(x) for x in tasks["relative_norm"]],
            "changed": [_share(x) for x in tasks["changed"]],
        }
    )
    title = "How far each task moved this tensor"
    html = _titled(title, table(shown, caption=title, numeric=("norm", "drift", "changed")))
    pairs = rows[rows["what"] == "pair"].assign(above=rows["conflict"] - rows["null"])
    if pair:
        pairs = pairs[pairs["task"].isin(pair) & pairs["other"].isin(pair)]
    pairs = pairs[pairs["n"] > 0].sort_values("above", ascending=False, kind="stable").head(PAIRS_SHOWN)
    if pairs.empty:
        return html + note("No pair of tasks changes the same weights here.")
    shown = pd.DataFrame(
        {
            "pair": [f"{a} and {b}" for a, b in zip(pairs["task"], pairs["other"], strict=True)],
            "conflict": [_share(x) for x in pairs["conflict"]],
            "chance": [_share(x) for x in pairs["null"]],
            "both change": [f"{int(n):,}" for n in pairs["n"]],
        }
    )
    title = "Opposite signs, the pairs furthest above chance first"
    return html + _titled(title, table(shown, caption=title, numeric=("conflict", "chance", "both change")))


def _titled(title: str, html: str) -> str:
    heading = f'<h4 style="margin: 14px 0 6px; font-size: 14px; font-weight: 600">{escape(title)}</h4>'
    return f'<div class="explorer-about">{heading}{html}</div>'


def number(value: float) -> str:
    """A number for a table: four digits, a true minus sign, a dash where there is none."""
    return f"{value:.4g}".replace("-", "−") if math.isfinite(value) else "–"


def _share(value: float) -> str:
    return percent(value, 2) if math.isfinite(value) else "–"
