"""All merge coefficients in one part of the page: per task a slider, a number, its marks, and a curve over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from explorer.errors import ParameterError, sentence
from viz.parts import assets

_SCRIPT = assets.script("mixer.js", "mixer_rows.js", "mixer_curve.js", "mixer_moves.js", css="mixer.css")
_NO_TASKS: dict[str, Any] = {
    "tasks": [], "solo": None, "low": -1.0, "high": 2.0, "step": 0.01, "default": 0.3, "label": "scale", "help": "",
    "disabled": None, "depth": None, "no_depth": "",
}  # fmt: skip
_FLAGS = ("muted", "locked", "linked")


with assets.no_stub_file():

    class Mixer(gr.HTML):
        """Sliders for the coefficients of all tasks, in one value.

        The value is what `mixer_value` returns. Events: `input` while something is dragged or typed, `release`
        when a drag, key, number, preset, curve, mute or solo is done. Bind both with `trigger_mode="multiple"` and
        `show_progress="hidden"`; a value set from Python triggers neither. What arrives in Python comes from
        the browser unchecked: read it with `read_mixer`, and its curves with `read_curves`.
        """

        def __init__(self, value: Mapping[str, Any] | None = None, **options: Any) -> None:
            super().__init__(
                value=value,
                html_template='<section class="explorer-mixer"></section>',
                css_template="",
                js_on_load=_SCRIPT,
                apply_default_css=False,
                padding=False,
                **options,
            )

        def postprocess(self, value: Any) -> Any:
            """The value as a dict of its own; a mixer without tasks where it is None."""
            return dict(_NO_TASKS if value is None else value)

        def preprocess(self, payload: Any) -> Any:
            """The value as the browser sent it; check it with `read_mixer`."""
            return payload

        def api_info(self) -> dict[str, Any]:
            """JSON schema of the value."""
            return {"type": "object", "description": "tasks with value, marks and curve, and the solo task"}


def mixer_value(
    tasks: Sequence[str],
    colours: Sequence[str],
    coefficients: Mapping[str, float],
    low: float = -1.0,
    high: float = 2.0,
    step: float = 0.01,
    default: float = 0.3,
    help: str = "",
    previous: Mapping[str, Any] | None = None,
    disabled: str | None = None,
    label: str = "scale",
    curves: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    own: Mapping[str, float] | None = None,
    depth: Mapping[str, Any] | None = None,
    no_depth: str = "",
) -> dict[str, Any]:
    """Value of a `Mixer` with one row per task; a task without a coefficient gets the default.

    `depth` says over which places curves go (`depth_value`); without it rows do not unfold, and `no_depth` says why.
    `curves`: multipliers by task and lane, flat where left out. `own`: tasks whose values per tensor no curve shows,
    with the coefficient at which they hold. Mute, lock, link and solo of `previous` stay with the tasks that remain.
    Coefficients outside `low`..`high` are
    shown at the nearer end, because a slider cannot show more. Raises ParameterError on repeated task names,
    a different number of colours, or an empty range.
    """
    if len(set(tasks)) != len(tasks):
        raise ParameterError(sentence("mixer", "task names must differ", list(tasks), "Rename one of them."))
    if len(colours) != len(tasks):
        raise ParameterError(sentence("mixer", f"{len(tasks)} tasks need as many colours", len(colours), "Add them."))
    if not low < high:
        raise ParameterError(sentence("mixer", "low must be below high", f"{low} and {high}", "Swap them."))
    old = mixer_rows(previous)
    solo = previous.get("solo") if isinstance(previous, Mapping) else None
    rows = []
    for task, colour in zip(tasks, colours, strict=True):
        value = min(max(float(coefficients.get(task, default)), low), high)
        flags = {flag: old.get(task, {}).get(flag) is True for flag in _FLAGS}
        curve = {lane: list(values) for lane, values in (curves or {}).get(task, {}).items()}
        rows.append(
            {"name": task, "colour": colour, "value": value, **flags, "curve": curve, "own": (own or {}).get(task)}
        )
    return {
        "tasks": rows, "solo": solo if solo in tasks else None, "low": low, "high": high, "step": step,
        "default": default, "label": label, "help": help, "disabled": disabled,
        "depth": None if depth is None else dict(depth), "no_depth": no_depth,
    }  # fmt: skip


def read_mixer(value: Any, tasks: Sequence[str], low: float, high: float) -> dict[str, float]:
    """Coefficient of each task after mute and solo, in the order of `tasks`, from an unchecked mixer value.

    Raises ParameterError unless the value has exactly these tasks, once each, with finite numbers in
    `low`..`high`, true-or-false flags, and as solo one of the tasks or None.
    """
    rows = mixer_rows(value)
    sent = len(value["tasks"]) if rows else 0
    if list(rows) != list(tasks) and (set(rows) != set(tasks) or sent != len(tasks)):
        raise ParameterError(
            sentence("mixer", f"there must be one row for each of {list(tasks)}", list(rows)[:40], "Reload the page.")
        )
    if sent != len(tasks):
        raise ParameterError(sentence("mixer", f"there must be {len(tasks)} rows", sent, "Reload the page."))
    solo = value.get("solo") if isinstance(value, Mapping) else None
    if solo is not None and (not isinstance(solo, str) or solo not in rows):
        raise ParameterError(sentence("mixer", "solo must be one of the tasks or none", repr(solo), "Choose another."))
    numbers = {task: _coefficient(rows[task], task, low, high) for task in tasks}
    return {
        task: 0.0 if rows[task].get("muted") or (solo is not None and task != solo) else number
        for task, number in numbers.items()
    }


def mixer_rows(value: Any) -> dict[str, Mapping[str, Any]]:
    """Well-formed rows of a mixer value by task name; empty where the value is no mixer value."""
    rows = value.get("tasks") if isinstance(value, Mapping) else None
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return {}
    named = [row for row in rows if isinstance(row, Mapping) and isinstance(row.get("name"), str)]
    return {row["name"]: row for row in named}


def _coefficient(row: Mapping[str, Any], task: str, low: float, high: float) -> float:
    """Checked number of one row."""
    for flag in _FLAGS:
        if not isinstance(row.get(flag, False), bool):
            raise ParameterError(
                sentence("mixer", f"{flag} of '{task}' must be true or false", repr(row[flag]), "Reload the page.")
            )
    number = row.get("value")
    if isinstance(number, (int, float)) and not isinstance(number, bool) and low - 1e-9 <= number <= high + 1e-9:
        return min(max(float(number), low), high)
    whole = f"coefficient of '{task}' must be a number between {low:g} and {high:g}"
    raise ParameterError(sentence("mixer", whole, repr(number)[:60], "Move its slider or type another number."))
