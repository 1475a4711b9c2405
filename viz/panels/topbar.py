"""The bar above all places: what is open, on which device, and the way back and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from explorer.data.bringing import for_others
from explorer.recipe import Recipe
from explorer.session import to_link
from explorer.workbench import Slot, Workbench
from viz.panels import words

COPY_JS = """(text) => {
  const url = location.origin + location.pathname + "?" + text;
  history.replaceState(null, "", "?" + text);
  if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(url).catch(() => {});
}"""
_TO_EXPORT = """() => {
  const tab = [...document.querySelectorAll('[role=tab]')].find((t) => t.textContent.trim() === 'Merge');
  if (tab) tab.click();
  let tries = 100;  // the place may be drawn only now, and what is folded may not listen yet
  const show = () => {
    const part = document.getElementById('PART');
    const closed = part?.querySelector('button.label-wrap:not(.open)');
    if (part?.offsetParent && !closed) part.scrollIntoView({ behavior: 'smooth' });
    else if (tries-- > 0) {
      closed?.click();
      setTimeout(show, 100);
    }
  };
  setTimeout(show, 150);
}"""
EXPORT_JS, IMPORT_JS = (_TO_EXPORT.replace("PART", part) for part in ("export", "import"))


class TopBar:
    """Layout and callbacks of the bar."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        with gr.Row(elem_id="topbar"):
            self.facts = gr.HTML(self.describe(bench.start), padding=False, min_width=320)
            with gr.Row(elem_id="topbar-buttons"):
                self.undo = gr.Button("Undo", size="sm", min_width=70, interactive=False, elem_id="undo")
                self.redo = gr.Button("Redo", size="sm", min_width=70, interactive=False, elem_id="redo")
                self.copy = gr.Button("Copy link", size="sm", min_width=90, elem_id="copy-link")
                self.bring = gr.Button("Import", size="sm", min_width=80, elem_id="go-import")
                self.export = gr.Button("Export", size="sm", min_width=80, variant="primary", elem_id="go-export")
        self.link = gr.Textbox(visible="hidden", elem_id="link-text")
        self.note = gr.HTML(padding=False, elem_id="page-note")

    def describe(self, recipe: Recipe) -> str:
        """Product, open models and device."""
        esc = words.escape
        names, number = ", ".join(recipe.task_names), words.fine_tunes(len(recipe.tasks))
        return (
            '<div class="explorer-brand"><h1>Task Interference Explorer</h1>'
            f'<p><span title="{esc(names)}">{number}</span> of <b>{esc(_last(recipe.base))}</b>'
            f' · <span class="badge">{esc(self.bench.device.title)}</span></p></div>'
        )

    def history(self, slot: Slot) -> list[dict[str, object]]:
        """Whether undo and redo can be pressed."""
        return [gr.update(interactive=slot.session.can_undo), gr.update(interactive=slot.session.can_redo)]

    def link_text(self, slot: Slot, view: Mapping[str, Any]) -> str:
        """The query of a link that brings this setting back, and what is open on the page; own data stay here."""
        shared = for_others(self.bench, slot.session.recipe)
        gr.Info("The address bar holds the link to this setting; it is on the clipboard too.", duration=4)
        return urlencode({"s": to_link(replace(slot.session, recipe=shared), view)})


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
