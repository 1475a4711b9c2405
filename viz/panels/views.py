"""How one browser tab looks at its models: what is selected, the settings of the figures, and their way into a link."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from viz.charts import Selection, picked
from viz.panels.working import Working

PLACES = ("models", "interference", "merge")
DENOMINATORS = {"all weights": "all", "weights that any task changed": "changed"}
_NUMBERS = {"trim": (0.01, 1.0), "threshold": (0.05, 2.0), "min_tasks": (1, 20)}
_WORDS: Mapping[str, Sequence[str]] = {
    "place": PLACES,
    "topic": ("overview", "signs", "masks", "tasks", "sizes", "matrices", "compare"),
    "by": ("layer", "kind", "model"),
    "order": ("size", "lift", "degree"),
    "measure": ("sti", "wudi_loss", "sar"),
    "denominator": tuple(DENOMINATORS.values()),
}


@dataclass
class View:
    """How one browser tab looks at its models.

    `opened`: topics that were looked at; `drawn`: for which models; `jump`: the page has yet to follow a link.
    """

    models: tuple[Any, ...] = ()
    selection: Selection = field(default_factory=Selection)
    place: str = "models"
    topic: str = "overview"
    trim: float = 0.2
    threshold: float = 0.4
    denominator: str = "all"
    min_tasks: int = 2
    by: str = "layer"
    chosen: tuple[str, ...] = ()
    order: str = "size"
    measure: str = "sti"
    opened: set[str] = field(default_factory=set)
    drawn: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    jump: bool = False
    working: Working = field(default_factory=Working)

    def to_plain(self) -> dict[str, Any]:
        """What differs from the defaults, as plain values for a link."""
        usual = View()
        plain: dict[str, Any] = {
            name: getattr(self, name) for name in (*_NUMBERS, *_WORDS) if getattr(self, name) != getattr(usual, name)
        }
        marked = {k: list(v) if isinstance(v, tuple) else v for k, v in self.selection.arguments().items() if v}
        if self.chosen:
            plain["chosen"] = list(self.chosen)
        return {**plain, **({"selection": marked} if marked else {})}

    def take(self, plain: Mapping[str, Any], tasks: Sequence[str]) -> None:
        """Look as a link says; what it says wrongly, or of tasks that are not open, is left as it is."""
        for name, (low, high) in _NUMBERS.items():
            value = plain.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                kind = type(getattr(self, name))
                setattr(self, name, kind(min(max(value, low), high)))
        for name, known in _WORDS.items():
            if plain.get(name) in known:
                setattr(self, name, plain[name])
        chosen = plain.get("chosen")
        if isinstance(chosen, list) and (named := tuple(t for t in tasks if t in chosen)):
            self.chosen = named
        self.selection = picked({"points": [{"customdata": plain.get("selection")}]}, tasks)
        self.opened.add(self.topic)
        self.jump = True
