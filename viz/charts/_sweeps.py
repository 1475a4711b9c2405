"""What the figures of sweeps share: which number they show, the best point said honestly, hovers, and the cursor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd

from explorer.params import Choice
from explorer.results import Result
from viz.charts._mark import Name
from viz.charts._words import cut, lines, safe
from viz.style import percent

Measure = Annotated[
    str,
    Choice("mean", "normalized", "worst", labels=("mean score", "mean, % of experts", "worst task, % of its expert")),
    "what is compared",
]
Place = Any
"""Where the present setting stands on the axes, one number each; None, or anything else, where that is not known."""

HONEST = (
    "Every point is scored on the same held-out examples. The star marks the best of the points: a choice of the best "
    "flatters, so its interval, which does not know of the choice, is too hopeful; expect less on other examples. "
)


@dataclass(frozen=True)
class Shown:
    """The scored points with the number that is shown of each: fractions [n], NaN ends where there is no interval."""

    rows: pd.DataFrame
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: str
    relative: bool
    chance: float

    @property
    def unit(self) -> str:
        """The number with its unit, for an axis or a colour bar."""
        return self.label if self.relative else f"{self.label} (%)"


def shown(result: Result, measure: str, task: Name) -> Shown:
    """The measure of every scored point, or one task's score where a task is named."""
    rows, known = result.table.reset_index(drop=True), result.provenance
    nothing = np.full(len(rows), np.nan)
    chance = {t: float(c) for t, c in known.get("chance", {}).items() if t in result.tasks}
    if task is not None:
        value, low, high = (rows[f"{end}:{task}"].to_numpy(dtype=float) for end in ("score", "low", "high"))
        return Shown(rows, value, low, high, f"score of {cut(task, 24)}", False, chance.get(task, math.nan))
    values = rows[measure].to_numpy(dtype=float)
    if measure == "mean":
        low, high = (rows[end].to_numpy(dtype=float) for end in ("low", "high"))
        level = float(np.mean(list(chance.values()))) if chance else math.nan
        return Shown(rows, values, low, high, "mean score", False, level)
    experts = known.get("experts", {})
    shares = [c / experts[t] for t, c in chance.items() if experts.get(t)]
    if measure == "worst":
        label, level = "worst task (% of its expert)", min(shares, default=math.nan)
    else:
        label, level = "mean (% of the experts)", float(np.mean(shares)) if shares else math.nan
    return Shown(rows, values, nothing, nothing, label, True, level)


def best(what: Shown) -> int | None:
    """The row of the best point, the first of equals in the order of scoring; None while there is none."""
    return int(np.nanargmax(what.values)) if np.isfinite(what.values).any() else None


def axes(result: Result) -> list[dict[str, Any]]:
    """The axes of the sweep: name, label, task, and every value of the grid; without provenance the scored ones."""
    known = result.provenance.get("axes")
    if known:
        return list(known)
    found = [c for c in "xyz" if c in result.table]
    return [{"name": c, "label": c, "task": c, "values": np.unique(result.table[c]).tolist()} for c in found]


def setting(result: Result, values: Sequence[float]) -> str:
    """The numbers of a point in words: `scale of all tasks 0.45, density 0.2`; of a mix the tasks alone."""
    name = "task" if result.kind == "sweep_mix" else "label"
    return ", ".join(f"{cut(a[name], 30)} {v:g}" for a, v in zip(axes(result), values, strict=False))


def point(result: Result, row: pd.Series) -> list[float]:
    """The numbers of one row."""
    return [float(row["xyz"[i]]) for i in range(len(axes(result)))]


def hover(result: Result, what: Shown, index: int) -> str:
    """What is known of one scored point: every task on its own line while they are few."""
    row = what.rows.iloc[index]
    few = result.tasks if len(result.tasks) <= 8 else ()
    worst = f"worst {safe(cut(row['worst_task'], 24))}" if row["worst_task"] in result.tasks else "worst task"
    return lines(
        safe(setting(result, point(result, row))),
        f"mean score {percent(row['mean'])}, 95 % interval {percent(row['low'])} to {percent(row['high'])}",
        f"{percent(row['normalized'])} of the experts on average; {worst} {percent(row['worst'])}",
        *(f"{safe(cut(t, 24))} {percent(row[f'score:{t}'])}" for t in few),
        f"{int(row['n']):,} examples",
    )


def not_scored(result: Result, values: Sequence[float], near: Sequence[float] | None) -> str:
    """The hover of a point that is still to be scored, and whose colour stands for it meanwhile."""
    stands = f"coloured like {safe(setting(result, near))}" if near is not None else ""
    return lines(safe(setting(result, values)), "not scored yet", stands)


def caption(result: Result, measure: str, task: Name, current: Place) -> str:
    """The best point as what it is: the best of k on so many examples, beside chance and the setting shown now."""
    what = shown(result, measure, task)
    top = best(what)
    if top is None:
        return "No point of this sweep has been scored yet."
    k, total = len(what.rows), int(result.provenance.get("points", len(what.rows)))
    n, value = int(what.rows.iloc[top]["n"]), what.values[top]
    if task is not None:
        n = int(result.provenance.get("examples", {}).get(task, n))
    scored = f"{k} points" if k == total else f"the {k} of {total} points scored so far"
    said = f"Best of {scored}, each on {n:,} examples: {setting(result, point(result, what.rows.iloc[top]))} with "
    said += f"{what.label} {percent(value)}"
    asides = []
    if math.isfinite(what.low[top]):
        inside = int(np.sum(what.values >= what.low[top])) - 1
        ends = f"{percent(what.low[top])} to {percent(what.high[top])}"
        asides.append(f"95 % interval {ends}, which does not include the choice of the best")
        asides.append(f"{inside or 'no'} other point{' lies' if inside < 2 else 's lie'} within it")
    if math.isfinite(what.chance):
        asides.append(f"chance {percent(what.chance)}")
    return f"{said} ({'; '.join(asides)})." if asides else f"{said}."


def table(result: Result) -> pd.DataFrame:
    """The scored points with the names of what was swept as columns, in the order of the grid."""
    names = {"xyz"[i]: str(axis["name"]) for i, axis in enumerate(axes(result))}
    places = [c for c in "kji" if c in result.table]
    ordered = result.table.sort_values(places, kind="stable") if places else result.table
    kept = ["refined" if c.name == "reach" else c.name for c in result.columns if c.name not in (*"ijk", "refined")]
    return ordered[kept].rename(columns=names)


def at_point(result: Result, what: Shown, values: Sequence[float], row: int) -> str:
    """A place of the cursor in words, for eyes and for screen readers: the numbers, and what is known of them."""
    known = f"{what.label} {percent(what.values[row])}" if row >= 0 else "not scored yet"
    return f"{setting(result, values)}: {known}"


def at(current: Place, size: int) -> list[float] | None:
    """The present setting's place as numbers, where it is one."""
    values = list(current) if isinstance(current, (list, tuple)) else []
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    return numbers if len(numbers) == size == len(values) else None


def cursor(label: str, points: list[dict[str, Any]], place: Sequence[float] | None, **more: Any) -> dict[str, Any]:
    """What the panel needs to lay a cursor over the figure (see `PlotlyPanel`).

    `points`: x, y, value (the cell that the event `drag` carries) and text of each place it can be put; `place`: x, y
    of the present setting, None where it has none.
    """
    return {"argument": "cell", "label": label, "points": points, "place": list(place) if place else None, **more}
