"""The events of the place Interference: which control, click or tab leads to which figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from explorer.workbench import Slot
from viz.charts import CHARTS, Selection, picked
from viz.panels import words
from viz.panels.topics import TOPICS
from viz.parts import read_drag

if TYPE_CHECKING:
    from viz.panels.interference import InterferencePlace

SlotOf = Callable[[gr.Request], Slot]


def connect(place: InterferencePlace, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
    """Bind the place's own events; `live` are the options of events that answer while something moves."""
    # Arrow keys send no release. A new trim may take a whole pass: of many moves only the last one waits its turn.
    latest = {**live, "trigger_mode": "always_last"}
    sets: list[tuple[Any, str, tuple[str, ...], Mapping[str, Any]]] = [
        (place.trim, "trim", ("signs", "sizes"), latest),
        (place.denominator, "denominator", ("signs", "masks", "sizes"), latest),
        (place.threshold, "threshold", ("masks",), live),
        (place.by, "by", ("masks",), live),
        (place.chosen, "chosen", ("masks",), latest),
        (place.order, "order", ("masks",), live),
        (place.measure, "measure", ("matrices",), live),
    ]
    for part, name, changed, options in sets:
        events = [part.input, part.release] if isinstance(part, gr.Slider) else [part.input]
        gr.on(events, _setter(place, slot_of, name, changed), part, place.outputs_of(changed), **options)
        if options is latest:
            gr.on(events, watcher(place, slot_of), None, [place.status, place.stop], **live)
    _connect_selection(place, slot_of, live)
    _connect_topics(place, slot_of, live)


def _connect_selection(place: InterferencePlace, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
    def picked_in(event: gr.EventData, request: gr.Request) -> Iterator[list[Any]]:
        slot = slot_of(request)
        found = picked(event._data, slot.session.recipe.task_names)
        yield from place.select(slot, place.view(slot).selection.after(found))

    def paired(shown: str, request: gr.Request) -> Iterator[list[Any]]:
        slot = slot_of(request)
        now, pair = place.view(slot).selection, place.pairs(slot).get(shown or "")
        yield from place.select(slot, Selection(pair=pair, layer=now.layer, kind=now.kind))

    def cleared(request: gr.Request) -> Iterator[list[Any]]:
        yield from place.select(slot_of(request), Selection())

    def dragged(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        slot = slot_of(request)
        found = read_drag(event._data, CHARTS.get("mask_agreement_layers").specs)
        place.view(slot).min_tasks = found.get("min_tasks", place.view(slot).min_tasks)
        return place.figure(slot, TOPICS["masks"][0])

    def drilled(event: gr.EventData, request: gr.Request) -> Iterator[list[Any]]:
        slot = slot_of(request)
        found = picked(event._data, slot.session.recipe.task_names)
        if found.layer and found.kind:
            view = place.view(slot)
            yield from place.drill.open(slot, found.layer, found.kind, view.selection.pair, view.trim)
        else:
            yield [gr.skip()] * len(place.drill.outputs)

    for panel in place.panels.values():
        panel.pick(picked_in, None, place.outputs, **live)
    place.pair.input(paired, place.pair, place.outputs, **live)
    place.clear.click(cleared, None, place.outputs, **live)
    place.panels["mask-agreement"].drag(dragged, None, place.outputs_of(("masks",))[:1], **live)
    place.panels["sign-map"].pick(drilled, None, place.drill.outputs, **live)


def _connect_topics(place: InterferencePlace, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
    def opening(name: str) -> Callable[[gr.Request], list[Any]]:
        def opened(request: gr.Request) -> list[Any]:
            slot = slot_of(request)
            place.view(slot).topic = name
            place.view(slot).working.go_on()
            return place.look(slot, name)

        return opened

    def held(request: gr.Request) -> None:
        place.hold(slot_of(request))

    for name, tab in place.own_tabs.items():
        drawn = tab.select(opening(name), None, place.outputs, **live)
        if name == "signs":
            drawn.then(held, None, None, **live)
        tab.select(watcher(place, slot_of), None, [place.status, place.stop], **live)
    stopped = place.stop.click(_stop_or_go_on(place, slot_of), None, place.outputs, **live)
    place.stop.click(watcher(place, slot_of), None, [place.status, place.stop], **live)
    stopped.then(place.compare.updates(slot_of), None, place.compare.outputs, **live)


def _stop_or_go_on(place: InterferencePlace, slot_of: SlotOf) -> Callable[[gr.Request], Iterator[list[Any]]]:
    def pressed(request: gr.Request) -> Iterator[list[Any]]:
        slot = slot_of(request)
        working = place.view(slot).working
        if working.stopped:
            working.go_on()
            yield from place.everything(slot)
        else:
            working.stop()
            yield [gr.skip()] * len(place.outputs)

    return pressed


def watcher(place: InterferencePlace, slot_of: SlotOf) -> Callable[[gr.Request], Iterator[list[Any]]]:
    """A callback that says how far the surveys of a tab are while they run, and offers to stop them."""

    def watched(request: gr.Request) -> Iterator[list[Any]]:
        working = place.view(slot_of(request)).working
        for text in working.watch():
            said = "Stopped. What was finished is kept." if working.stopped else text
            button = gr.update(visible=bool(said), value="Go on" if working.stopped else "Stop")
            yield [words.note(said), button]

    return watched


def _setter(
    place: InterferencePlace, slot_of: SlotOf, name: str, changed: tuple[str, ...]
) -> Callable[..., Iterator[list[Any]]]:
    """A callback that keeps a control's value and draws what follows from it, one figure after the other.

    So the figure beside the control answers first, and a newer value need not wait until all figures of this one are
    drawn.
    """
    drawn = [(topic, figure) for topic in changed for figure in TOPICS[topic]]

    def set_and_draw(value: Any, request: gr.Request) -> Iterator[list[Any]]:
        slot = slot_of(request)
        view = place.view(slot)
        view.working.go_on()
        wanted = tuple(value) if isinstance(value, list) else value
        setattr(view, name, wanted)
        ready = [index for index, (topic, _) in enumerate(drawn) if topic in view.opened]
        for index in ready:
            if getattr(view, name) == wanted:
                updates = [gr.skip()] * len(drawn)
                updates[index] = place.figure(slot, drawn[index][1])
                yield updates
        if not ready:
            yield [gr.skip()] * len(drawn)

    return set_and_draw
