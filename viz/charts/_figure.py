"""The frame that every chart is drawn in: neutral of theme, with a height of its own, readable from 360 px on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from viz.charts._words import safe, short
from viz.style import NEUTRAL_FAINT

QUIET = "#c9ced6"
"""Solid grey of squares that belong to no colour scale; dark text is readable on it on both pages."""

MAX_TICKS = 16
"""So many tick labels fit beside one another on a telephone."""


def frame(height: int, *, x: str, y: str, **layout: Any) -> go.Figure:
    """An empty figure: transparent, without template, with axis titles; `layout` overrides anything.

    Legends and colour bars lie above the plot, never beside it: on a telephone width is what is scarce. The legend's
    x is a hair below 0 because plotly then also lets it use the width of the left margin.
    """
    common: dict[str, Any] = {
        "template": {},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": int(height),
        "uirevision": "kept",
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "xaxis": {"title": {"text": x, "standoff": 8}, "automargin": True},
        "yaxis": {"title": {"text": y, "standoff": 8}, "automargin": True},
        "legend": {
            "orientation": "h",
            "x": -0.001,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 11},
        },
    }
    # Given to the constructor, and no template as an empty one: an empty figure first copies plotly's own, ten times
    # the work.
    figure = go.Figure(layout=_merged(common, layout))
    figure.layout.template = None
    return figure


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both, level by level; where both say something, the second."""
    both = {k: _merged(first[k], v) if isinstance(v, dict) and isinstance(first.get(k), dict) else v
            for k, v in second.items()}  # fmt: skip
    return {**first, **both}


def blank(text: str) -> go.Figure:
    """A figure that holds one sentence instead of marks."""
    hidden = {"visible": False}
    figure = frame(160, x="", y="", xaxis=hidden, yaxis=hidden)
    wrapped = "<br>".join(textwrap.wrap(safe(text), 40))
    at = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "xanchor": "center", "yanchor": "middle"}
    return figure.add_annotation(text=wrapped, showarrow=False, **at)


def names_axis(names: Sequence[str], limit: int = 14, every: int | None = None) -> dict[str, Any]:
    """Axis settings for names at positions 0, 1, …: safe short labels, thinned out where there are many."""
    step = every or max(1, math.ceil(len(names) / MAX_TICKS))
    shown = range(0, len(names), step)
    return {
        "tickmode": "array",
        "tickvals": np.array(list(shown)),
        "ticktext": [short(names[i], limit) for i in shown],
        "showgrid": False,
        "zeroline": False,
        "range": [-0.5, len(names) - 0.5],
        "automargin": True,
        "title_standoff": 32,  # the names' own depth is not always known when the title is placed
    }


def downwards(axis: dict[str, Any]) -> dict[str, Any]:
    """The same axis with its first name on top."""
    return {**axis, "range": axis["range"][::-1]}


def colour_bar(title: str, *, left: float = 0.0, right: float = 1.0, **more: Any) -> dict[str, Any]:
    """A colour bar above the plot, between two fractions of its width."""
    return {
        "orientation": "h",
        "x": (left + right) / 2,
        "xanchor": "center",
        "len": right - left,
        "y": 1.0,
        "yanchor": "bottom",
        "ypad": 6,
        "xpad": 0,
        "thickness": 9,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "nticks": 5,
        "title": {"text": title, "side": "top", "font": {"size": 11}},
        **more,
    }


def ground(figure: go.Figure) -> go.Figure:
    """A faint ground under a map, so that an empty square does not look like a white one, which means zero."""
    everywhere = {"xref": "paper", "yref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 1}
    return figure.add_shape(
        type="rect", layer="below", fillcolor=NEUTRAL_FAINT, opacity=0.5, line={"width": 0}, **everywhere
    )


def symmetric_limit(values: np.ndarray, floor: float) -> float:
    """A round number that no finite |value| exceeds, at least `floor`, so that noise does not look like a finding."""
    finite = np.abs(values[np.isfinite(values)])
    top = max(float(finite.max()) if finite.size else 0.0, floor)
    unit = 10.0 ** math.floor(math.log10(top))
    return float(next(m * unit for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * unit >= top * (1 - 1e-9)))
