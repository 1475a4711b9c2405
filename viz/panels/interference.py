"""The place Interference: where the tasks disagree, which weights they share, how far and where to they moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.errors import ExplorerError
from explorer.results import Result
from explorer.workbench import Slot, Workbench
from viz.charts import CHARTS, Selection, picked
from viz.overview import findings
from viz.overview_cards import cards
from viz.panels import topics, words
from viz.panels.draw import draw, empty
from viz.panels.drill import DrillDown
from viz.panels.topics import LABELS, TOPICS, Figure, View
from viz.parts import PlotlyPanel, read_drag

ALL_PAIRS = "all tasks together"
SlotOf = Callable[[gr.Request], Slot]


class InterferencePlace:
    """Layout and callbacks of the place Interference."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._views: WeakKeyDictionary[Slot, View] = WeakKeyDictionary()
        self.panels: dict[str, PlotlyPanel] = {}
        gr.Markdown(topics.INTRO, elem_classes="explorer-intro")
        with gr.Row(equal_height=False):
            self.pair = gr.Dropdown(
                [ALL_PAIRS], value=ALL_PAIRS, label="Show", info="All tasks, or one pair.", min_width=320
            )
            self.selected = gr.HTML("", elem_id="selection", apply_default_css=False, padding=False)
            self.clear = gr.Button("Clear the selection", size="sm", elem_id="clear-selection", min_width=160)
        with gr.Tabs(elem_id="topics") as self.tabs:
            with gr.Tab(LABELS["overview"], id="overview"):
                self.overview = gr.HTML(words.note("Comparing the fine-tunes …"), elem_id="overview", padding=False)
            with gr.Tab(LABELS["signs"], id="signs"):
                self.trim = gr.Slider(
                    0.01, 1.0, 0.2, step=0.01, label="Trim first to the top fraction", info=topics.TRIM_INFO
                )
                self._row("signs")
                self.drill = DrillDown(bench)
            with gr.Tab(LABELS["masks"], id="masks") as self.masks_tab:
                self._masks()
            with gr.Tab(LABELS["tasks"], id="tasks"):
                self._row("tasks")
            with gr.Tab(LABELS["sizes"], id="sizes"):
                self._row("sizes")
            with gr.Tab(LABELS["matrices"], id="matrices") as self.matrices_tab:
                self._matrices()
        every = [self.panels[f.id] for figures in TOPICS.values() for f in figures]
        self.outputs = [self.pair, self.selected, self.overview, *every]

    def _row(self, topic: str, start: int = 0, stop: int | None = None) -> None:
        with gr.Row(equal_height=False):
            for figure in TOPICS[topic][start:stop]:
                with gr.Column(scale=figure.width, min_width=320):
                    self.panels[figure.id] = PlotlyPanel(empty(figure.waiting), elem_id=figure.id)

    def _masks(self) -> None:
        with gr.Row(equal_height=False):
            self.threshold = gr.Slider(0.05, 2.0, 0.4, step=0.05, label="Mask threshold λ", info=topics.MASK_INFO)
            places = [("layers", "layer"), ("kinds of module", "kind"), ("whole model", "model")]
            self.by = gr.Radio(places, value="layer", label="Bars for", min_width=280)
        self._row("masks", 0, 2)
        with gr.Row(equal_height=False):
            most = f"At most {topics.UPSET_MOST}: more groups than that cannot be read, and most would be empty."
            self.chosen = gr.CheckboxGroup([], label="Tasks in the figure of groups", info=most)
            orders = [("size", "size"), ("size / chance", "lift"), ("number of tasks", "degree")]
            self.order = gr.Radio(orders, value="size", label="Order of the groups", min_width=280)
        self._row("masks", 2)

    def _matrices(self) -> None:
        gr.Markdown(topics.MATRIX_INFO, elem_classes="explorer-hint")
        self._row("matrices", 0, 1)
        measures = [(text, name) for name, text in topics.MEASURES.items()]
        self.measure = gr.Radio(measures, value="sti", label="Interference measure")
        self._row("matrices", 1)

    def connect(self, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
        """Bind the place's own events; `live` are the options of events that answer while something moves."""
        # Arrow keys send no release. A new trim may take a whole pass: of many moves only the last one waits its turn.
        latest = {**live, "trigger_mode": "always_last"}
        sets: list[tuple[Any, str, tuple[str, ...], Mapping[str, Any]]] = [
            (self.trim, "trim", ("signs", "sizes"), latest),
            (self.threshold, "threshold", ("masks",), live),
            (self.by, "by", ("masks",), live),
            (self.chosen, "chosen", ("masks",), latest),
            (self.order, "order", ("masks",), live),
            (self.measure, "measure", ("matrices",), live),
        ]
        for part, name, changed, options in sets:
            events = [part.input, part.release] if isinstance(part, gr.Slider) else [part.input]
            gr.on(events, self._setter(slot_of, name, changed), part, self._outputs(changed), **options)
        self._connect_selection(slot_of, live)
        self.drill.connect(slot_of)

    def _connect_selection(self, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
        def picked_in(event: gr.EventData, request: gr.Request) -> Iterator[list[Any]]:
            slot = slot_of(request)
            found = picked(event._data, slot.session.recipe.task_names)
            yield from self.select(slot, self.view(slot).selection.after(found))

        def paired(shown: str, request: gr.Request) -> Iterator[list[Any]]:
            slot = slot_of(request)
            now, pair = self.view(slot).selection, self._pairs(slot).get(shown or "")
            yield from self.select(slot, Selection(pair=pair, layer=now.layer, kind=now.kind))

        def cleared(request: gr.Request) -> Iterator[list[Any]]:
            yield from self.select(slot_of(request), Selection())

        def dragged(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
            slot = slot_of(request)
            found = read_drag(event._data, CHARTS.get("mask_agreement_layers").specs)
            self.view(slot).min_tasks = found.get("min_tasks", self.view(slot).min_tasks)
            return self._figure(slot, TOPICS["masks"][0])

        def drilled(event: gr.EventData, request: gr.Request) -> Iterator[list[Any]]:
            slot = slot_of(request)
            found = picked(event._data, slot.session.recipe.task_names)
            if found.layer and found.kind:
                view = self.view(slot)
                yield from self.drill.open(slot, found.layer, found.kind, view.selection.pair, view.trim)
            else:
                yield [gr.skip()] * len(self.drill.outputs)

        def opening(name: str) -> Callable[[gr.Request], list[Any]]:
            def opened(request: gr.Request) -> list[Any]:
                slot = slot_of(request)
                self.view(slot).opened.add(name)
                return self.topic(slot, name)

            return opened

        for panel in self.panels.values():
            panel.pick(picked_in, None, self.outputs, **live)
        self.pair.input(paired, self.pair, self.outputs, **live)
        self.clear.click(cleared, None, self.outputs, **live)
        self.panels["mask-agreement"].drag(dragged, None, self._outputs(("masks",))[:1], **live)
        self.panels["sign-map"].pick(drilled, None, self.drill.outputs, **live)
        for name, tab in (("masks", self.masks_tab), ("matrices", self.matrices_tab)):
            tab.select(opening(name), None, self._outputs((name,)), **live)

    def _setter(self, slot_of: SlotOf, name: str, changed: tuple[str, ...]) -> Callable[..., list[Any]]:
        def set_and_draw(value: Any, request: gr.Request) -> list[Any]:
            slot = slot_of(request)
            setattr(self.view(slot), name, tuple(value) if isinstance(value, list) else value)
            return [drawn for topic in changed for drawn in self.topic(slot, topic)]

        return set_and_draw

    def _outputs(self, changed: tuple[str, ...]) -> list[PlotlyPanel]:
        return [self.panels[f.id] for topic in changed for f in TOPICS[topic]]

    def view(self, slot: Slot) -> View:
        """How this tab looks at its models; the selection is let go when other models are opened."""
        recipe = slot.session.recipe
        models = (recipe.base, tuple((t.name, t.checkpoint) for t in recipe.tasks), recipe.include, recipe.exclude)
        found = self._views.setdefault(slot, View())
        if found.models != models:
            found.models, found.selection = models, Selection()
            found.chosen = recipe.task_names[: topics.UPSET_MOST]
        return found

    def _pairs(self, slot: Slot) -> dict[str, tuple[str, str]]:
        names = slot.session.recipe.task_names
        return {f"{a} and {b}": (a, b) for i, a in enumerate(names) for b in names[i + 1 :]}

    def choices(self, slot: Slot) -> list[dict[str, Any]]:
        """The pairs and tasks of the open models to choose from, and the drill-down's outputs, closed."""
        names, view = list(slot.session.recipe.task_names), self.view(slot)
        pairs = gr.update(choices=[ALL_PAIRS, *self._pairs(slot)], value=self._shown_pair(slot))
        return [pairs, gr.update(choices=names, value=list(view.chosen)), *self.drill.close(slot)]

    @property
    def chosen_by_code(self) -> list[Any]:
        """The outputs of `choices`."""
        return [self.pair, self.chosen, *self.drill.outputs]

    def _shown_pair(self, slot: Slot) -> str:
        pair = self.view(slot).selection.pair
        return f"{pair[0]} and {pair[1]}" if pair else ALL_PAIRS

    def select(self, slot: Slot, selection: Selection) -> Iterator[list[Any]]:
        """Mark what is selected in every figure that is drawn."""
        self.view(slot).selection = selection
        yield self._update(slot, list(TOPICS))

    def _update(self, slot: Slot, drawn: list[str], overview: Any = None) -> list[Any]:
        figures = [
            d for t, own in TOPICS.items() for d in (self.topic(slot, t) if t in drawn else [gr.skip()] * len(own))
        ]
        told = gr.skip() if overview is None else overview
        return [gr.update(value=self._shown_pair(slot)), words.selection(self.view(slot).selection), told, *figures]

    def first_look(self, slot: Slot) -> dict[str, Any]:
        """Pairwise sign conflict for the place Models."""
        try:
            return draw("sign_conflict_pairs", self._survey(slot, topics.SIGNS, 0.2)["sign_conflict"])
        except ExplorerError as error:
            return empty(str(error))

    def everything(self, slot: Slot) -> Iterator[list[Any]]:
        """All figures but those on matrices, the quickest first; then what makes the trim density free to move."""
        view = self.view(slot)
        for topic in ("signs", "tasks", "sizes", "masks"):
            yield self._update(slot, [topic])
        yield self._update(slot, [], self._cards(slot))
        if "matrices" in view.opened:
            yield self._update(slot, ["matrices"])
        try:
            self._survey(slot, topics.SIGNS, view.trim, held=True)
        except ExplorerError:
            return  # the figures have said it

    def _cards(self, slot: Slot) -> str:
        view = self.view(slot)
        try:
            results = {**self._survey(slot, topics.SIGNS, view.trim), **self._survey(slot, topics.MASKS)}
            results |= {**self._survey(slot, topics.SHAPES), **self._survey(slot, topics.SIZES)}
        except ExplorerError as error:
            return words.note(str(error), kind="problem")
        return cards(findings(results, density=view.trim, mask_threshold=view.threshold), targets=topics.TARGETS)

    def topic(self, slot: Slot, topic: str) -> list[dict[str, Any]]:
        """Every figure of a topic, the late ones once it was opened; where numbers cannot be had it says why."""
        ready = topic in self.view(slot).opened
        return [gr.skip() if figure.late and not ready else self._figure(slot, figure) for figure in TOPICS[topic]]

    def _figure(self, slot: Slot, figure: Figure) -> dict[str, Any]:
        view, names = self.view(slot), slot.session.recipe.task_names
        metric = view.measure if figure.id == "matrix-layers" else figure.metric
        if figure.id == "sign-map" and view.selection.pair:
            metric = "sign_conflict"
        if figure.id == "mask-upset" and len(view.chosen) > topics.UPSET_MOST:
            return empty(f"Choose at most {topics.UPSET_MOST} tasks above: {len(view.chosen)} are chosen.")
        note = None
        if figure.id in ("sign-map", "sign-pairs") and view.trim < 1:
            note = f"Each task vector is trimmed to its largest {view.trim:.0%} first."
        try:
            options = {**view.selection.arguments(), **view.options(figure)}
            return draw(figure.chart, self._results(slot, metric, names)[metric], note=note, **options)
        except ExplorerError as error:
            return empty(str(error))

    def _results(self, slot: Slot, metric: str, names: tuple[str, ...]) -> dict[str, Result]:
        view = self.view(slot)
        if metric in topics.SIGNS:
            return self._survey(slot, topics.SIGNS, view.trim)
        if metric in topics.PATTERNS:
            chosen = {"chosen": {name: int(name in view.chosen) for name in names}}
            return self._survey(slot, topics.PATTERNS, parameters={metric: chosen})
        if metric in topics.SIZES:
            return self._survey(slot, topics.SIZES, parameters={metric: {"density": view.trim}})
        groups = (topics.MASKS, topics.SHAPES, topics.MATRICES)
        return self._survey(slot, next(group for group in groups if metric in group))

    def _survey(self, slot: Slot, metrics: tuple[str, ...], trim: float = 1.0, **options: Any) -> dict[str, Result]:
        return self.bench.survey(slot.session.recipe, metrics=metrics, trim_density=float(trim), **options)
