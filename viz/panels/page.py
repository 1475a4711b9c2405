"""The page: three places in the order of the work, one bar above them, and what follows from what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from explorer.data.bringing import for_others
from explorer.errors import ExplorerError
from explorer.recipe import Recipe
from explorer.session import change, from_link, redo, undo, with_models
from explorer.workbench import Slot, Workbench
from viz.overview_cards import CSS as OVERVIEW_CSS
from viz.panels import words
from viz.panels.answers import AnswersPlace
from viz.panels.export import ExportPlace
from viz.panels.history import HistoryPlace
from viz.panels.interference import InterferencePlace
from viz.panels.interference_events import watcher
from viz.panels.live_events import LiveEvents
from viz.panels.merge import MergePlace
from viz.panels.models import ModelsPlace
from viz.panels.prompting import CSS as PROMPT_CSS
from viz.panels.prompting import PromptPlace
from viz.panels.settings import turn_of
from viz.panels.sweep import SweepPlace
from viz.panels.topbar import COPY_JS, EXPORT_JS, IMPORT_JS, TopBar
from viz.panels.topics import TAB_OF
from viz.panels.views import PLACES
from viz.panels.why import CSS as WHY_CSS
from viz.panels.why import WhyPlace
from viz.parts import HistoryKeeper

CSS = (Path(__file__).with_name("page.css"), OVERVIEW_CSS, WHY_CSS, PROMPT_CSS)
SCRIPT = Path(__file__).with_name("page.js").read_text("utf-8").replace("TOPICS", json.dumps(TAB_OF), 1)
LIVE: dict[str, Any] = {
    "trigger_mode": "multiple",
    "concurrency_limit": None,
    "show_progress": "hidden",
    "api_visibility": "private",
}


def build(bench: Workbench) -> gr.Blocks:
    """The whole page over one workbench."""
    with gr.Blocks(title="Task Interference Explorer", analytics_enabled=False, fill_width=True) as page:
        bar, keeper = TopBar(bench), HistoryKeeper(elem_id="history-keeper")
        with gr.Tabs(elem_id="places") as places:
            with gr.Tab("Models", id="models") as models_tab:
                models = ModelsPlace(bench)
            with gr.Tab("Interference", id="interference") as interference_tab:
                interference = InterferencePlace(bench)
            with gr.Tab("Merge", id="merge") as merge_tab:
                merge = MergePlace(bench)
                with gr.Tabs(elem_id="merge-topics"):
                    with gr.Tab("Why", id="why") as why_tab:
                        why = WhyPlace(bench)
                    with gr.Tab("History", id="history") as history_tab:
                        history = HistoryPlace(bench, keeper)
                    with gr.Tab("Sweep", id="sweep") as sweep_tab:
                        sweep = SweepPlace(bench)
                    with gr.Tab("Answers", id="answers") as answers_tab:
                        answers = AnswersPlace(bench)
                    with gr.Tab("Ask", id="ask") as ask_tab:
                        asking = PromptPlace(bench)
                export = ExportPlace(bench)

        def slot_of(request: gr.Request) -> Slot:
            return bench.slot(str(request.session_hash))

        tabs = dict(zip(PLACES, (models_tab, interference_tab, merge_tab), strict=True))
        events = LiveEvents(bench, bar, merge, export, why, history, sweep, answers, asking, slot_of, LIVE)
        _Wiring(bench, models, interference, events).connect(page, places, tabs)
        events.connect_tabs(why_tab, history_tab, sweep_tab, answers_tab, ask_tab)
    return page


def theme() -> gr.themes.Default:
    """The page's look: system fonts only, so that nothing is asked of another host."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
    mono = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace"]
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono)


class _Wiring:
    """Which event leads to which update. Every callback finds its session by the browser tab's id."""

    def __init__(
        self, bench: Workbench, models: ModelsPlace, interference: InterferencePlace, events: LiveEvents
    ) -> None:
        self.bench, self.models, self.interference, self.events = bench, models, interference, events
        self.bar, self.merge, self.sweep = events.bar, events.merge, events.sweep
        set_by_code = [*self.merge.settings, self.merge.about, self.merge.add_ons, *self.sweep.chosen_by_code]
        self.shown = [self.bar.facts, models.status, models.table, *models.data.shown]
        self.shown += [*interference.chosen_by_code, *set_by_code]
        self.shown += [
            *events.export.set_by_code,
            self.bar.undo,
            self.bar.redo,
            self.merge.scores,
            *models.chosen_by_code,
        ]
        self.slot = events.slot_of

    def connect(self, page: gr.Blocks, places: gr.Tabs, tabs: Mapping[str, gr.Tab]) -> None:
        """Bind every event."""
        self._connect_other_settings()
        self._after(page.load(self.start, None, [bar_note := self.bar.note, places, *self.shown], **LIVE))
        for name, tab in tabs.items():
            opened_place = tab.select(self._opening(name), None, None, **LIVE)
            if name == "interference":
                opened_place.then(self.look, None, self.interference.outputs, **LIVE)
        opened = self.models.open.click(
            self.open_models,
            [self.models.base, self.models.tasks, self.models.policy, self.models.download, self.merge.mixer],
            [self.models.form_note, *self.shown],
            **LIVE,
        )
        self._after(opened)
        self.models.upload.upload(self.receive, self.models.upload, [self.models.form_note, self.models.tasks], **LIVE)
        self.models.refresh.click(self.look_again, None, [self.models.base, self.models.tasks], **LIVE)
        self.models.data.connect(self.slot, LIVE, self.shown, lambda slot: self._show(slot, None), self._after)
        self.interference.connect(self.slot, LIVE)
        self.events.connect()
        for button, step in ((self.bar.undo, undo), (self.bar.redo, redo)):
            self._after(button.click(self.walk(step), self.merge.mixer, [bar_note, *self.shown], **LIVE))
        copied = self.bar.copy.click(self.link, None, self.bar.link, **LIVE)
        copied.then(None, self.bar.link, None, js=COPY_JS)
        self.bar.export.click(None, None, None, js=EXPORT_JS)
        self.bar.bring.click(None, None, None, js=IMPORT_JS)
        page.unload(self.leave)

    def _after(self, event: Any) -> None:
        """Refresh every figure after the models or the recipe were set from outside the controls.

        The figure of the first place comes first: the others, and the scores, would only hold it up.
        """
        event = event.then(self.first_look, None, self.models.first_look, **LIVE)
        event.then(self.all_figures, None, self.interference.outputs, **LIVE)
        place = self.interference
        event.then(watcher(place, self.slot), None, [place.status, place.stop], **LIVE)
        self.events.follow(event.then(self.events.rescore, None, self.events.outputs, **LIVE))

    def _connect_other_settings(self) -> None:
        """The session's recipe may also come from the history or from a point of a sweep."""
        shown = [self.bar.note, *self.shown]

        def restored(event: Any) -> None:
            self._after(event.then(self.show_again, self.merge.mixer, shown, **LIVE))

        self.events.history.connect(self.slot, LIVE, restored)
        for event in self.sweep.connect(self.slot, LIVE, self.take, shown):
            self._after(event)
        for event in self.events.export.incoming.connect(self.slot, LIVE, lambda s: self._show(s, None), self.shown):
            self._after(event)

    # Callbacks. The first argument after self comes from the page; `request` says which tab it is.

    def start(self, request: gr.Request) -> list[Any]:
        """A new tab: the start recipe, or the one in the link."""
        slot, note, place = self.slot(request), "", gr.skip()
        self.interference.view(slot).working.go_on()
        text = request.query_params.get("s") if request.query_params else None
        if text:
            try:
                recipe, plain = from_link(text)
                recipe = for_others(self.bench, recipe, slot)
                self.bench.models(recipe)
                slot.session = with_models(slot.session, recipe)
                slot.session = replace(slot.session, past=(), future=())
                self.interference.view(slot).take(plain, recipe.task_names)
                place = gr.update(selected=self.interference.view(slot).place)
            except ExplorerError as error:
                note = words.note(f"The link could not be opened, so the samples are shown. {error}", kind="problem")
        shown = self._show(slot, None)
        if not text:  # the form says it already, and somebody quick may have begun to choose
            own = len(self.models.chosen_by_code)
            shown[-own:] = [gr.skip()] * own
        return [note, place, *shown]

    def _opening(self, name: str) -> Callable[[gr.Request], None]:
        def opened(request: gr.Request) -> None:
            self.interference.view(self.slot(request)).place = name

        return opened

    def _show(self, slot: Slot, mixer: Any) -> list[Any]:
        recipe = slot.session.recipe
        status, table = self.models.show(recipe)
        choices = self.interference.choices(slot)
        controls = [*self.merge.show(recipe, mixer), *self.sweep.show(slot)]
        # What is shown as scores is of the recipe before until the new one's come in.
        chosen = [*self.bar.history(slot), {"stale": True}, *self.models.selection(recipe)]
        about = [self.bar.describe(recipe), status, table, *self.models.data.show(slot)]
        return [*about, *choices, *controls, *self.events.export.show(slot), *chosen]

    def show_again(self, mixer: Any, request: gr.Request) -> list[Any]:
        """The controls for the session's recipe, which was set elsewhere."""
        return ["", *self._show(self.slot(request), mixer)]

    def take(self, slot: Slot, recipe: Recipe) -> list[Any]:
        """Make a recipe the session's; it can be undone."""
        with slot.lock:
            slot.session = change(slot.session, recipe)
        return ["", *self._show(slot, None)]

    def open_models(
        self, base: str, tasks: list[str], policy: str, download: bool, mixer: Any, request: gr.Request
    ) -> list[Any]:
        """Open the selected models; on a problem only the note changes."""
        slot = self.slot(request)
        before = slot.session
        note = self.models.open_selected(slot, base, tasks, policy, download)
        return [note, *(self._show(slot, mixer) if slot.session is not before else [gr.skip()] * len(self.shown))]

    def receive(self, files: list[str], request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Uploaded files become a checkpoint of this session."""
        return self.models.receive(self.slot(request), files)

    def look_again(self, request: gr.Request) -> list[dict[str, Any]]:
        """Models that were put into the allowed folders since the start."""
        recipe, choices = self.slot(request).session.recipe, self.models.choices()
        chosen = [t.checkpoint for t in recipe.tasks]
        return [gr.update(choices=choices, value=recipe.base), gr.update(choices=choices, value=chosen)]

    def walk(self, step: Callable[[Any], Any]) -> Callable[..., list[Any]]:
        """A callback for undo or redo."""

        def walked(mixer: Any, request: gr.Request) -> list[Any]:
            slot = self.slot(request)
            slot.is_news(turn_of(mixer), 2)
            with slot.lock:
                slot.session = session = step(slot.session)
            shown = ["", *self._show(slot, mixer)]
            # Two quick steps may end in either order; the page must not go back to what the first one showed.
            return shown if slot.session.recipe is session.recipe else [gr.skip()] * len(shown)

        return walked

    def first_look(self, request: gr.Request) -> dict[str, Any]:
        """The figure of the place Models."""
        return self.interference.first_look(self.slot(request))

    def all_figures(self, request: gr.Request) -> Iterator[list[Any]]:
        """The figures of the place Interference that were looked at, unless they are drawn for these models."""
        yield from self.interference.everything(self.slot(request), again=False)

    def look(self, request: gr.Request) -> list[Any]:
        """The place Interference was opened: the topic that is shown there."""
        slot = self.slot(request)
        return self.interference.look(slot, self.interference.view(slot).topic)

    def link(self, request: gr.Request) -> str:
        """The link to this setting."""
        slot = self.slot(request)
        return self.bar.link_text(slot, self.interference.view(slot).to_plain())

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.interference.leave(self.slot(request))
        self.events.asking.leave(self.slot(request))
        self.bench.close(str(request.session_hash))
