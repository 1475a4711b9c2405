"""What every move of a control of the place Merge leads to: an explanation, scores, the history, the sweep's cursor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from explorer.errors import Cancelled, ExplorerError
from explorer.noting import models_key
from explorer.recipe import Recipe
from explorer.session import change
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.answers import AnswersPlace
from viz.panels.export import ExportPlace
from viz.panels.history import HistoryPlace
from viz.panels.merge import MergePlace
from viz.panels.prompting import PromptPlace
from viz.panels.sweep import SweepPlace
from viz.panels.topbar import TopBar
from viz.panels.why import WhyPlace

SlotOf = Callable[[gr.Request], Slot]


@dataclass(frozen=True)
class LiveEvents:
    """The live parts of the place Merge and the callbacks of its controls.

    `outputs` are the scores, undo and redo, the recipe's texts, plan and rounding of the export, and the explanation.
    """

    bench: Workbench
    bar: TopBar
    merge: MergePlace
    export: ExportPlace
    why: WhyPlace
    history: HistoryPlace
    sweep: SweepPlace
    answers: AnswersPlace
    asking: PromptPlace
    slot_of: SlotOf
    live: Mapping[str, Any]

    @property
    def outputs(self) -> list[Any]:
        """What `updates` gives values for."""
        steps = [self.bar.undo, self.bar.redo]
        return [*self.merge.outputs, *steps, *self.export.outputs, *self.why.outputs]

    def connect(self) -> None:
        """Bind the controls of the place Merge."""
        place, export, live = self.merge, self.export, self.live
        gr.on([place.mixer.input, place.controls.input], self.dragged, place.settings, self.outputs, **live)
        gr.on(place.add_ons.input, self.adding, place.add_ons, self.outputs, **live)
        controls = [place.mixer.release, place.controls.release]
        self.follow(gr.on(controls, self.released, place.settings, self.outputs, **live))
        self.follow(gr.on(place.add_ons.release, self.added, place.add_ons, self.outputs, **live))
        shown = [*place.settings, place.about, place.add_ons, *self.sweep.chosen_by_code]
        switched = place.method.input(self.switch, [place.method, place.mixer], shown, **live)
        stored = export.dtype.input(self.set_dtype, export.dtype, None, **live)
        for event in (switched, stored):
            self.follow(event.then(self.rescore_kept, None, self.outputs, **live))
        export.connect(self.slot_of, live)
        self.why.connect(self.slot_of, live)
        self.answers.connect(self.slot_of, live)
        self.asking.connect(self.slot_of, live)

    def connect_tabs(self, why: gr.Tab, history: gr.Tab, sweep: gr.Tab, answers: gr.Tab, ask: gr.Tab) -> None:
        """What lies behind another tab is drawn once it is opened, and not before."""

        def turned(shown: bool) -> Callable[[gr.Request], list[Any]]:
            def opened(request: gr.Request) -> list[Any]:
                return self.why.turn(self.slot_of(request), shown=shown)

            return opened

        def looked_at(request: gr.Request) -> Iterator[list[Any]]:
            yield from self.history.open(self.slot_of(request))

        def answered(request: gr.Request) -> list[Any]:
            return self.answers.open(self.slot_of(request))

        def writers(request: gr.Request) -> list[Any]:
            return self.asking.show(self.slot_of(request))

        for tab in (why, history, sweep, answers, ask):
            tab.select(turned(tab is why), None, self.why.outputs, **self.live)
        history.select(looked_at, None, self.history.outputs, **self.live)
        answers.select(answered, None, self.answers.outputs, **self.live)
        ask.select(writers, None, self.asking.outputs, **self.live)

    def follow(self, event: Any) -> None:
        """After an event that scored a setting: the history and the cursor of the sweep."""

        def cursor(request: gr.Request) -> Any:
            return self.sweep.follow(self.slot_of(request))

        self.history.after(event)

        def answers(request: gr.Request) -> Iterator[list[Any]]:
            yield from self.answers.follow(self.slot_of(request))

        def written_before(request: gr.Request) -> list[Any]:
            return self.asking.after_move(self.slot_of(request))

        event.then(cursor, None, self.sweep.panel, **self.live)
        event.then(answers, None, self.answers.outputs, **self.live)
        event.then(written_before, None, self.asking.outputs, **self.live)

    # Callbacks. The first arguments come from the page; `request` says which tab it is.

    def dragged(self, mixer: Any, controls: Any, method: str, request: gr.Request) -> Iterator[list[Any]]:
        """A control is being moved."""
        slot = self.slot_of(request)
        yield from self._answer(slot, lambda: self.merge.moved(slot, mixer, controls, method, keep=False), keep=False)

    def released(self, mixer: Any, controls: Any, method: str, request: gr.Request) -> Iterator[list[Any]]:
        """A control was let go: a step of undo and of the trail."""
        slot = self.slot_of(request)
        yield from self._answer(slot, lambda: self.merge.moved(slot, mixer, controls, method, keep=True), keep=True)

    def adding(self, add_ons: Any, request: gr.Request) -> Iterator[list[Any]]:
        """A setting of an add-on is being moved."""
        slot = self.slot_of(request)
        yield from self._answer(slot, lambda: self.merge.added(slot, add_ons, keep=False), keep=False)

    def added(self, add_ons: Any, request: gr.Request) -> Iterator[list[Any]]:
        """An add-on was switched or its setting let go."""
        slot = self.slot_of(request)
        yield from self._answer(slot, lambda: self.merge.added(slot, add_ons, keep=True), keep=True)

    def switch(self, method: str, mixer: Any, request: gr.Request) -> list[Any]:
        """Another method."""
        slot = self.slot_of(request)
        return [*self.merge.switch(slot, method, mixer), *self.sweep.show(slot)]

    def set_dtype(self, shown: str, request: gr.Request) -> None:
        """The dtype of the export, which is also what is scored."""
        slot = self.slot_of(request)
        slot.session = change(slot.session, replace(slot.session.recipe, dtype=self.export.dtype_of(shown)))

    def rescore(self, request: gr.Request) -> Iterator[list[Any]]:
        """Scores of the session's recipe; part of the trail only when the trail is empty."""
        slot = self.slot_of(request)
        yield from self.updates(slot, slot.session.recipe, keep=not slot.session.trail)

    def rescore_kept(self, request: gr.Request) -> Iterator[list[Any]]:
        """Scores of the session's recipe as a step of the trail."""
        slot = self.slot_of(request)
        yield from self.updates(slot, slot.session.recipe, keep=True)

    def _answer(self, slot: Slot, read: Callable[[], Recipe | None], *, keep: bool) -> Iterator[list[Any]]:
        """Updates for what a control says; the problem where it says something impossible."""
        try:
            recipe = read()
        except ExplorerError as error:
            problem = [gr.skip(), words.note(str(error), kind="problem"), {"stale": True}, gr.skip()]
            yield self._all(slot, merge=problem)
            return
        if recipe is not None:
            yield from self.updates(slot, recipe, keep=keep)
        else:
            yield [gr.skip()] * len(self.outputs)

    def updates(self, slot: Slot, recipe: Recipe, *, keep: bool) -> Iterator[list[Any]]:
        """What changed and why, then scores as they come in, until a newer request takes over."""
        token = slot.newest()
        stale = [gr.skip(), gr.skip(), {"stale": True}, gr.skip()]
        yield self._all(slot, merge=stale, why=self.why.waiting())
        try:
            told, seconds = self.why.after_merge(slot, recipe, token, self._pinned(slot, recipe))
        except Cancelled:
            yield [gr.skip()] * len(self.outputs)
            return
        yield self._all(slot, why=told)
        if keep:  # while a control moves, nothing that goes out changes
            self.export.look(slot)
        for values, update in self.merge.scored(slot, recipe, token, keep=keep, merge_seconds=seconds):
            yield self._all(slot, merge=values, why=self.why.scored(slot, update) if update else None)
        yield self._all(slot, rounding=self.export.left(slot))

    def _pinned(self, slot: Slot, recipe: Recipe) -> Recipe | None:
        """The setting A of these models, if one is pinned."""
        try:
            pinned = slot.session.history.pinned(models_key(self.bench, recipe))
        except ExplorerError:  # the scores say what is wrong
            return None
        return pinned.recipe if pinned else None

    def _all(
        self, slot: Slot, merge: list[Any] | None = None, why: list[Any] | None = None, rounding: Any = ""
    ) -> list[Any]:
        """The updates of `outputs`; what is not given stays."""
        shown = [*self.bar.history(slot), *self.export.shown(slot, rounding)]
        return [*(merge or [gr.skip()] * 4), *shown, *(why or [gr.skip()] * len(self.why.outputs))]
