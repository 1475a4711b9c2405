"""The curves over depth inside a mixer's value: how they are described to the page, and read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from explorer.errors import ParameterError, sentence
from viz.parts.mixer import mixer_rows


def depth_value(
    knots: Sequence[tuple[str, str]],
    lanes: Mapping[str, tuple[str, Sequence[bool]]],
    presets: Mapping[str, Sequence[float]],
    low: float = 0.0,
    high: float = 2.0,
) -> dict[str, Any]:
    """What the page must know to draw curves over depth.

    `knots`: short label and full name of each place; `lanes`: kind of module -> its name on the page (empty: it moves
    with all the others only) and at which knots it has a tensor; `presets`: name -> a multiplier for each knot.
    """
    return {
        "knots": [{"label": label, "title": title} for label, title in knots],
        "lanes": [{"id": lane, "label": label, "has": list(has)} for lane, (label, has) in lanes.items() if any(has)],
        "presets": [{"name": name, "values": list(values)} for name, values in presets.items()],
        "low": low,
        "high": high,
    }


def read_curves(
    value: Any, tasks: Sequence[str], lanes: Sequence[str], knots: int, low: float = 0.0, high: float = 2.0
) -> dict[str, dict[str, tuple[float, ...]]]:
    """The curve of each task, lane -> a multiplier per knot, from an unchecked mixer value; flat lanes are left out.

    Rows that are missing count as flat: `read_mixer` reports them. Raises ParameterError for a lane that is none of
    `lanes`, a number of multipliers other than `knots`, or one that is no number in `low`..`high`.
    """
    rows = mixer_rows(value)
    return {task: _curve(rows.get(task, {}).get("curve"), task, lanes, knots, low, high) for task in tasks}


def _curve(
    given: Any, task: str, lanes: Sequence[str], knots: int, low: float, high: float
) -> dict[str, tuple[float, ...]]:
    """The checked curve of one row."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or any(lane not in lanes for lane in given):
        got = repr(given if not isinstance(given, Mapping) else list(given))[:60]
        whole = f"the curve of '{task}' must be given by {', '.join(lanes) or 'nothing, for there is no depth'}"
        raise ParameterError(sentence("mixer", whole, got, "Reload the page."))
    return {lane: read for lane in lanes if lane in given if (read := _lane(given[lane], task, knots, low, high))}


def _lane(given: Any, task: str, knots: int, low: float, high: float) -> tuple[float, ...]:
    """The checked multipliers of one lane; empty where all are 1."""
    values = list(given) if isinstance(given, (list, tuple)) else []
    if len(values) != knots or not all(_inside(v, low, high) for v in values):
        whole = f"the curve of '{task}' must have {knots} numbers between {low:g} and {high:g}"
        raise ParameterError(sentence("mixer", whole, repr(given)[:60], "Move its knots or reset it."))
    return tuple(float(v) for v in values) if any(v != 1 for v in values) else ()


def _inside(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def own_values_hold(value: Any, task: str) -> bool:
    """Whether a row still stands for values per tensor that no curve shows: neither slider nor curve was moved."""
    row: Mapping[str, Any] = mixer_rows(value).get(task, {})
    own: Any = row.get("own")
    shown: Any = row.get("value")
    if not (_inside(own, -1e9, 1e9) and _inside(shown, -1e9, 1e9)) or row.get("curve"):
        return False
    return abs(float(own) - float(shown)) < 1e-9
