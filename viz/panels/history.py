"""Below the export: every setting that was tried, as table and figure, and the shown one against a pinned one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.comparing import Comparison, compare, score_aside, stop_aside
from explorer.errors import Cancelled, ExplorerError
from explorer.history import Setting, joined
from explorer.history_words import setting_label, settings_result
from explorer.kept_history import from_json, kept_form
from explorer.noting import models_key
from explorer.session import Session, restore
from explorer.streaming import LiveUpdate
from explorer.workbench import Slot, Workbench
from viz.panels import words
from viz.panels.draw import draw, empty
from viz.panels.history_rows import done, picked_move, row_of
from viz.panels.settings import turn_of
from viz.parts import HistoryKeeper, HistoryTable, PlotlyPanel, history_rows, read_act, read_kept
from viz.style import count, seconds_text

SlotOf = Callable[[gr.Request], Slot]
INTRO = (
    "### History\nEvery setting that was scored with these models. It is kept in this browser, so a reload loses "
    "nothing. Beyond 200 settings the oldest go, but never one that is starred or pinned."
)
NOTHING_YET = "Move a slider: each setting that is scored is kept here."
NO_PIN = "Pin a setting as A in the table: the setting shown now is then compared with it, example by example."
IS_A = "The setting shown now is A itself. Change something, and the difference appears here."
NOT_SCORED = "The setting shown now has no scores yet."
AGAIN = "A is being scored again, because its answers were let go"


@dataclass
class _View:
    """How one tab looks at its history: what is picked, the ids in the order of the figure, the last comparison."""

    picked: str = ""
    min_effect: float = 0.005
    order: tuple[str, ...] = field(default_factory=tuple)
    found: Comparison | None = None
    opened: bool = False


@dataclass(frozen=True)
class _Now:
    """What a tab has at one moment: its session, which models these are, and the pinned setting."""

    session: Session
    models: str
    pinned: Setting | None

    @property
    def id(self) -> str:
        """The id that the shown setting has in the history."""
        return Setting(self.session.recipe, self.models, 0.0).id


class HistoryPlace:
    """Layout and callbacks of the history and of the comparison of two settings.

    `keeper` is made by the page outside of its tabs; see `HistoryKeeper`. Every callback gives `outputs`.
    """

    def __init__(self, bench: Workbench, keeper: HistoryKeeper) -> None:
        self.bench, self.keeper = bench, keeper
        self._views: WeakKeyDictionary[Slot, _View] = WeakKeyDictionary()
        gr.Markdown(INTRO, elem_id="history")
        self.note = gr.HTML(padding=False, elem_id="history-note")
        self.table = HistoryTable(history_rows([], [], picked="", empty=NOTHING_YET), elem_id="history-table")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.parallel = PlotlyPanel(empty(NOTHING_YET), elem_id="settings-parallel")
            with gr.Column(scale=2, min_width=320):
                self.state = gr.HTML(padding=False, elem_id="ab-state")
                self.difference = PlotlyPanel(empty(NO_PIN), elem_id="ab-difference")
                self.min_effect = gr.Slider(
                    0, 5, 0.5, step=0.1, label="Smallest difference worth naming (points)", elem_id="min-effect"
                )
        self.outputs = [self.keeper, self.note, self.table, self.parallel, self.state, self.difference]

    def connect(self, slot_of: SlotOf, live: Mapping[str, Any], on_restore: Callable[[Any], None]) -> None:
        """Bind the place's own events. `on_restore` gets the event after which the session has another recipe."""
        self._slot_of, self._live = slot_of, live

        def held(event: gr.EventData, request: gr.Request) -> Iterator[list[Any]]:
            yield from self.join(slot_of(request), read_kept(event._data))

        def acted(event: gr.EventData, request: gr.Request) -> Iterator[list[Any]]:
            yield from self.act(slot_of(request), event._data)

        def restored(event: gr.EventData, request: gr.Request) -> list[Any]:
            return self.bring_back(slot_of(request), event._data)

        def picked_in(event: gr.EventData, request: gr.Request) -> list[Any]:
            return self.pick(slot_of(request), event._data)

        def least(points: float, request: gr.Request) -> list[Any]:
            return self.set_min_effect(slot_of(request), points)

        self.keeper.kept(held, None, self.outputs, **live)
        self.table.act(acted, None, self.outputs, **live)
        on_restore(self.table.restore(restored, None, self.outputs, **live))
        self.parallel.pick(picked_in, None, self.outputs, **live)
        gr.on([self.min_effect.input, self.min_effect.release], least, self.min_effect, self.outputs, **live)

    def after(self, event: Any) -> Any:
        """Bind what follows an event that scored the session's recipe; call `connect` before."""

        def following(request: gr.Request) -> Iterator[list[Any]]:
            yield from self.follow(self._slot_of(request))

        return event.then(following, None, self.outputs, **self._live)

    # What is shown.

    def open(self, slot: Slot) -> Iterator[list[Any]]:
        """The history is looked at: from now on it is drawn."""
        self._view(slot).opened = True
        yield from self.follow(slot)

    def follow(self, slot: Slot) -> Iterator[list[Any]]:
        """Everything as it is now; then, where A's answers are no longer held, A's scores as they come in again."""
        yield self.show(slot)
        yield from self._catch_up(slot)

    def show(self, slot: Slot, note: str = "") -> list[Any]:
        """Every output for what the slot's session holds; the keeper's value is what the browser keeps of it."""
        view = self._view(slot)
        try:
            now = self._now(slot)
            if not view.opened:
                return self._only(keeper=kept_form(now.session.history, now.models), note=note)
            view.found = self._compared(now)
        except ExplorerError:  # the place of the models says it
            return self._only(note=note)
        tasks, own = now.session.recipe.task_names, now.session.history.of(now.models)
        view.order = tuple(s.id for s in own)
        current = view.order.index(view.picked) + 1 if view.picked in view.order else None
        rows = [row_of(one, move, now.id, tasks) for move, one in enumerate(own, start=1)]
        table = history_rows(rows, tasks, picked=view.picked if current else "", empty=NOTHING_YET)
        result = settings_result(own, tasks, shown=now.id)
        parallel = draw("settings_parallel", result, current=current) if own else empty(NOTHING_YET)
        state = words.note(f"{AGAIN}.") if view.found and view.found.missing else ""
        kept = kept_form(now.session.history, now.models)
        return [kept, note, table, parallel, state, self._difference(now, view)]

    def _only(self, **changed: Any) -> list[Any]:
        names = ("keeper", "note", "table", "parallel", "state", "difference")
        return [changed.get(name, gr.skip()) for name in names]

    def _view(self, slot: Slot) -> _View:
        return self._views.setdefault(slot, _View())

    def _now(self, slot: Slot) -> _Now:
        session = slot.session
        models = models_key(self.bench, session.recipe)
        return _Now(session, models, session.history.pinned(models))

    def _compared(self, now: _Now) -> Comparison | None:
        """The shown setting against the pinned one, from what is held; None where there is nothing to compare."""
        if now.pinned is None or now.pinned.id == now.id:
            return None
        names = (setting_label(now.pinned), "shown now")
        return compare(self.bench, now.pinned.recipe, now.session.recipe, names=names)

    def _difference(self, now: _Now, view: _View) -> dict[str, Any]:
        found = view.found
        if now.pinned is None or found is None:
            return empty(IS_A if now.pinned else NO_PIN)
        if found.result.table.empty:
            return empty(f"{AGAIN} …" if found.missing else NOT_SCORED)
        note = f"A: {setting_label(now.pinned)}. B: what is shown now."
        return draw("ab_difference", found.result, note=note, min_effect=view.min_effect)

    def _catch_up(self, slot: Slot) -> Iterator[list[Any]]:
        """Score A again beside what is shown, where answers of it are missing; else end what did so."""
        try:
            now, found = self._now(slot), self._view(slot).found
            if now.pinned is None or found is None or not found.missing:
                stop_aside(slot)
                return
            for update in score_aside(self.bench, slot, now.pinned.recipe):
                yield self._compared_again(slot, _progress(update))
            yield self._compared_again(slot, "")
        except Cancelled:
            return  # another setting is A now, or another request scores this one
        except ExplorerError as error:
            yield self._only(state=words.note(str(error), kind="problem"))

    def _compared_again(self, slot: Slot, state: str) -> list[Any]:
        now, view = self._now(slot), self._view(slot)
        view.found = self._compared(now)
        return self._only(state=words.note(state), difference=self._difference(now, view))

    # What a person does.

    def act(self, slot: Slot, payload: object) -> Iterator[list[Any]]:
        """Rename, star, delete, pin or unpin; what cannot be done is said."""
        act, note = read_act(payload), ""
        if act is None:
            yield self._only()
            return
        try:
            with slot.lock:
                slot.session = replace(slot.session, history=done(slot.session.history, act))
        except ExplorerError as error:
            note = words.note(str(error), kind="problem")
        yield self.show(slot, note)
        if act.do in ("pin", "unpin", "delete"):
            yield from self._catch_up(slot)

    def bring_back(self, slot: Slot, payload: object) -> list[Any]:
        """Make a setting of the history the session's recipe; it can be undone."""
        act = read_act(payload)
        if act is None:
            return self._only()
        slot.is_news(turn_of(payload), 2)  # what was let go before, but comes later, must not undo this
        try:
            with slot.lock:
                slot.session = restore(slot.session, act.id)
        except ExplorerError as error:
            return self.show(slot, words.note(str(error), kind="problem"))
        return self.show(slot)

    def join(self, slot: Slot, text: str | None) -> Iterator[list[Any]]:
        """Add what the browser kept of these models to what is known."""
        try:
            recipe = slot.session.recipe
            found, lost = from_json(text, recipe, models_key(self.bench, recipe))
        except ExplorerError as error:
            yield self.show(slot, words.note(str(error), kind="problem"))
            return
        with slot.lock:
            slot.session = replace(slot.session, history=joined(slot.session.history, found))
        said = f"{count(lost)} of the kept settings could not be read, and were left out." if lost else ""
        yield self.show(slot, words.note(said))
        yield from self._catch_up(slot)

    def pick(self, slot: Slot, payload: object) -> list[Any]:
        """A line of the figure was clicked: its row and line are marked; a second click lets go."""
        view, move = self._view(slot), picked_move(payload)
        if not 0 < move <= len(view.order):
            return self._only()
        id = view.order[move - 1]
        view.picked = "" if view.picked == id else id
        shown = self.show(slot)
        return self._only(table=shown[2], parallel=shown[3])

    def set_min_effect(self, slot: Slot, points: float) -> list[Any]:
        """Another smallest difference worth naming, in percentage points."""
        view = self._view(slot)
        view.min_effect = min(0.2, max(0.0, float(points) / 100))
        try:
            return self._only(difference=self._difference(self._now(slot), view))
        except ExplorerError:
            return self._only()


def _progress(update: LiveUpdate) -> str:
    to_go = "" if update.eta_seconds is None else f", about {seconds_text(update.eta_seconds)} to go"
    return f"{AGAIN}: {count(update.done)} of {count(update.total)} examples{to_go}."
