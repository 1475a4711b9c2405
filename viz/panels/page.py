"""The page: three places in the order of the work, one bar above them, and what follows from what."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from explorer.errors import ExplorerError
from explorer.session import change, from_link, redo, undo, with_models
from explorer.workbench import Slot, Workbench
from viz.overview_cards import CSS as OVERVIEW_CSS
from viz.panels import words
from viz.panels.export import ExportPlace
from viz.panels.interference import InterferencePlace
from viz.panels.interference_events import watcher
from viz.panels.merge import MergePlace
from viz.panels.models import ModelsPlace
from viz.panels.settings import turn_of
from viz.panels.topbar import COPY_JS, EXPORT_JS, TopBar
from viz.panels.topics import TAB_OF
from viz.panels.views import PLACES

CSS = (Path(__file__).with_name("page.css"), OVERVIEW_CSS)
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
        bar = TopBar(bench)
        with gr.Tabs(elem_id="places") as places:
            with gr.Tab("Models", id="models") as models_tab:
                models = ModelsPlace(bench)
            with gr.Tab("Interference", id="interference") as interference_tab:
                interference = InterferencePlace(bench)
            with gr.Tab("Merge", id="merge") as merge_tab:
                merge = MergePlace(bench)
                export = ExportPlace(bench)
        tabs = dict(zip(PLACES, (models_tab, interference_tab, merge_tab), strict=True))
        _Wiring(bench, bar, models, interference, merge, export).connect(page, places, tabs)
    return page


def theme() -> gr.themes.Default:
    """The page's look: system fonts only, so that nothing is asked of another host."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
    mono = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace"]
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono)


class _Wiring:
    """Which event leads to which update. Every callback finds its session by the browser tab's id."""

    def __init__(
        self,
        bench: Workbench,
        bar: TopBar,
        models: ModelsPlace,
        interference: InterferencePlace,
        merge: MergePlace,
        export: ExportPlace,
    ) -> None:
        self.bench, self.bar, self.models = bench, bar, models
        self.interference, self.merge, self.export = interference, merge, export
        self.history = [bar.undo, bar.redo]
        set_by_code = [*merge.settings, merge.about, merge.add_ons]
        self.shown = [bar.facts, models.status, models.table, *interference.chosen_by_code, *set_by_code]
        self.live = [*merge.outputs, *self.history, export.recipe, export.rounding]

    def slot(self, request: gr.Request) -> Slot:
        return self.bench.slot(str(request.session_hash))

    def connect(self, page: gr.Blocks, places: gr.Tabs, tabs: Mapping[str, gr.Tab]) -> None:
        """Bind every event."""
        self._after(page.load(self.start, None, [bar_note := self.bar.note, places, *self.shown], **LIVE))
        for name, tab in tabs.items():
            tab.select(self._opening(name), None, None, **LIVE)
        opened = self.models.open.click(
            self.open_models,
            [self.models.base, self.models.tasks, self.models.policy, self.models.download, self.merge.mixer],
            [self.models.form_note, *self.shown],
            **LIVE,
        )
        self._after(opened)
        self.models.upload.upload(self.receive, self.models.upload, [self.models.form_note, self.models.tasks], **LIVE)
        self.models.refresh.click(self.look_again, None, [self.models.base, self.models.tasks], **LIVE)
        self.interference.connect(self.slot, LIVE)
        self._connect_merge()
        for button, step in ((self.bar.undo, undo), (self.bar.redo, redo)):
            self._after(button.click(self.walk(step), self.merge.mixer, [bar_note, *self.shown], **LIVE))
        copied = self.bar.copy.click(self.link, None, self.bar.link, **LIVE)
        copied.then(None, self.bar.link, None, js=COPY_JS)
        self.bar.export.click(None, None, None, js=EXPORT_JS)
        page.unload(self.leave)

    def _after(self, event: Any) -> None:
        """Refresh every figure after the models or the recipe were set from outside the controls.

        The figure of the first place comes first: the others, and the scores, would only hold it up.
        """
        event = event.then(self.first_look, None, self.models.first_look, **LIVE)
        event.then(self.all_figures, None, self.interference.outputs, **LIVE)
        place = self.interference
        event.then(watcher(place, self.slot), None, [place.status, place.stop], **LIVE)
        event.then(self.rescore, None, self.live, **LIVE)

    def _connect_merge(self) -> None:
        place, export = self.merge, self.export
        gr.on([place.mixer.input, place.controls.input], self.dragged, place.settings, self.live, **LIVE)
        gr.on([place.mixer.release, place.controls.release], self.released, place.settings, self.live, **LIVE)
        gr.on(place.add_ons.input, self.adding, place.add_ons, self.live, **LIVE)
        gr.on(place.add_ons.release, self.added, place.add_ons, self.live, **LIVE)
        shown = [*place.settings, place.about, place.add_ons]
        switched = place.method.input(self.switch, [place.method, place.mixer], shown, **LIVE)
        switched.then(self.rescore_kept, None, self.live, **LIVE)
        export.dtype.input(self.set_dtype, export.dtype, None, **LIVE).then(self.rescore_kept, None, self.live, **LIVE)
        export.write.click(self.write, [export.name, export.replace], [export.note, export.zip], **LIVE)

    # Callbacks. The first argument after self comes from the page; `request` says which tab it is.

    def start(self, request: gr.Request) -> list[Any]:
        """A new tab: the start recipe, or the one in the link."""
        slot, note, place = self.slot(request), "", gr.skip()
        self.interference.view(slot).working.go_on()
        text = request.query_params.get("s") if request.query_params else None
        if text:
            try:
                recipe, plain = from_link(text)
                self.bench.models(recipe)
                slot.session = with_models(slot.session, recipe)
                slot.session = replace(slot.session, past=(), future=())
                self.interference.view(slot).take(plain, recipe.task_names)
                place = gr.update(selected=self.interference.view(slot).place)
            except ExplorerError as error:
                note = words.note(f"The link could not be opened, so the samples are shown. {error}", kind="problem")
        return [note, place, *self._show(slot, None)]

    def _opening(self, name: str) -> Callable[[gr.Request], None]:
        def opened(request: gr.Request) -> None:
            self.interference.view(self.slot(request)).place = name

        return opened

    def _show(self, slot: Slot, mixer: Any) -> list[Any]:
        recipe = slot.session.recipe
        status, table = self.models.show(recipe)
        choices = self.interference.choices(slot)
        return [self.bar.describe(recipe), status, table, *choices, *self.merge.show(recipe, mixer)]

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
        """Every figure of the place Interference."""
        yield from self.interference.everything(self.slot(request))

    def dragged(self, mixer: Any, controls: Any, method: str, request: gr.Request) -> Iterator[list[Any]]:
        """A control is being moved."""
        slot = self.slot(request)
        yield from self._with_history(slot, self.merge.moved(slot, mixer, controls, method, keep=False))

    def released(self, mixer: Any, controls: Any, method: str, request: gr.Request) -> Iterator[list[Any]]:
        """A control was let go: a step of undo and of the trail."""
        slot = self.slot(request)
        yield from self._with_history(slot, self.merge.moved(slot, mixer, controls, method, keep=True))

    def adding(self, add_ons: Any, request: gr.Request) -> Iterator[list[Any]]:
        """A setting of an add-on is being moved."""
        slot = self.slot(request)
        yield from self._with_history(slot, self.merge.added(slot, add_ons, keep=False))

    def added(self, add_ons: Any, request: gr.Request) -> Iterator[list[Any]]:
        """An add-on was switched or its setting let go."""
        slot = self.slot(request)
        yield from self._with_history(slot, self.merge.added(slot, add_ons, keep=True))

    def switch(self, method: str, mixer: Any, request: gr.Request) -> list[Any]:
        """Another method."""
        return self.merge.switch(self.slot(request), method, mixer)

    def rescore(self, request: gr.Request) -> Iterator[list[Any]]:
        """Scores of the session's recipe; part of the trail only when the trail is empty."""
        slot = self.slot(request)
        keep = not slot.session.trail
        yield from self._with_history(slot, self.merge.updates(slot, slot.session.recipe, keep=keep))

    def rescore_kept(self, request: gr.Request) -> Iterator[list[Any]]:
        """Scores of the session's recipe as a step of the trail."""
        slot = self.slot(request)
        yield from self._with_history(slot, self.merge.updates(slot, slot.session.recipe, keep=True))

    def _with_history(self, slot: Slot, updates: Iterator[list[Any]]) -> Iterator[list[Any]]:
        for update in updates:
            yield [*update, *self.bar.history(slot), slot.session.recipe.to_yaml(), ""]
        yield [*[gr.skip()] * (len(self.live) - 1), self.export.left(slot)]

    def set_dtype(self, shown: str, request: gr.Request) -> None:
        """The dtype of the export, which is also what is scored."""
        slot = self.slot(request)
        recipe = replace(slot.session.recipe, dtype=self.export.dtype_of(shown))
        slot.session = change(slot.session, recipe)

    def write(self, name: str, overwrite: bool, request: gr.Request) -> Iterator[list[Any]]:
        """Export the model."""
        yield from self.export.run(self.slot(request), name, overwrite)

    def link(self, request: gr.Request) -> str:
        """The link to this setting."""
        slot = self.slot(request)
        return self.bar.link_text(slot, self.interference.view(slot).to_plain())

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.interference.leave(self.slot(request))
        self.bench.close(str(request.session_hash))
