"""Words for captions and hovers: names made safe, numbers beside their chance level, lists of tasks."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from viz.style import count, percent

ABOUT = 0.1
"""Within a tenth of the chance level, a value is called "about what chance gives"."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def safe(name: object) -> str:
    """A name as text that plotly shows as it is: plotly reads a few HTML tags, and names are untrusted."""
    return html.escape(_CONTROL.sub(" ", str(name)), quote=False)


def short(name: object, limit: int = 14) -> str:
    """A name for a tick label: safe, and cut in its middle, where long names differ least."""
    text = _CONTROL.sub(" ", str(name))
    if len(text) > limit:
        tail = limit // 3
        text = text[: limit - tail - 1] + "…" + text[-tail:]
    return html.escape(text, quote=False)


def lines(*parts: str) -> str:
    """Lines of a hover label, empty ones left out; the first one bold. The parts must be safe already."""
    shown = [p for p in parts if p]
    return "<br>".join([f"<b>{shown[0]}</b>", *shown[1:]]) if shown else ""


def against_chance(value: float, null: float, digits: int = 1) -> str:
    """A value beside its chance level in words, such as `about what chance gives (50.0 %)`.

    "About" means within a tenth of the chance level: a rule of reading, not a test of significance, because
    weights of one tensor are not independent samples.
    """
    if not math.isfinite(null):
        return "the chance level is not known"
    if not math.isfinite(value):
        return f"chance would give {percent(null, digits)}"
    if abs(value - null) <= ABOUT * null + 1e-12:
        return f"about what chance gives ({percent(null, digits)})"
    return f"{'more' if value > null else 'less'} than chance gives ({percent(null, digits)})"


def points(difference: float, digits: int = 1) -> str:
    """A difference of fractions in percentage points: `+1.2 points`."""
    return "–" if not math.isfinite(difference) else f"{100 * difference:+.{digits}f} points"


def out_of(part: float, whole: float, what: str = "weights") -> str:
    """`12,345 of 1.2 M weights`."""
    return f"{count(part)} of {count(whole)} {what}"


def tasks_text(tasks: Sequence[str]) -> str:
    """Names as a list in a sentence: `a, b and c`."""
    return tasks[0] if len(tasks) == 1 else ", ".join(tasks[:-1]) + " and " + tasks[-1] if tasks else ""


def start(sentence: str) -> str:
    """A sentence with a capital first letter."""
    return sentence[:1].upper() + sentence[1:]


def grid(rows: int, columns: int, fill: Any = "") -> np.ndarray:
    """An empty table of texts."""
    return np.full((rows, columns), fill, dtype=object)
