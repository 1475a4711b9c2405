"""The most telling numbers about a set of fine-tunes: each with its chance level and one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from explorer.results import Result
from viz.charts._tables import at_threshold, between, model_rows, number, top
from viz.charts._words import ABOUT, counted, cut, large
from viz.style import percent

Standing = Literal["above chance", "about chance", "below chance"]

SLIGHT = 0.1
"""A cosine below this is called slight: the two share less than one hundredth of their squared length."""
ERRORS = 3.0
"""So many standard errors must lie between a value and its chance level before it is called above or below."""

HOW = (
    "Each card is one number for the whole model beside its chance level: what unrelated task vectors of the same "
    "sizes would show. A number is called above or below chance when it differs from its chance level by more than a "
    "tenth of that level and by more than three standard errors, taken as if every weight were an independent draw "
    "(cosines: three standard deviations under random signs). Of many pairs or tasks the card shows the one that is "
    "named. First come numbers that are off chance towards interference, then others off chance, then the rest; within "
    "each, signs before masks before directions and sizes. Weights hint at interference; accuracy after merging is "
    "the evidence."
)


@dataclass(frozen=True)
class Finding:
    """One card. Every text is plain, with names of tasks as they are: escape it before it meets HTML.

    `worse` says that the number is off chance in the direction that means interference; `figure` names the chart to
    open, `pair` the two tasks to select there.
    """

    metric: str
    title: str
    value: str
    unit: str
    sentence: str
    null: str
    standing: Standing
    figure: str
    worse: bool = False
    pair: tuple[str, str] | None = None


def findings(
    results: Mapping[str, Result], *, density: float = 0.2, mask_threshold: float = 0.4
) -> tuple[Finding, ...]:
    """What the results of a survey say, most telling first (see `HOW`); results by metric, any may be missing.

    `density` and `mask_threshold` pick the nearest computed rows of redundancy and of the mask metrics. What is not
    defined (one task, no pair, a task identical to the base) gives no finding, never a number made up.
    """
    makers: Mapping[str, Callable[[Result], Finding | None]] = {
        "sign_conflict": _signs,
        "minority_mass": _mass,
        "mask_agreement": lambda r: _agreement(r, mask_threshold),
        "mask_overlap": lambda r: _overlap(r, mask_threshold),
        "cosine": _cosine,
        "redundancy": lambda r: _redundancy(r, density),
        "norm_profile": _norms,
    }
    found = [make(results[name]) for name, make in makers.items() if name in results]
    known = [f for f in found if f is not None]
    return tuple(sorted(known, key=lambda f: 2 if f.standing == "about chance" else 0 if f.worse else 1))


def standing(value: float, null: float, error: float = 0.0) -> Standing:
    """Where a value stands: off chance by more than a tenth of the level and by more than three errors, or about it."""
    band = max(ABOUT * abs(null), ERRORS * error) + 1e-12
    return "above chance" if value - null > band else "below chance" if null - value > band else "about chance"


def _error(null: float, n: float) -> float:
    """Standard error of a share if each of n weights were an independent draw; 0 where n is not known."""
    return math.sqrt(max(null * (1 - null), 0.0) / n) if n > 0 else 0.0


_WORDS: dict[Standing, str] = {
    "above chance": "more than chance gives",
    "about chance": "about what chance gives",
    "below chance": "less than chance gives",
}


HIGHEST = "highest against chance"


def _name(task: object) -> str:
    return cut(task, 32)


def _hundred(share: float) -> str:
    """A share as a number out of 100: whole from 10 on, one decimal below."""
    if 0 < share < 0.0005:
        return "fewer than 0.1"
    return f"{100 * share:.0f}" if share >= 0.0995 or share == 0 else f"{100 * share:.1f}"


def _of_pairs(rows: pd.DataFrame, what: str) -> str:
    """What the named pair is among all, where there are several."""
    return f"; the {what} of {len(rows)} pairs" if len(rows) > 1 else ""


def _known(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows in which all these numbers exist."""
    return rows[np.isfinite(rows[list(columns)].to_numpy(dtype=float)).all(1)] if len(rows) else rows


def _pair(row: pd.Series) -> tuple[str, str]:
    return str(row["task_a"]), str(row["task_b"])


def _signs(result: Result) -> Finding | None:
    rows = _known(between(model_rows(result.table), result.tasks), "conflict", "null")
    if rows.empty:
        return None
    row = top(rows, rows["conflict"] - rows["null"])
    (a, b), value, null = _pair(row), float(row["conflict"]), float(row["null"])
    where = standing(value, null, _error(null, number(row, "n_both")))
    size = large(result.provenance)
    said = (
        f"Of 100 {size}weights that both {_name(a)} and {_name(b)} change, {_hundred(value)} are pulled in opposite "
        f"directions: {_WORDS[where]} ({100 * null:.1f}){_of_pairs(rows, HIGHEST)}."
    )
    unit = f"of the {size}weights that both change"
    return Finding(
        "sign_conflict", "Opposite directions", percent(value), unit, said, f"chance {percent(null)}", where,
        "sign_conflict_pairs", where == "above chance", (a, b),
    )  # fmt: skip


def _mass(result: Result) -> Finding | None:
    rows = _known(model_rows(result.table), "minority_mass", "null")
    if len(result.tasks) < 2 or rows.empty or not number(rows.iloc[0], "n_positions") > 0:
        return None
    row = rows.iloc[0]
    value, null = float(row["minority_mass"]), float(row["null"])
    where = standing(value, null, _error(null, number(row, "n_positions")))
    said = (
        f"Of all change in {large(result.provenance)}weights, by size, {percent(value)} points against the direction "
        f"that wins at its weight: {_WORDS[where]} ({percent(null)}, random signs)."
    )
    return Finding(
        "minority_mass", "Outvoted change", percent(value), "of all change, by size", said, f"chance {percent(null)}",
        where, "sign_conflict_map", where == "above chance",
    )  # fmt: skip


def _agreement(result: Result, mask_threshold: float) -> Finding | None:
    rows, at = at_threshold(result, mask_threshold)
    rows = _known(model_rows(rows), "share", "null").sort_values("k", kind="stable")
    if len(result.tasks) < 2 or len(rows) < 2:
        return None
    shares, nulls = (rows[c].to_numpy(dtype=float)[:2] for c in ("share", "null"))
    value, null = float(shares.sum()), float(nulls.sum())
    where = standing(value, null, _error(null, _n(result)))
    weights = counted(result.provenance)
    unchanged = " (unchanged ones included)" if weights == "weights" else ""
    said = (
        f"Of 100 {weights}, {_hundred(shares[0])} are in no task's mask{unchanged} and {_hundred(shares[1])} "
        f"in only one: together {_WORDS[where]} ({100 * null:.1f}). Consensus merging drops these."
    )
    return Finding(
        "mask_agreement", "Of use to one task or none", percent(value),
        f"of all {weights}, at mask threshold {at:.2f}", said, f"chance {percent(null)}", where,
        "mask_agreement_layers", where == "above chance",
    )  # fmt: skip


def _overlap(result: Result, mask_threshold: float) -> Finding | None:
    rows, at = at_threshold(result, mask_threshold)
    rows = _known(between(model_rows(rows), result.tasks), "iou", "null", "lift")
    if rows.empty:
        return None
    row = top(rows, rows["lift"])
    (a, b), value, null = _pair(row), float(row["iou"]), float(row["null"])
    either = _n(result) * (number(row, "density_a") + number(row, "density_b")) / (1 + value)
    where = standing(value, null, _error(null, either))
    said = (
        f"Of 100 weights in the mask of {_name(a)} or {_name(b)}, {_hundred(value)} are in both: {_WORDS[where]} "
        f"({100 * null:.1f}){_of_pairs(rows, HIGHEST)}."
    )
    return Finding(
        "mask_overlap", "Shared weights", percent(value), f"of either mask, at mask threshold {at:.2f}", said,
        f"chance {percent(null)}", where, "mask_overlap_pairs", False, (a, b),
    )  # fmt: skip


def _cosine(result: Result) -> Finding | None:
    rows = _known(between(model_rows(result.table), result.tasks), "cosine", "null", "null_sd")
    if rows.empty:
        return None
    row = top(rows, rows["cosine"].abs())
    (a, b), value, spread = _pair(row), float(row["cosine"]), float(row["null_sd"])
    where = standing(value, float(row["null"]), spread)
    band = f"0 ± {ERRORS * spread:.2g}"
    much = "slightly " if abs(value) < SLIGHT else ""
    told = {
        "above chance": f"lean {much}the same way, beyond what chance gives ({band})",
        "about chance": f"are as unrelated as chance makes them ({band})",
        "below chance": f"lean {much}against each other, beyond what chance gives ({band})",
    }[where]
    said = f"The task vectors of {_name(a)} and {_name(b)} {told}{_of_pairs(rows, 'furthest from 0')}."
    return Finding(
        "cosine", "Common direction", f"{value:.3f}".replace("-", "−"), "cosine, −1 to 1", said,
        f"chance {band}", where, "cosine_map", where == "below chance", (a, b),
    )  # fmt: skip


def _redundancy(result: Result, density: float) -> Finding | None:
    rows = _known(model_rows(result.table), "kept", "null")
    rows = rows[rows["task"].isin(list(result.tasks))]
    if rows.empty:
        return None
    grid = np.unique(rows["density"].to_numpy(dtype=float))
    at = float(grid[np.argmin(np.abs(grid - density))])
    rows = rows[rows["density"] == at]
    row = top(rows, -rows["kept"])
    value, null = float(row["kept"]), float(row["null"])
    error = max(number(row, "bin_error"), _error(null, _n(result) * number(row, "changed")))
    where = standing(value, null, error)
    few = f", the least of {len(rows)} tasks" if len(rows) > 1 else ""
    share = f"{100 * at:.3g} %"
    said = (
        f"The largest {share} of the {counted(result.provenance)} hold {percent(value)} of the norm of "
        f"{_name(row['task'])}{few}: {_WORDS[where]} ({percent(null)}, normal numbers)."
    )
    return Finding(
        "redundancy", "Left after a trim", percent(value), f"of the norm in the top {share}", said,
        f"chance {percent(null)}", where, "trimming_curve",
    )  # fmt: skip


def _norms(result: Result) -> Finding | None:
    rows = _known(model_rows(result.table), "norm")
    rows = rows[rows["task"].isin(list(result.tasks))]
    moved = rows[rows["norm"] > 0]
    if moved.empty:
        return None
    far, near = top(moved, moved["norm"]), top(moved, -moved["norm"])
    layers = _known(result.at("layer", task=far["task"]), "share", "null")
    layers = layers[layers["null"] > 0]
    said = f"The weights of {_name(far['task'])} moved"
    if len(moved) > 1:
        ratio = float(far["norm"]) / float(near["norm"])
        said += f" furthest, {ratio:.1f} times as far as those of {_name(near['task'])}"
    still = [_name(task) for task in rows[rows["norm"] == 0]["task"]]
    nothing = f"; {_listed(still)} changed nothing" if still else ""
    if len(layers) < 2:
        norm = f"{float(far['norm']):.3g}"
        return Finding(
            "norm_profile", "Furthest from the base", norm, "Euclidean norm", f"{said}{nothing}.",
            "no chance level: one layer only", "about chance", "norm_profile",
        )  # fmt: skip
    row = top(layers, layers["share"] / layers["null"])
    value, null, layer = float(row["share"]), float(row["null"]), _name(row["layer"])
    where = standing(value, null, _error(null, number(far, "n_changed")))
    said += (
        f"; {percent(value)} of its change lies in {layer}, {_WORDS[where]} ({percent(null)}, even spread){nothing}."
    )
    return Finding(
        "norm_profile", "Where the change sits", percent(value), f"of {_name(far['task'])}'s change is in {layer}",
        said, f"chance {percent(null)}", where, "norm_profile",
    )  # fmt: skip


def _n(result: Result) -> float:
    """Weights of the model, 0 where the provenance does not say."""
    n = result.provenance.get("n", 0)
    return float(n) if isinstance(n, (int, float)) else 0.0


def _listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a and 3 others`."""
    first, *rest = names
    return first if not rest else f"{first} and {rest[0]}" if len(rest) == 1 else f"{first} and {len(rest)} others"
