"""Words for captions and hovers: names made safe, numbers beside their chance level, lists of tasks."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from viz.style import count, percent

ABOUT = 0.1
"""Within a tenth of the chance level, a value is called "about what chance gives"."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def safe(name: object) -> str:
    """A name as text that plotly shows as it is: plotly reads a few HTML tags, and names are untrusted."""
    return html.escape(_CONTROL.sub(" ", str(name)), quote=False)


def cut(name: object, limit: int) -> str:
    """A name without control characters, cut in its middle, where long names differ least; not yet safe."""
    text = _CONTROL.sub(" ", str(name))
    if len(text) > limit:
        tail = limit // 3
        text = text[: limit - tail - 1] + "…" + text[-tail:]
    return text


def short(name: object, limit: int = 14) -> str:
    """A name for a tick label: safe, and cut in its middle."""
    return html.escape(cut(name, limit), quote=False)


def brief(names: Sequence[str]) -> list[str]:
    """Names of kinds of module as short as people in the field write them: `attn query`."""
    return [name.replace("attention", "attn") for name in names]


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


def large(provenance: Mapping[str, Any]) -> str:
    """`large ` where only the largest changes of each task were compared, else nothing."""
    density = provenance.get("trim_density", 1)
    return "large " if isinstance(density, (int, float)) and density < 1 else ""


def counted(provenance: Mapping[str, Any]) -> str:
    """The weights that shares are of: all, or those that any task changed."""
    own = provenance.get("parameters")
    rules = {**provenance, **own} if isinstance(own, Mapping) else provenance
    return "changed weights" if rules.get("denominator") == "changed" else "weights"


def start(sentence: str) -> str:
    """A sentence with a capital first letter."""
    return sentence[:1].upper() + sentence[1:]


def grid(rows: int, columns: int, fill: Any = "") -> np.ndarray:
    """An empty table of texts."""
    return np.full((rows, columns), fill, dtype=object)
