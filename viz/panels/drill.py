"""Inside one matrix: from a square of the sign conflict map down to single weights.

drill = DrillDown(bench)                                   # beneath the map
drill.connect(slot_of)                                     # its own events; slot_of: gr.Request -> Slot
map.pick(callback, ..., drill.outputs)                     # callback yields from drill.open(slot, layer, kind, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
import numpy as np

from explorer.drilling import ORDERS, Asked, Drilling
from explorer.errors import ExplorerError
from explorer.recipe import Recipe
from explorer.tiles import SUMS, Pyramid
from explorer.workbench import Slot, Workbench
from viz.panels import drill_words, words
from viz.panels.draw import colours_of
from viz.parts import TileCanvas, read_look, read_place, tiles_value

MAP = "Sign conflict map"
HINT = (
    "Click a square of the sign conflict map. You then see the matrix itself: each pixel is a block of weights, and "
    "zooming ends at single weights with every task's wish, the elected sign and the merged value."
)
BLOCKS = 128
"""Blocks a side in the picture: enough for a canvas, small enough to follow a pan."""

_TO_MAP = "() => { document.getElementById('sign-map')?.scrollIntoView({ block: 'center', behavior: 'smooth' }); }"
_LIVE: dict[str, Any] = {
    "trigger_mode": "multiple",
    "concurrency_limit": None,
    "show_progress": "hidden",
    "api_visibility": "private",
}


@dataclass
class _Opened:
    """What one tab looks at, of which models, and the turn of the newest window it asked for."""

    asked: Asked
    models: tuple[Any, ...]
    pyramid: Pyramid | None = None
    latest: int = 0


def _models(recipe: Recipe) -> tuple[Any, ...]:
    """What of a recipe says which weights there are."""
    tasks = tuple((t.name, t.checkpoint) for t in recipe.tasks)
    return recipe.base, tasks, recipe.policy, recipe.include, recipe.exclude


class DrillDown:
    """Layout and callbacks of the view inside one matrix."""

    def __init__(self, bench: Workbench) -> None:
        self.drilling = Drilling(bench)
        self._opened: WeakKeyDictionary[Slot, _Opened] = WeakKeyDictionary()
        gr.Markdown("### Inside one matrix")
        self.tensor = gr.Dropdown([], label="Tensor", info="This square holds several tensors.", visible=False)
        self.canvas = TileCanvas({"empty": HINT}, elem_id="tiles")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.weight = gr.HTML("", elem_id="tiles-weight", apply_default_css=False, padding=False)
                self.strongest = gr.HTML("", elem_id="tiles-strongest", apply_default_css=False, padding=False)
            with gr.Column(scale=2, min_width=320):
                self.profile = gr.HTML("", elem_id="tiles-profile", apply_default_css=False, padding=False)
        self.outputs = [self.tensor, self.canvas, self.weight, self.strongest, self.profile]

    def connect(self, slot_of: Callable[[gr.Request], Slot]) -> None:
        """Bind the part's own events; `slot_of` finds the session of a request."""

        def looked(event: gr.EventData, request: gr.Request) -> Any:
            return self.look(slot_of(request), event._data)

        def chosen(event: gr.EventData, request: gr.Request) -> Any:
            return self.choose(slot_of(request), event._data)

        def switched(tensor: str, request: gr.Request) -> Iterator[list[Any]]:
            yield from self.switch(slot_of(request), tensor)

        self.canvas.look(looked, None, self.canvas, **_LIVE)
        self.canvas.weight(chosen, None, self.weight, **_LIVE)
        self.canvas.leave(None, None, None, js=_TO_MAP)
        self.tensor.input(switched, self.tensor, self.outputs, **_LIVE)

    def open(self, slot: Slot, layer: str, kind: str, pair: tuple[str, str] | None, trim: float) -> Iterator[list[Any]]:
        """Show a square of the map: the picture first, then the most disputed weights."""
        try:
            names = self.drilling.tensors(slot.session.recipe, layer, kind)
        except ExplorerError as error:
            yield self._problem(error)
            return
        listed = gr.update(choices=list(names), value=names[0], visible=len(names) > 1)
        yield from self._show(slot, Asked(names[0], pair, float(trim)), listed)

    def switch(self, slot: Slot, tensor: str) -> Iterator[list[Any]]:
        """Another tensor of the same square."""
        opened = self._opened.get(slot)
        if opened:
            yield from self._show(slot, replace(opened.asked, tensor=str(tensor), order="stored"), gr.skip())

    def close(self, slot: Slot) -> list[Any]:
        """Nothing is shown any more, as after other models were opened."""
        self._opened.pop(slot, None)
        return [gr.update(choices=[], value=None, visible=False), {"empty": HINT}, "", "", ""]

    def _show(self, slot: Slot, asked: Asked, listed: Any) -> Iterator[list[Any]]:
        recipe = slot.session.recipe
        self._opened[slot] = opened = _Opened(asked, _models(recipe))
        try:
            opened.pyramid = pyramid = self.drilling.pyramid(recipe, asked)
            value = self._window(asked, pyramid, (0, pyramid.grid.rows), (0, pyramid.grid.cols), 0)
            profile = drill_words.profile(self.drilling.profile(recipe, asked), asked.pair)
            yield [listed, value, drill_words.CHOOSE, drill_words.LISTING, profile]
            found = self.drilling.strongest(recipe, asked)
            marks = {"key": value["key"], "marks": drill_words.marks(found)} if "key" in value else gr.skip()
            yield [gr.skip(), marks, gr.skip(), drill_words.strongest(found), gr.skip()]
        except ExplorerError as error:
            yield self._problem(error)

    def _problem(self, error: ExplorerError) -> list[Any]:
        return [gr.skip(), {"empty": str(error)}, "", "", ""]

    def look(self, slot: Slot, payload: Any) -> Any:
        """Another window or order, as the canvas asked; nothing where a newer wish is known."""
        opened = self._current(slot)
        if opened is None:
            return {"empty": HINT}
        try:
            wish = read_look(payload, orders=tuple(ORDERS))
            opened.latest = max(opened.latest, wish["turn"])
            asked, pyramid = opened.asked, opened.pyramid
            if pyramid is None or wish["order"] != asked.order:
                asked = replace(asked, order=wish["order"])
                pyramid = self.drilling.pyramid(slot.session.recipe, asked)
            if wish["turn"] < opened.latest or self._opened.get(slot) is not opened:
                return gr.skip()
            value = self._window(asked, pyramid, wish["rows"], wish["cols"], wish["turn"])
            if asked != opened.asked:
                opened.asked, opened.pyramid = asked, pyramid
                found = self.drilling.strongest(slot.session.recipe, asked)
                value["marks"] = drill_words.marks(found, pyramid)
            return value
        except ExplorerError as error:
            return {"empty": str(error)}

    def choose(self, slot: Slot, payload: Any) -> str:
        """What every task wants of one weight, as HTML."""
        opened = self._current(slot)
        if opened is None or opened.pyramid is None:
            return ""
        try:
            row, col = read_place(payload)
            pyramid = opened.pyramid
            row, col = min(row, pyramid.grid.rows - 1), min(col, pyramid.grid.cols - 1)
            found = self.drilling.weight(slot.session.recipe, pyramid.view, *pyramid.view.at(row, col))
            return drill_words.weight(found)
        except ExplorerError as error:
            return words.note(str(error), kind="problem")

    def _current(self, slot: Slot) -> _Opened | None:
        """What the tab looks at; None where nothing is open, or other models were opened since."""
        opened = self._opened.get(slot)
        return opened if opened and opened.models == _models(slot.session.recipe) else None

    def _window(
        self, asked: Asked, pyramid: Pyramid, rows: tuple[int, int], cols: tuple[int, int], turn: int
    ) -> dict[str, Any]:
        """The canvas's value for one window."""
        if not pyramid.grid.total:
            return {"empty": f"{asked.tensor} holds no weights, so there is nothing to see."}
        view, tiles = pyramid.view, pyramid.window(rows, cols, BLOCKS)
        names = [view.source.tasks[t] for t in view.tasks]
        colours = colours_of(view.source.tasks)
        shape = view.source.shape(asked.tensor)
        return tiles_value(
            key=repr((view.source.digest, asked)),
            title=asked.tensor,
            crumbs=[MAP, asked.tensor],
            size=(pyramid.grid.rows, pyramid.grid.cols),
            rows=tiles.rows,
            cols=tiles.cols,
            block=tiles.block,
            sums={name: tiles[name] for name in SUMS},
            net=tiles.net,
            n=tiles.n,
            tasks=names,
            colours=[colours[name] for name in names],
            order=asked.order,
            orders=ORDERS if len(shape) >= 2 else {},
            row_names=_names(view.row_order, tiles.rows, tiles.block[0]),
            col_names=_names(view.col_order, tiles.cols, tiles.block[1]),
            caption=drill_words.caption(asked, shape, pyramid),
            turn=turn,
        )


def _names(order: np.ndarray | None, span: tuple[int, int], step: int) -> list[int] | None:
    """The tensor's own rows or columns at places in another order, where each block is one line."""
    return None if order is None or step > 1 else order[slice(*span)].tolist()
