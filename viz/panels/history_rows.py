"""Between the page's table and figure of the history and its settings: rows out, what a person did back in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from explorer import history as kept
from explorer.history import History, Setting
from explorer.history_words import method_title, setting_words
from viz.parts.history_table import Act
from viz.style import count


def row_of(one: Setting, move: int, shown: str, tasks: tuple[str, ...]) -> dict[str, Any]:
    """A setting as a row of the table; `shown` is the id of the setting that is on the page."""
    by_task, worst = {s.task: s for s in one.scores}, one.worst
    counted = [by_task.get(t) for t in tasks]
    scores = [None if s is None else [s.score, f"{count(s.correct)} of {count(s.n)} right"] for s in counted]
    flags = {"starred": one.starred, "pinned": one.pinned, "shown": one.id == shown, "complete": one.complete}
    lowest = {"worst": _known(worst.normalized_accuracy) if worst else None, "worst_task": worst.task if worst else ""}
    told = {"name": one.name, "method": method_title(one.recipe), "words": setting_words(one.recipe)}
    plain = {"id": one.id, "move": move, "when": one.when, "n": sum(s.n for s in one.scores)}
    return {**plain, "mean": _known(one.normalized), "scores": scores, **flags, **lowest, **told}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def done(history: History, act: Act) -> History:
    """The history after what a person did. Raises InputError where that cannot be."""
    if act.do == "rename":
        return kept.rename(history, act.id, act.name)
    if act.do == "star":
        return kept.star(history, act.id, starred=act.starred)
    if act.do == "delete":
        return kept.delete(history, act.id)
    if act.do == "pin":
        return kept.pin(history, act.id)
    return kept.unpin(history, history.get(act.id).models)


def picked_move(payload: object) -> int:
    """The number of the setting whose mark was clicked; 0 for anything else. The payload comes from the browser."""
    points = payload.get("points") if isinstance(payload, Mapping) else None
    for point in points if isinstance(points, list) else ():
        mark = point.get("customdata") if isinstance(point, Mapping) else None
        move = mark.get("move") if isinstance(mark, Mapping) else None
        if isinstance(move, int) and not isinstance(move, bool):
            return move
    return 0
