"""The look shared by every chart and part: task colours, colour scales, plotly templates, number formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import plotly.graph_objects as go

Theme = Literal["light", "dark"]

# The first six are Okabe and Ito's; the rest were chosen for the largest smallest OKLab distance to all
# earlier ones under normal, deuteranope, protanope and tritanope vision. Black and the pale yellow of the
# original set are left out: each disappears on one of the two page backgrounds.
_TASK_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#874b5a", "#8778f0", "#d2d23c", "#00e1f0",
    "#b42d00", "#87b478", "#b43c96", "#b4d2b4", "#0f6978", "#c3a5b4", "#69785a", "#87d278", "#7896d2", "#5a4bc3",
)  # fmt: skip

# Colour alone carries at most eight tasks for everybody, so every task also has a marker of its own.
_TASK_SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "x", "hexagon", "pentagon",
    "triangle-left", "triangle-right", "bowtie", "hourglass", "star-square", "star-diamond", "hexagram",
    "diamond-tall", "diamond-wide", "octagon",
)  # fmt: skip

# Greys with at least 3:1 contrast to both page backgrounds.
NEUTRAL = "#7b8494"
"""Colour of marks that belong to no task, such as base model and reference lines."""
NEUTRAL_FAINT = "rgba(123, 132, 148, 0.35)"
"""Colour of large quiet areas and secondary lines."""
POSITIVE = "#2f7fc1"
"""Colour of positive values where only the sign matters; the blue end of `DIVERGING`."""
NEGATIVE = "#d9822b"
"""Colour of negative values where only the sign matters; the orange end of `DIVERGING`."""

SEQUENTIAL: list[list[float | str]] = [
    [0.0, "#00224e"], [0.125, "#123570"], [0.25, "#3b496c"], [0.375, "#575d6d"], [0.5, "#707173"],
    [0.625, "#8a8678"], [0.75, "#a59c74"], [0.875, "#c3b369"], [0.9375, "#d3c164"], [1.0, "#fee838"],
]  # fmt: skip
"""Cividis: for magnitudes, from nothing (dark blue) to much (yellow)."""

DIVERGING: list[list[float | str]] = [
    [0.0, "#8a4500"], [0.125, "#c46a12"], [0.25, "#e89a4c"], [0.375, "#f5cda3"], [0.5, "#f7f7f7"],
    [0.625, "#b5d3ea"], [0.75, "#6aa7d8"], [0.875, "#2f7fc1"], [1.0, "#0b4f8a"],
]  # fmt: skip
"""Orange, white, blue: for signed values; use with `zmid=0`, so that white is zero."""

NOTHING = "–"
"""What stands where there is no number."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_INK = {
    "light": {
        "text": "#1f2937", "soft": "#4b5563", "grid": "#e5e7eb", "zero": "#9ca3af", "line": "#9ca3af",
        "hover": "#ffffff", "edge": "#9ca3af", "page": "#ffffff",
    },
    "dark": {
        "text": "#f3f4f6", "soft": "#c3c8d1", "grid": "#2c3444", "zero": "#6b7280", "line": "#6b7280",
        "hover": "#1f2937", "edge": "#6b7280", "page": "#0b0f19",
    },
}  # fmt: skip


def task_colour(index: int) -> str:
    """Colour of the task at a position, as `#rrggbb`; the twenty colours repeat after the twentieth."""
    return _TASK_COLOURS[index % len(_TASK_COLOURS)]


def task_symbol(index: int) -> str:
    """Plotly marker symbol of the task at a position; the second channel beside its colour."""
    return _TASK_SYMBOLS[index % len(_TASK_SYMBOLS)]


def page_colour(theme: Theme) -> str:
    """Solid background that a figure of this theme needs where there is no page behind it."""
    return _ink(theme)["page"]


def template(theme: Theme) -> go.layout.Template:
    """Plotly template for Gradio's light or dark page: transparent paper, legible axes, the task colours."""
    ink = _ink(theme)
    axis = {
        "gridcolor": ink["grid"],
        "zerolinecolor": ink["zero"],
        "zerolinewidth": 1,
        "linecolor": ink["line"],
        "tickcolor": ink["line"],
        "tickfont": {"color": ink["soft"], "size": 12},
        "title": {"font": {"color": ink["text"], "size": 13}, "standoff": 10},
        "automargin": True,
    }
    layout = {
        **_words(ink),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(_TASK_COLOURS),
        "colorscale": {"sequential": SEQUENTIAL, "sequentialminus": SEQUENTIAL[::-1], "diverging": DIVERGING},
        "coloraxis": {"colorbar": _colour_bar(ink)},
        "xaxis": axis,
        "yaxis": axis,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": ink["soft"], "activecolor": POSITIVE},
        "shapedefaults": {"line": {"color": ink["soft"], "width": 1}},
        "margin": {"l": 56, "r": 20, "t": 28, "b": 48},
        "hovermode": "closest",
        "bargap": 0.25,
    }
    return go.layout.Template(layout=layout, data=_traces(ink))


def themed(figure: go.Figure, theme: Theme) -> go.Figure:
    """Copy of a figure in the light or dark look, on a solid background, for notebooks and files."""
    copy = go.Figure(figure)
    copy.update_layout(template=template(theme), paper_bgcolor=page_colour(theme))
    return copy


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage: 0.123 is `12.3 %`; `–` where there is no number."""
    known = _number(fraction)
    return NOTHING if known is None else f"{100 * known:.{digits}f} %"


def count(number: float | None) -> str:
    """A count for people: `1,234`, `5.3 M`, `1.2 B`; `–` where there is no number."""
    number = _number(number)
    if number is None:
        return NOTHING
    for unit, name in ((1e9, "B"), (1e6, "M")):
        # Compared after rounding, so that 999,999,999 reads `1.0 B` and not `1000.0 M`.
        if abs(number) >= unit * (0.99995 if name == "B" else 1):
            return f"{number / unit:.1f} {name}"
    return f"{round(number):,}"


def bytes_text(number: float | None) -> str:
    """A number of bytes in decimal units: `512 B`, `43.1 MB`, `1.2 GB`; `–` where there is no number."""
    number = _number(number)
    if number is None:
        return NOTHING
    size, units = float(number), ("B", "kB", "MB", "GB", "TB")
    for unit in units:
        if abs(size) < 999.95 or unit == units[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def seconds_text(seconds: float | None) -> str:
    """A duration for people: `12 ms`, `3.4 s`, `2 min 05 s`, `1 h 04 min`; `–` where there is no number."""
    seconds = _number(seconds)
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _ink(theme: str) -> dict[str, str]:
    """Colours of one theme."""
    if theme not in _INK:
        raise ValueError(f"style: theme must be 'light' or 'dark'; got {theme!r}. Use one of the two.")
    return _INK[theme]


def _words(ink: Mapping[str, str]) -> dict[str, Any]:
    """Layout entries that set text: title, legend, hover and annotations."""
    font = {"family": FONT, "color": ink["text"]}
    return {
        "font": {**font, "size": 13},
        "title": {"font": {"color": ink["text"], "size": 15}, "x": 0, "xanchor": "left", "xref": "paper"},
        "legend": {"font": {"color": ink["text"], "size": 12}, "bgcolor": "rgba(0,0,0,0)", "title": {"text": ""}},
        "hoverlabel": {
            "bgcolor": ink["hover"], "bordercolor": ink["edge"], "font": {**font, "size": 12}, "align": "left",
        },
        "annotationdefaults": {"font": {"color": ink["text"], "size": 12}, "arrowcolor": ink["soft"]},
    }  # fmt: skip


def _traces(ink: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Defaults of each kind of trace."""
    area = [{"colorscale": SEQUENTIAL, "colorbar": _colour_bar(ink)}]
    errors = {"error_x": {"color": ink["soft"]}, "error_y": {"color": ink["soft"]}}
    table = {"header": {"fill": {"color": ink["grid"]}}, "cells": {"fill": {"color": "rgba(0,0,0,0)"}}}
    return {
        "heatmap": area,
        "contour": area,
        "histogram2d": area,
        "bar": [{"marker": {"line": {"width": 0}}, **errors}],
        "scatter": [errors],
        "table": [table],
    }


def _colour_bar(ink: Mapping[str, str]) -> dict[str, Any]:
    """A slim colour bar with its title along the side."""
    return {
        "outlinewidth": 0,
        "ticks": "",
        "thickness": 12,
        "tickfont": {"color": ink["soft"], "size": 11},
        "title": {"side": "right", "font": {"color": ink["text"], "size": 12}},
    }


def _number(number: float | None) -> float | None:
    """The number, or None where there is nothing to show."""
    return number if number is not None and math.isfinite(number) else None
