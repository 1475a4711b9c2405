"""Beside the scores: what changed and why, what follows from it, and a few examples with everybody's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.advice import advice
from explorer.contributions import contributions
from explorer.errors import Cancelled, ExplorerError
from explorer.executor import CancelToken
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.streaming import LiveUpdate
from explorer.strip import strip
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.draw import draw, empty
from viz.panels.why_words import strip_table
from viz.parts import PlotlyPanel

CSS = Path(__file__).with_name("why.css")
SlotOf = Callable[[gr.Request], Slot]
SHOWN = (
    ("distance", "departure"),
    ("share", "share"),
    ("out-voted", "outvoted"),
    ("dropped", "dropped"),
)
_WAITING = "Measured as soon as the first merge is made."
_NO_ANSWERS = '<p class="explorer-strip-note">Shown once every example of the setting is scored.</p>'


@dataclass
class View:
    """How one browser tab looks at its merge: the last table, of which recipe, and what the controls say."""

    table: Result | None = None
    recipe: Recipe | None = None
    pinned: Recipe | None = None
    show: str = "departure"
    by: str = "layer"
    page: int = 0
    hidden: bool = False


class WhyPlace:
    """Layout and callbacks of the section below the scores.

    `outputs` are the advice, both figures and the strip; every method but `connect` and `after_merge` gives one value
    for each of them.
    """

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._views: WeakKeyDictionary[Slot, View] = WeakKeyDictionary()
        gr.Markdown("### What changed and why", elem_id="why")
        self.advice = gr.HTML(padding=False, elem_id="why-advice")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                self.parts = PlotlyPanel(empty(_WAITING), elem_id="contributions")
            with gr.Column(scale=1, min_width=320):
                self.layers = PlotlyPanel(empty(_WAITING), elem_id="contribution-layers")
                with gr.Row():
                    self.show = gr.Dropdown(list(SHOWN), value="departure", label="Draw", min_width=180)
                    places = [("layers", "layer"), ("kinds of module", "kind")]
                    self.by = gr.Dropdown(places, value="layer", label="For", min_width=140)
        gr.Markdown(
            "### The same examples, answered by each model\nA fixed draw from the held-out texts, the tasks in turn. "
            "A handful shows what kind of thing goes wrong, not how often: the scores say that.",
            elem_id="examples",
        )
        self.strip = gr.HTML(_NO_ANSWERS, padding=False, elem_id="why-strip")
        with gr.Row(elem_id="why-pages"):
            self.back = gr.Button("Earlier examples", size="sm", elem_id="strip-back")
            self.more = gr.Button("Other examples", size="sm", elem_id="strip-more")
        self.outputs = [self.advice, self.parts, self.layers, self.strip]

    def connect(self, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
        """Bind the section's own events; `live` are the options of events that answer at once."""

        def setter(name: str) -> Callable[[str, gr.Request], dict[str, Any]]:
            def changed(value: str, request: gr.Request) -> dict[str, Any]:
                view = self._view(slot_of(request))
                setattr(view, name, str(value))
                return self._layers(view)

            return changed

        def turner(step: int) -> Callable[[gr.Request], str]:
            def turned(request: gr.Request) -> str:
                slot = slot_of(request)
                self._view(slot).page += step
                return self._strip(slot, self._view(slot).recipe or slot.session.recipe)

            return turned

        self.show.input(setter("show"), self.show, self.layers, **live)
        self.by.input(setter("by"), self.by, self.layers, **live)
        self.back.click(turner(-1), None, self.strip, **live)
        self.more.click(turner(1), None, self.strip, **live)

    def turn(self, slot: Slot, *, shown: bool) -> list[Any]:
        """The section is opened or left: what nobody looks at is not drawn, and drawn when it is opened again."""
        view, recipe = self._view(slot), slot.session.recipe
        hidden, view.hidden = view.hidden, not shown
        if not (shown and hidden) or (view.table is not None and view.recipe == recipe):
            return [gr.skip()] * 4
        try:
            told, _ = self.after_merge(slot, recipe, slot.token, view.pinned)
        except Cancelled:
            return [gr.skip()] * 4
        return [*told[:3], self._strip(slot, recipe)]

    def waiting(self) -> list[Any]:
        """What is shown is out of date."""
        return [gr.skip(), {"stale": True}, {"stale": True}, gr.skip()]

    def after_merge(
        self, slot: Slot, recipe: Recipe, token: CancelToken, pinned: Recipe | None = None
    ) -> tuple[list[Any], float]:
        """Merges, unless it is done, and explains the merge before anything is scored; and the seconds the merge took.

        The examples stay as they are until the first score: writing them would only hold the figures up.
        `pinned`: the setting A of the same tab, or None. Raises Cancelled when a newer request took the token.
        """
        view = self._view(slot)
        view.pinned = pinned
        if view.hidden:
            view.table = None
            return [gr.skip()] * 4, 0.0
        try:
            found = contributions(self.bench, slot, recipe, token)
        except Cancelled:
            raise
        except ExplorerError as error:
            view.table, view.recipe = None, recipe
            return ["", empty(str(error)), empty("See the figure beside it."), ""], 0.0
        view.table, view.recipe = found.table, recipe
        parts = draw("contributions", found.table)
        said = words.note(advice(found.table))
        return [said, parts, self._layers(view), gr.skip()], found.merge_seconds

    def scored(self, slot: Slot, update: LiveUpdate) -> list[Any]:
        """Advice and examples once all of the same setting is scored."""
        view = self._view(slot)
        if view.table is None or view.recipe != update.recipe or not update.complete:
            return [gr.skip()] * 4
        said = advice(view.table, update.scores if update.summary.tasks else None)
        return [words.note(said), gr.skip(), gr.skip(), self._strip(slot, update.recipe)]

    def _view(self, slot: Slot) -> View:
        return self._views.setdefault(slot, View())

    def _layers(self, view: View) -> dict[str, Any]:
        if view.table is None:
            return empty(_WAITING)
        try:
            return draw("contribution_layers", view.table, show=view.show, by=view.by)
        except ExplorerError as error:
            return empty(str(error))

    def _strip(self, slot: Slot, recipe: Recipe) -> str:
        view = self._view(slot)
        try:
            found = strip(self.bench, slot, recipe, pinned=view.pinned, page=view.page)
        except ExplorerError as error:
            return words.note(str(error), kind="problem")
        view.page = int(found.provenance["page"])
        return strip_table(found)
