"""Figures and tables as files that work offline: nothing in them asks another computer for anything."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from explorer.errors import OutputError, sentence
from explorer.results import csv_text
from viz.style import FONT, Theme, page_colour, template, themed

CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}
"""Settings of plotly.js: no button that sends a figure away."""

ROWS_SHOWN = 200
"""So many rows of a table a report prints; the CSV beside it has all."""

# The page may run what is written in it and nothing else, and may connect to nobody.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def figure_html(figure: go.Figure, theme: Theme = "light", *, title: str = "Figure") -> str:
    """A page with one figure and plotly.js inside, about 5 MB of text."""
    return _page(title, _figure(figure, theme, "figure"), theme)


def write_html(figure: go.Figure, path: Path, theme: Theme = "light", *, title: str = "Figure") -> None:
    """Write `figure_html`, whole or not at all. Raises OutputError."""
    write_text(Path(path), figure_html(figure, theme, title=title))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write `csv_text`, whole or not at all. Raises OutputError."""
    write_text(Path(path), csv_text(table))


def _figure(figure: go.Figure, theme: Theme, identity: str) -> str:
    return str(to_html(themed(figure, theme), config=CONFIG, include_plotlyjs=False, full_html=False,
                       include_mathjax=False, div_id=identity))  # fmt: skip


def table_html(table: pd.DataFrame) -> str:
    """A table as HTML, its first rows where it is long; every name escaped."""
    shown = table.head(ROWS_SHOWN)
    text = shown.to_html(index=False, border=0, escape=True, na_rep="–", float_format=lambda x: f"{x:.5g}")
    rest = len(table) - len(shown)
    note = f"<p>The first {len(shown):,} of {len(table):,} rows.</p>" if rest else ""
    return f'<div class="scroll">{text}</div>{note}'


def _page(title: str, body: str, theme: Theme) -> str:
    ink, paper = template(theme).layout.font.color, page_colour(theme)
    style = (
        f"body{{margin:0 auto;padding:16px;max-width:1100px;background:{paper};color:{ink};font:15px/1.5 {FONT}}}"
        "h1{font-size:24px}h2{font-size:18px;margin:32px 0 4px}p{max-width:80ch;overflow-wrap:anywhere}"
        "summary{cursor:pointer}.scroll{overflow:auto;max-height:420px}"
        "table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}"
        "th,td{padding:3px 10px;text-align:left;border-bottom:1px solid #7b849459;white-space:nowrap}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>{body}</body></html>\n"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises OutputError."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        what = error.strerror or str(error)
        raise OutputError(sentence("export", f"{path} can be written", what, "Choose another place.")) from error
