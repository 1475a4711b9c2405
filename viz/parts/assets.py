"""Reads the scripts and style sheets of the parts and names the one library file that the page loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import plotly
from gradio import component_meta

_FOLDER = Path(__file__).parent


def plotly_js() -> Path:
    """Path of the plotly.min.js inside the installed plotly package, of the version that made the figures."""
    return Path(plotly.__file__).resolve().parent / "package_data" / "plotly.min.js"


def static_paths() -> list[Path]:
    """Files that the page asks the Gradio server for: exactly one, plotly.min.js."""
    return [plotly_js()]


def serve_static_files() -> None:
    """Let every Gradio app of this process serve `static_paths()`; calling it again changes nothing."""
    if not _served:
        gr.set_static_paths(static_paths())
        _served.extend(static_paths())


_served: list[Path] = []


def script(*files: str, css: str, **constants: object) -> str:
    """Body of `js_on_load`: the constants, the style sheet put into the page once, then the files in order."""
    # One <style> per class of part, not css_template: Gradio would compile that template again on every
    # update of the value and replace the style sheet, which costs a style recalculation each time.
    lines = ['"use strict";', f"const STYLE_ID = {json.dumps('explorer-' + css)}, CSS = {_literal(_read(css))};"]
    lines += [f"const {name} = {_literal(value)};" for name, value in constants.items()]
    lines.append(_read("page.js"))
    return "\n".join(lines + [_read(file) for file in files])


@contextmanager
def no_stub_file() -> Iterator[None]:
    """Keep Gradio from writing a .pyi beside the source of each component class defined in the block."""
    write_stub = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_arguments: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = write_stub


def _read(file: str) -> str:
    """Text of one file beside this module."""
    return (_FOLDER / file).read_text(encoding="utf-8")


def _literal(value: object) -> str:
    """A Python value as a JavaScript expression."""
    return json.dumps(value, ensure_ascii=False)
