"""A panel of the page that shows one figure: caption, downloads, numbers and an explanation included."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import pandas as pd
import plotly.graph_objects as go
from plotly.io.json import to_json_plotly

from explorer.errors import ParameterError, sentence
from explorer.params import Spec
from viz import style
from viz.export import csv_text
from viz.parts import assets

_THEMES: tuple[style.Theme, ...] = ("light", "dark")
_SCRIPT = assets.script(
    "plotly_panel.js",
    "plotly_panel_handle.js",
    "plotly_panel_cursor.js",
    "plotly_panel_files.js",
    css="plotly_panel.css",
    TEMPLATES={theme: style.template(theme).to_plotly_json() for theme in _THEMES},
    PAGE_COLOURS={theme: style.page_colour(theme) for theme in _THEMES},
    PLOTLY_PATH=assets.plotly_js().as_posix(),
)


with assets.no_stub_file():

    class PlotlyPanel(gr.HTML):
        """A figure that keeps its zoom, follows light and dark, reports clicks and can be saved.

        The value is what `panel_value` returns, `{"empty": sentence}` or None for an empty panel, or
        `{"stale": True}` to grey what is shown until the next value. The event `pick` carries
        `{"name": ..., "points": [{"x", "y", "z", "customdata", "curveNumber", "pointNumber"}, ...]}`
        in `gr.EventData._data`; `viz.charts.picked` reads it. Where the figure's `layout.meta["handle"]` asks for a
        slider on a scale inside it, the event `drag` carries `{"name", "argument", "value", "turn"}`: the chart's
        argument and its new value (`read_drag` checks it). So does a ring that is put on one of many points, where
        `layout.meta["cursor"]` asks for it: its value is that point's. Use it as an output only; bind events with
        `show_progress="hidden"`.
        """

        def __init__(self, value: Mapping[str, Any] | None = None, **options: Any) -> None:
            assets.serve_static_files()
            super().__init__(
                value=value,
                html_template='<section class="explorer-panel"></section>',
                css_template="",
                js_on_load=_SCRIPT,
                apply_default_css=False,
                padding=False,
                **options,
            )

        def postprocess(self, value: Any) -> str | None:
            """The value as JSON text."""
            # Text and not a dict: Gradio's page would wrap every number of a dict in a proxy and compare
            # the whole of it several times per update.
            if value is None:
                return None
            if not isinstance(value, Mapping) or not ({"figure", "empty", "stale"} & value.keys()):
                got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
                raise ParameterError(
                    sentence("PlotlyPanel", "value must hold a figure, 'empty' or 'stale'", got, "Use panel_value().")
                )
            try:
                return json.dumps(value, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ParameterError(
                    sentence("PlotlyPanel", "value must be plain JSON", error, "Use panel_value().")
                ) from error

        def preprocess(self, payload: Any) -> Any:
            """The value that is shown, or None where the page sent something else."""
            try:
                value = json.loads(payload) if isinstance(payload, str) else None
            except ValueError:
                return None
            return value if isinstance(value, dict) else None


def panel_value(
    name: str,
    title: str,
    figure: go.Figure | Mapping[str, Any],
    table: pd.DataFrame | None,
    caption: str,
    how: str,
    note: str | None = None,
) -> dict[str, Any]:
    """Value of a `PlotlyPanel`: the figure without its template, its numbers as CSV, and its words.

    `name` is used for file names, for the pick event and, unless the layout sets `uirevision`, to decide
    whether a zoom is kept: figures of one name share it. Links in figure text are shown as text, because
    names of tasks and tensors come from checkpoints.
    """
    plain = json.loads(to_json_plotly(figure))
    layout = {key: part for key, part in plain.get("layout", {}).items() if key != "template"}
    return {
        "name": name,
        "title": title,
        "figure": _without_links({"data": plain.get("data", []), "layout": layout}),
        "csv": "" if table is None else csv_text(table),
        "caption": caption,
        "how": how,
        "note": note,
    }


def read_drag(payload: object, specs: Sequence[Spec]) -> dict[str, Any]:
    """The argument and value that an event `drag` carries, `{argument: value}`; empty where it is not legal.

    `specs` are the chart's declared parameters. The payload comes from the browser, so only a declared argument with
    a legal value gets through.
    """
    if not isinstance(payload, Mapping):
        return {}
    spec = next((s for s in specs if s.name == payload.get("argument")), None)
    if spec is None or not isinstance(payload.get("value"), (int, float)):
        return {}
    try:
        return {spec.name: spec.check(payload["value"], who="drag")}
    except ParameterError:
        return {}


_NOT_SHOWN = ("bdata", "customdata", "meta")
"""Parts of a figure that are never drawn: numbers, and names that must come back from a click as they are."""


def _without_links(part: Any) -> Any:
    """A copy of a figure in which plotly's `<a>` tag is text and not a link."""
    if isinstance(part, dict):
        return {key: inner if key in _NOT_SHOWN else _without_links(inner) for key, inner in part.items()}
    if isinstance(part, list):
        return [_without_links(inner) for inner in part]
    return re.sub(r"<(?=/?a[\s>])", "&lt;", part, flags=re.IGNORECASE) if isinstance(part, str) else part
