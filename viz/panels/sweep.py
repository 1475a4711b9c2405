"""Sweeps: the scores of many settings, filling in while one works on; a click takes one of them over.

place = SweepPlace(bench)                                # its layout, where it is created
events = place.connect(slot_of, live, on_set, outputs)   # on_set(slot, recipe) gives the updates of `outputs`
place.show(slot)                                         # updates of place.chosen_by_code: other models or method
place.follow(slot)                                       # update of place.panel: the setting was changed elsewhere
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.errors import Cancelled, ExplorerError
from explorer.executor import CancelToken
from explorer.recipe import Recipe
from explorer.sweep_plans import Sweep
from explorer.sweeps import Sweeps, SweepUpdate, Swept
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.draw import colours_of, draw, empty
from viz.panels.sweep_controls import SweepControls, plan
from viz.parts import PlotlyPanel
from viz.style import count, seconds_text

SlotOf = Callable[[gr.Request], Slot]
WAITING = "Choose what to vary and press Start. Points come in coarse to fine; you can go on merging meanwhile."
_MEASURES = (
    ("mean score", "mean"),
    ("mean, % of the experts", "normalized"),
    ("worst task, % of its expert", "worst"),
)
_TASK = "task "
_INTRO = (
    "### Sweep\nScores many settings in the background, all on the same held-out examples. Live answers go first: a "
    "sweep uses the device only while nobody moves anything."
)


@dataclass
class _Tab:
    """What one tab sweeps: the axes it chose, the sweep that is shown and how, and the run that is under way."""

    first: str | None = None
    second: str | None = None
    swept: Swept | None = None
    measure: str = "mean"
    running: CancelToken | None = None


class SweepPlace:
    """Layout and callbacks of the sweeps."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.sweeps = bench, Sweeps(bench)
        self._tabs: WeakKeyDictionary[Slot, _Tab] = WeakKeyDictionary()
        gr.Markdown(_INTRO, elem_id="sweep")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=330):
                self.controls = SweepControls(bench.start)
                self.measure = gr.Dropdown(
                    self._measures(bench.start), value="mean", label="Compare", elem_id="sweep-measure"
                )
                with gr.Row():
                    self.start = gr.Button("Start", variant="primary", min_width=120, elem_id="sweep-start")
                    self.stop = gr.Button("Stop", interactive=False, min_width=120, elem_id="sweep-stop")
                self.progress = gr.HTML("", padding=False, elem_id="sweep-progress")
            with gr.Column(scale=3, min_width=330):
                self.panel = PlotlyPanel(empty(WAITING), elem_id="sweep-figure")
        self.outputs = [self.progress, self.panel, self.start, self.stop]
        self.chosen_by_code = [*self.controls.of_recipe, self.measure, self.progress, self.panel]

    def _measures(self, recipe: Recipe) -> list[tuple[str, str]]:
        return [*_MEASURES, *((f"score of {t}", _TASK + t) for t in recipe.task_names)]

    def connect(
        self, slot_of: SlotOf, live: Mapping[str, Any], on_set: Callable[[Slot, Recipe], list[Any]], outputs: list[Any]
    ) -> list[Any]:
        """Bind the part's own events. Gives the events after which the session's recipe may be another one.

        `on_set(slot, recipe)` makes a swept setting the session's and returns the updates of `outputs`.
        """

        def run(
            kind: Any, axis: Any, low: Any, high: Any, points: Any, axis_2: Any, low_2: Any, high_2: Any,
            points_2: Any, tasks: Any, total: Any, steps: Any, examples: Any, request: gr.Request,
        ) -> Iterator[list[Any]]:  # fmt: skip
            first, second = (axis, low, high, points), (axis_2, low_2, high_2, points_2)
            yield from self.run(slot_of(request), kind, first, second, tasks, total, steps, examples)

        def stop(request: gr.Request) -> None:
            slot_of(request).background.cancel()

        def switch(kind: Any, request: gr.Request) -> list[Any]:
            slot = slot_of(request)
            return self.controls.switch(slot.session.recipe, str(kind), self.tab(slot).first)

        def compare(measure: Any, request: gr.Request) -> Any:
            self.tab(slot_of(request)).measure = str(measure)
            return self.figure(slot_of(request))

        def choose(event: gr.EventData, request: gr.Request) -> Any:
            slot = slot_of(request)
            recipe = self.recipe_at(slot, event._data)
            updates = [gr.skip()] * len(outputs) if recipe is None else on_set(slot, recipe)
            return updates if len(outputs) > 1 else updates[0]

        def follow(request: gr.Request) -> Any:
            return self.follow(slot_of(request))

        controls = self.controls
        self.start.click(run, controls.asked, self.outputs, **live)
        self.stop.click(stop, None, None, **live)
        controls.kind.input(switch, controls.kind, controls.of_kind, **live)
        for which, parts in (("first", controls.first), ("second", controls.second)):
            parts[0].input(self._axis_setter(slot_of, which), parts[0], parts[1:3], **live)
        self.measure.input(compare, self.measure, self.panel, **live)
        events = [self.panel.pick(choose, None, outputs, **live), self.panel.drag(choose, None, outputs, **live)]
        for event in events:
            event.then(follow, None, self.panel, **live)
        return events

    def _axis_setter(self, slot_of: SlotOf, which: str) -> Callable[..., list[Any]]:
        def chosen(name: Any, request: gr.Request) -> list[Any]:
            slot = slot_of(request)
            setattr(self.tab(slot), which, str(name))
            return self.controls.ends(slot.session.recipe, str(name))

        return chosen

    def tab(self, slot: Slot) -> _Tab:
        """What this tab sweeps."""
        return self._tabs.setdefault(slot, _Tab())

    def show(self, slot: Slot) -> list[Any]:
        """The controls for the session's models and method; a sweep of other models is stopped and let go."""
        tab, recipe = self.tab(slot), slot.session.recipe
        gone = tab.swept is not None and not tab.swept.sweep.of_models(recipe)
        measures = self._measures(recipe)
        if tab.measure not in [name for _, name in measures]:
            tab.measure = "mean"
        if gone:
            slot.background.cancel()
            tab.swept = tab.running = None
        kept = ["", empty(WAITING)] if gone else [gr.skip(), self.figure(slot)]
        shown = self.controls.show(recipe, tab.first, tab.second)
        return [*shown, gr.update(choices=measures, value=tab.measure), *kept]

    def run(self, slot: Slot, *asked: Any) -> Iterator[list[Any]]:
        """Sweep as the controls say, from where an equal sweep was stopped; the updates of `outputs`."""
        tab = self.tab(slot)
        try:
            sweep = plan(slot.session.recipe, *asked)
        except ExplorerError as error:
            yield [words.note(str(error), kind="problem"), gr.skip(), gr.skip(), gr.skip()]
            return
        tab.swept = swept = self._known(tab, sweep)
        tab.running = token = slot.newest_in_background()
        waiting = "Scoring the experts on the same examples …" if not swept.rows else "Going on …"
        drawn = self.figure(slot) if swept.rows else empty("Scoring the first points …")
        yield [words.note(waiting), drawn, gr.skip(), gr.update(interactive=True)]
        try:
            for update in self.sweeps.run(swept, token):
                drawn = self.figure(slot) if swept.rows else gr.skip()
                yield [_progress(update), drawn, gr.skip(), gr.update(interactive=not update.finished)]
            told = words.note(f"All {count(len(swept.rows))} points are scored.", kind="done")
        except Cancelled:
            done, whole = count(len(swept.rows)), count(len(sweep.cells))
            told = words.note(f"Stopped with {done} of {whole} points scored. Start goes on from there.")
        except ExplorerError as error:
            told = words.note(str(error), kind="problem")
        # What came after this run shows itself.
        mine = tab.running is token
        yield [told, self.figure(slot), gr.skip(), gr.update(interactive=False)] if mine else [gr.skip()] * 4

    @staticmethod
    def _known(tab: _Tab, sweep: Sweep) -> Swept:
        """What this tab knows of an equal sweep, else a new one; the store holds single points all the same."""
        return tab.swept if tab.swept and tab.swept.sweep.continues(sweep) else Swept(sweep)

    def figure(self, slot: Slot) -> dict[str, Any]:
        """The sweep so far, with the session's setting as the cursor."""
        tab, recipe = self.tab(slot), slot.session.recipe
        swept = tab.swept
        if swept is None or not swept.rows:
            return empty(WAITING)
        result, place = swept.result(), swept.sweep.place_of(recipe)
        task = tab.measure.removeprefix(_TASK) if tab.measure.startswith(_TASK) else None
        if task is not None and task not in result.tasks:
            return empty(f"{task} has no held-out examples, so its score is not known.")
        view: dict[str, Any] = {"task": task} if task else {"measure": tab.measure}
        note = None if swept.sweep.explores(recipe) else (
            "The setting shown now differs from this sweep in more than what was swept, or has no place on it: a click "
            "brings back the other settings that the sweep was started with."
        )  # fmt: skip
        colours = colours_of(recipe.task_names)
        return draw(result.kind, result, note=note, colours=colours, current=place, **view)

    def follow(self, slot: Slot) -> Any:
        """The figure with its cursor on the session's setting; nothing new while no sweep is shown."""
        swept = self.tab(slot).swept
        return self.figure(slot) if swept and swept.rows else gr.skip()

    def recipe_at(self, slot: Slot, payload: object) -> Recipe | None:
        """The recipe of the point that was clicked or that the cursor was put on; None for anything else.

        `payload` is what the browser sent, and is trusted in nothing.
        """
        swept = self.tab(slot).swept
        cell = _cell(payload)
        if swept is None or cell is None or cell not in swept.sweep.reach:
            return None
        return swept.sweep.recipe_at(cell)


def _cell(payload: object) -> tuple[int, ...] | None:
    """The cell that an event `pick` or `drag` names, if it names one."""
    if not isinstance(payload, Mapping):
        return None
    named = payload.get("value") if payload.get("argument") == "cell" else None
    points = payload.get("points")
    for point in points if isinstance(points, list) else ():
        mark = point.get("customdata") if isinstance(point, Mapping) else None
        named = mark.get("cell") if named is None and isinstance(mark, Mapping) else named
    if not isinstance(named, list) or not all(type(n) is int for n in named):
        return None
    return tuple(named)


def _progress(update: SweepUpdate) -> str:
    """How far a sweep is: a bar, points, examples, and the time to go."""
    done, total = update.progress.done, update.progress.total
    known = update.result.provenance.get("examples", {})
    to_go = "" if update.eta_seconds is None else f" · about {seconds_text(update.eta_seconds)} to go"
    text = f"{count(done)} of {count(total)} points · {count(sum(known.values()))} examples each{to_go}"
    look = "width:100%;accent-color:var(--color-accent)"
    bar = f'<progress value="{done}" max="{total}" aria-label="Points scored" style="{look}"></progress>'
    return f'<div class="explorer-note">{bar}<div>{words.escape(text)}</div></div>'
