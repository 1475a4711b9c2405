"""The place Interference: where the tasks disagree, which weights they share, how far and where to they moved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.errors import Cancelled, ExplorerError
from explorer.results import Result
from explorer.workbench import Slot, Workbench
from viz.charts import Selection
from viz.overview import findings
from viz.overview_cards import cards
from viz.panels import topics, words
from viz.panels.draw import draw, empty
from viz.panels.drill import DrillDown
from viz.panels.interference_events import SlotOf, connect
from viz.panels.side_by_side import SideBySide
from viz.panels.topics import LABELS, TOPICS, Figure
from viz.panels.views import DENOMINATORS, View
from viz.panels.working import Working
from viz.parts import PlotlyPanel

ALL_PAIRS = "all tasks together"


class InterferencePlace:
    """Layout and callbacks of the place Interference."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._views: WeakKeyDictionary[Slot, View] = WeakKeyDictionary()
        self.panels: dict[str, PlotlyPanel] = {}
        self.own_tabs: dict[str, gr.Tab] = {}
        gr.Markdown(topics.INTRO, elem_classes="explorer-intro")
        with gr.Row(equal_height=False):
            self.pair = gr.Dropdown(
                [ALL_PAIRS], value=ALL_PAIRS, label="Show", info="All tasks, or one pair.", min_width=320
            )
            self.selected = gr.HTML("", elem_id="selection", apply_default_css=False, padding=False)
            self.clear = gr.Button("Clear the selection", size="sm", elem_id="clear-selection", min_width=160)
        with gr.Row(elem_id="survey-status"):
            self.status = gr.HTML("", padding=False, min_width=320)
            self.stop = gr.Button("Stop", size="sm", min_width=90, visible=False, elem_id="stop-survey")
        with gr.Tabs(elem_id="topics") as self.tabs:
            with self._tab("overview"):
                self.overview = gr.HTML(words.note("Comparing the fine-tunes …"), elem_id="overview", padding=False)
            with self._tab("signs"):
                with gr.Row(equal_height=False):
                    self.trim = gr.Slider(
                        0.01, 1.0, 0.2, step=0.01, label="Trim first to the top fraction", info=topics.TRIM_INFO
                    )
                    of, why = list(DENOMINATORS.items()), topics.DENOMINATOR_INFO
                    self.denominator = gr.Radio(of, value="all", label="Fraction of", info=why, min_width=280)
                self._row("signs")
                self.drill = DrillDown(bench)
            with self._tab("masks"):
                self._masks()
            with self._tab("tasks"):
                self._row("tasks")
            with self._tab("sizes"):
                self._row("sizes")
            with self._tab("matrices"):
                self._matrices()
            with self._tab("compare"):
                self.compare = SideBySide(self)
        every = [self.panels[f.id] for figures in TOPICS.values() for f in figures]
        self.outputs = [self.pair, self.selected, self.overview, *every]

    def _tab(self, topic: str) -> gr.Tab:
        self.own_tabs[topic] = gr.Tab(LABELS[topic], id=topic)
        return self.own_tabs[topic]

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
        connect(self, slot_of, live)
        self.drill.connect(slot_of)
        self.compare.connect(slot_of, live)

    def outputs_of(self, changed: tuple[str, ...]) -> list[PlotlyPanel]:
        """The panels of some topics."""
        return [self.panels[f.id] for topic in changed for f in TOPICS[topic]]

    def leave(self, slot: Slot) -> None:
        """The tab was closed: nobody waits for its surveys."""
        self.view(slot).working.stop()

    def view(self, slot: Slot) -> View:
        """How this tab looks at its models; the selection is let go when other models are opened."""
        recipe = slot.session.recipe
        models = (recipe.base, tuple((t.name, t.checkpoint) for t in recipe.tasks), recipe.include, recipe.exclude)
        found = self._views.setdefault(slot, View())
        if found.models != models:
            found.working.stop()  # nobody waits for the models before
            found.working = Working()
            found.models, found.selection = models, Selection()
            found.chosen = recipe.task_names[: topics.UPSET_MOST]
        return found

    def pairs(self, slot: Slot) -> dict[str, tuple[str, str]]:
        """The pairs of this tab's tasks by the words for them."""
        names = slot.session.recipe.task_names
        return {f"{a} and {b}": (a, b) for i, a in enumerate(names) for b in names[i + 1 :]}

    def choices(self, slot: Slot) -> list[dict[str, Any]]:
        """What the controls show for this tab: its models' pairs and tasks, its settings, and nothing drilled into."""
        names, view = list(slot.session.recipe.task_names), self.view(slot)
        pairs = gr.update(choices=[ALL_PAIRS, *self.pairs(slot)], value=self._shown_pair(slot))
        chosen = gr.update(choices=names, value=list(view.chosen))
        values = (view.trim, view.denominator, view.threshold, view.by, view.order, view.measure)
        settings = [*[gr.update(value=v) for v in values], gr.update(selected=view.topic)]
        if not view.jump:  # what a person has just opened or moved stays
            settings = [gr.skip()] * len(settings)
        view.jump = False
        return [pairs, chosen, *settings, *self.drill.close(slot)]

    @property
    def chosen_by_code(self) -> list[Any]:
        """The outputs of `choices`."""
        settings = [self.trim, self.denominator, self.threshold, self.by, self.order, self.measure]
        return [self.pair, self.chosen, *settings, self.tabs, *self.drill.outputs]

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
        view = self.view(slot)
        if view.drawn.get("first look") == view.models:
            return gr.skip()
        try:
            found = self._survey(slot, view, topics.SIGNS, 0.2, denominator="all")
            view.drawn["first look"] = view.models
            return draw("sign_conflict_pairs", found["sign_conflict"])
        except ExplorerError as error:
            return empty(str(error))

    def everything(self, slot: Slot, *, again: bool = True) -> Iterator[list[Any]]:
        """The topics that were looked at, the quickest first; then what makes the trim density free to move.

        Unless `again`, only what is not drawn for these models.
        """
        view = self.view(slot)
        if again:
            view.drawn.clear()
        for topic in ("signs", "tasks", "sizes", "masks", "overview", "matrices"):
            if topic in view.opened:
                yield self.look(slot, topic)
        self.hold(slot)
        yield [gr.skip()] * len(self.outputs)

    def hold(self, slot: Slot) -> None:
        """What makes the trim density free to move, once signs were looked at."""
        view = self.view(slot)
        if "signs" in view.opened:
            with contextlib.suppress(ExplorerError):  # the figures have said it
                self._survey(slot, view, topics.SIGNS, view.trim, held=True)

    def look(self, slot: Slot, topic: str) -> list[Any]:
        """A topic is looked at: it is drawn from now on, and now, unless it is already for these models."""
        view = self.view(slot)
        view.opened.add(topic)
        if view.drawn.get(topic) == view.models:
            return [gr.skip()] * len(self.outputs)
        view.drawn[topic] = view.models
        return self._update(slot, [topic], self._cards(slot) if topic == "overview" else None)

    def _cards(self, slot: Slot) -> str:
        view = self.view(slot)
        try:
            results = {**self._survey(slot, view, topics.SIGNS, view.trim), **self._survey(slot, view, topics.MASKS)}
            results |= {**self._survey(slot, view, topics.SHAPES), **self._survey(slot, view, topics.SIZES)}
        except ExplorerError as error:
            return words.note(str(error), kind="problem")
        return cards(findings(results, density=view.trim, mask_threshold=view.threshold), targets=topics.TARGETS)

    def topic(self, slot: Slot, topic: str) -> list[dict[str, Any]]:
        """Every figure of a topic once it was looked at; where numbers cannot be had it says why."""
        ready = topic in self.view(slot).opened
        return [self.figure(slot, figure) if ready else gr.skip() for figure in TOPICS[topic]]

    def figure(self, slot: Slot, figure: Figure) -> dict[str, Any]:
        """One figure as the tab looks at it, or a sentence instead."""
        view = self.view(slot)
        if figure.id == "mask-upset" and len(view.chosen) > topics.UPSET_MOST:
            return empty(f"Choose at most {topics.UPSET_MOST} tasks above: {len(view.chosen)} are chosen.")
        try:
            return draw(figure.chart, self.result(slot, figure, view), **self.drawing(view, figure))
        except Cancelled:
            return empty("Stopped before these numbers were complete. Go on with the button above the topics.")
        except ExplorerError as error:
            return empty(str(error))

    def drawing(self, view: View, figure: Figure) -> dict[str, Any]:
        """What a figure is drawn with under a view: its options, what is selected, and a note on trimming."""
        note = None
        if figure.id in ("sign-map", "sign-pairs") and view.trim < 1:
            of = "" if view.denominator == "all" else ", counted among the weights that any task changed,"
            note = f"Each task vector is trimmed to its largest {view.trim:.0%}{of} first."
        return {"note": note, **view.selection.arguments(), **topics.options(view, figure)}

    def result(self, slot: Slot, figure: Figure, view: View) -> Result:
        """The numbers behind a figure under a view. Raises ExplorerError, Cancelled when the tab's surveys stop."""
        metric = view.measure if figure.id == "matrix-layers" else figure.metric
        if figure.id == "sign-map" and view.selection.pair:
            metric = "sign_conflict"
        if metric in topics.SIGNS:
            return self._survey(slot, view, topics.SIGNS, view.trim)[metric]
        if metric in topics.PATTERNS:
            chosen = {"chosen": {name: int(name in view.chosen) for name in slot.session.recipe.task_names}}
            return self._survey(slot, view, topics.PATTERNS, parameters={metric: chosen})[metric]
        if metric in topics.SIZES:
            return self._survey(slot, view, topics.SIZES, parameters={metric: {"density": view.trim}})[metric]
        groups = (topics.MASKS, topics.SHAPES, topics.MATRICES)
        return self._survey(slot, view, next(group for group in groups if metric in group))[metric]

    def _survey(
        self, slot: Slot, view: View, metrics: tuple[str, ...], trim: float = 1.0, **options: Any
    ) -> dict[str, Result]:
        options = {"denominator": view.denominator, **options}
        working, recipe = self.view(slot).working, slot.session.recipe
        with working.job() as progress:
            options = {**options, "cancel": working.token, "progress": progress}
            return self.bench.survey(recipe, metrics=metrics, trim_density=float(trim), **options)
