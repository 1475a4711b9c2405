"""One figure twice, each with its own settings, on one scale: what does a setting change?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gradio as gr

from explorer.errors import Cancelled, ExplorerError
from explorer.workbench import Slot
from viz.charts import CHARTS
from viz.panels import topics
from viz.panels.draw import draw_alike, empty
from viz.panels.interference_events import SlotOf, watcher
from viz.panels.topics import TOPICS, Figure
from viz.panels.views import DENOMINATORS, View
from viz.parts import PlotlyPanel

if TYPE_CHECKING:
    from viz.panels.interference import InterferencePlace

_TRIMMED, _MASKED = ("sign-map", "sign-pairs", "trimming"), ("mask-agreement", "mask-overlap")
FIGURES: Mapping[str, Figure] = {
    f.id: f for figures in TOPICS.values() for f in figures if f.id in (*_TRIMMED, *_MASKED)
}


class SideBySide:
    """Layout and callbacks of the topic Compare."""

    def __init__(self, place: InterferencePlace) -> None:
        self.place = place
        self._chosen: WeakKeyDictionary[Slot, tuple[str, list[dict[str, Any]]]] = WeakKeyDictionary()
        gr.Markdown(topics.COMPARE_INFO, elem_classes="explorer-hint")
        titles = [(CHARTS.get(f.chart).title, name) for name, f in FIGURES.items()]
        self.figure = gr.Dropdown(titles, value="sign-map", label="Figure", elem_id="compare-figure")
        self.sides: list[dict[str, Any]] = []
        self.panels: list[PlotlyPanel] = []
        with gr.Row(equal_height=False):
            for name, trim, threshold in (("A", 0.2, 0.4), ("B", 1.0, 0.8)):
                with gr.Column(min_width=320):
                    self._side(name, trim, threshold)
        self.controls = [self.figure, *[part for side in self.sides for part in side.values()]]
        self.outputs = [*self.panels, *[part for side in self.sides for part in side.values()]]

    def _side(self, name: str, trim: float, threshold: float) -> None:
        trimmed = gr.Slider(0.01, 1.0, trim, step=0.01, label=f"{name}: trim first to the top fraction")
        masks = gr.Slider(0.05, 2.0, threshold, step=0.05, label=f"{name}: mask threshold λ", visible=False)
        of = gr.Radio(list(DENOMINATORS.items()), value="all", label=f"{name}: fraction of")
        self.sides.append({"trim": trimmed, "threshold": masks, "denominator": of})
        self.panels.append(PlotlyPanel(empty("Open this topic to compare."), elem_id=f"compare-{name.lower()}"))

    def connect(self, slot_of: SlotOf, live: Mapping[str, Any]) -> None:
        """Bind the topic's own events."""
        latest = {**live, "trigger_mode": "always_last"}
        moved = [self.figure.input]
        for side in self.sides:
            moved += [side["trim"].input, side["trim"].release, side["threshold"].input, side["threshold"].release]
            moved.append(side["denominator"].input)

        def changed(
            figure: str, trim_a: Any, mask_a: Any, of_a: Any, trim_b: Any, mask_b: Any, of_b: Any, request: gr.Request
        ) -> list[Any]:
            sides = ((trim_a, mask_a, of_a), (trim_b, mask_b, of_b))
            return self.show(slot_of(request), figure, [dict(zip(self.sides[0], v, strict=True)) for v in sides])

        gr.on(moved, changed, self.controls, self.outputs, **latest)
        gr.on(moved, watcher(self.place, slot_of), None, [self.place.status, self.place.stop], **live)
        tab = self.place.own_tabs["compare"]
        tab.select(self.updates(slot_of, opened=True), None, self.outputs, **live)
        tab.select(watcher(self.place, slot_of), None, [self.place.status, self.place.stop], **live)

    def updates(self, slot_of: SlotOf, *, opened: bool = False) -> Callable[[gr.Request], list[Any]]:
        """A callback that draws both figures when the topic is `opened`, or again once it has been."""

        def drawn(request: gr.Request) -> list[Any]:
            slot = slot_of(request)
            if not opened and "compare" not in self.place.view(slot).opened:
                return [gr.skip()] * len(self.outputs)
            return self.show(slot, *self._chosen.get(slot, ("sign-map", self._usual())))

        return drawn

    def _usual(self) -> list[dict[str, Any]]:
        return [{name: part.value for name, part in side.items()} for side in self.sides]

    def show(self, slot: Slot, name: str, sides: list[dict[str, Any]]) -> list[Any]:
        """Both figures, and which controls matter for this kind of figure."""
        name = name if name in FIGURES else "sign-map"
        self._chosen[slot] = name, sides
        shown = {"trim": name in _TRIMMED, "threshold": name in _MASKED, "denominator": True}
        controls = [gr.update(visible=shown[part]) for side in self.sides for part in side]
        return [*self._draw(slot, FIGURES[name], sides), *controls]

    def _draw(self, slot: Slot, figure: Figure, sides: list[dict[str, Any]]) -> list[dict[str, Any]]:
        views = [_as_said(self.place.view(slot), side) for side in sides]
        try:
            results = [self.place.result(slot, figure, view) for view in views]
        except Cancelled:
            return [empty("Stopped before these numbers were complete. Go on with the button above.")] * 2
        except ExplorerError as error:
            return [empty(str(error))] * 2
        options = [self.place.drawing(view, figure) for view in views]
        return draw_alike(figure.chart, list(zip(results, options, strict=True)))


def _as_said(view: View, side: Mapping[str, Any]) -> View:
    """The tab's view with one side's settings; what the browser sent is checked like a link."""
    own = replace(view, opened=set(view.opened))
    own.take({**side, "selection": None}, ())
    own.selection, own.topic = view.selection, view.topic
    return own
