"""What a click on a mark selects: one selection for the whole page, whatever figure it was made in.

Every mark of a chart that stands for something selectable carries a dict as its `customdata`:

    {"task": name}                      one task
    {"pair": [name, name]}              two tasks
    {"layer": name}, {"kind": name}     a layer, a kind of module
    {"layer": name, "kind": name}       a cell of both
    {"task": name, "layer": name}       a task in a layer
    {"move": number}                    a step of the history; it selects nothing here
    {"cell": [number, ...]}             a point of a sweep; it selects nothing here either

A mark that stands for the whole model, or for nothing that can be selected, carries None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PICKS = ("task", "pair", "layer", "kind", "move", "cell")
"""The keys that `customdata` of a mark may have."""

_LONGEST = 500


@dataclass(frozen=True)
class Selection:
    """What is selected on the page: at most one task or pair, and at most one layer, kind of module, or cell."""

    task: str | None = None
    pair: tuple[str, str] | None = None
    layer: str | None = None
    kind: str | None = None

    def after(self, picked: Selection) -> Selection:
        """This selection after a click: what was picked takes the place of its like, and lets go when it was selected.

        Tasks (task or pair) and places (layer and kind) are each replaced as a whole; a pick that names neither
        changes nothing.
        """
        tasks, place = (self.task, self.pair), (self.layer, self.kind)
        new_tasks, new_place = (picked.task, picked.pair), (picked.layer, picked.kind)
        named = [new for new in (new_tasks, new_place) if any(new)]
        again = bool(named) and all(new in (tasks, place) for new in named)
        if any(new_tasks):
            tasks = (None, None) if again else new_tasks
        if any(new_place):
            place = (None, None) if again else new_place
        return Selection(*tasks, *place)

    def arguments(self) -> dict[str, Any]:
        """The selection as arguments of a chart: task, pair, layer and kind."""
        return asdict(self)


def picked(payload: object, tasks: Sequence[str]) -> Selection:
    """What the event `pick` of a PlotlyPanel names; empty where it names nothing known.

    `payload` is what the browser sent, `{"points": [{"customdata": {...}}, ...]}`, and is trusted in nothing: only
    names among `tasks` and texts of a sensible length get through. The first point that names something counts.
    A pair comes back in the order of `tasks`.
    """
    points = payload.get("points") if isinstance(payload, Mapping) else None
    for point in points if isinstance(points, (list, tuple)) else ():
        mark = point.get("customdata") if isinstance(point, Mapping) else None
        found = _read(mark, tasks) if isinstance(mark, Mapping) else Selection()
        if found != Selection():
            return found
    return Selection()


def _read(mark: Mapping[str, Any], tasks: Sequence[str]) -> Selection:
    task, several = mark.get("task"), mark.get("pair")
    names = several if isinstance(several, (list, tuple)) else ()
    known = [name for name in tasks if name in names]
    return Selection(
        task if isinstance(task, str) and task in tasks else None,
        (known[0], known[1]) if len(known) == len(names) == 2 else None,
        _text(mark.get("layer")),
        _text(mark.get("kind")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST else None
