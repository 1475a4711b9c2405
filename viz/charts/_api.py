"""What a chart is: a function from a result to a figure, with one honest sentence and the figure's numbers.

@chart(title="Scores", how="How to read this: …", result="scores")
def scores(result, *, relative: Annotated[bool, "show % of the expert's accuracy"] = False) -> go.Figure: ...

@scores.caption
def _(result, *, relative: bool) -> str: ...

@scores.table
def _(result, *, relative: bool) -> pd.DataFrame: ...

scores(result, relative=True)            the figure
scores.caption_of(result)                the sentence: plain text, neither HTML nor Markdown
scores.table_of(result)                  the numbers, fractions 0-1, for CSV
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from explorer.errors import ParameterError, near, sentence
from explorer.params import Spec, check_values, specs_of
from explorer.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from explorer.results import Result

SUPPLIED = ("pair", "task", "layer", "kind", "colours", "current")
"""Arguments that the page passes in and no control sets: what is selected, task colours, the current move (or, of a
sweep, the numbers of the present setting).

The selection is a pair or a task, and a layer, a kind of module or both (`viz.charts.Selection`). A layer or kind
that a result does not hold marks nothing, because figures of different models may stand side by side.

Every chart may be called with them; one that does not take an argument never sees it.
"""

F = TypeVar("F", bound=Callable[..., Any])


class Chart:
    """One registered chart: its figure, sentence and table, and the parameters they share.

    `results` are the kinds of result it draws; the first is the usual one. `specs` are its declared parameters.
    """

    def __init__(self, function: Callable[..., go.Figure], title: str, how: str, results: tuple[str, ...]) -> None:
        self.name: str = function.__name__
        self.title, self.how, self.results = title, how, results
        self.summary = (inspect.getdoc(function) or "").split("\n")[0]
        self.specs: tuple[Spec, ...] = specs_of(function, supplied=SUPPLIED)
        self._takes = tuple(p for p in inspect.signature(function).parameters if p in SUPPLIED)
        self._draw = function
        self._caption: Callable[..., str] | None = None
        self._table: Callable[..., pd.DataFrame] | None = None

    def __call__(self, result: Result, **values: Any) -> go.Figure:
        """The figure: theme-neutral, transparent, of explicit height.

        Raises ParameterError for a result of another kind, an unknown or illegal parameter, or a pair or task
        that is not of the result.
        """
        figure = self._draw(result, **self._checked(result, values))
        figure.update_layout(meta={**(figure.layout.meta or {}), "chart": self.name})
        return figure

    def caption(self, function: F) -> F:
        """Decorator: the sentence that says what this result means for these models."""
        self._caption = function
        return function

    def table(self, function: F) -> F:
        """Decorator: the numbers of the figure."""
        self._table = function
        return function

    def caption_of(self, result: Result, **values: Any) -> str:
        """One plain-text sentence about this result, chance level included. Raises as the figure does."""
        if self._caption is None:
            raise TypeError(f"chart {self.name} has no caption")
        return self._caption(result, **self._checked(result, values))

    def table_of(self, result: Result, **values: Any) -> pd.DataFrame:
        """The numbers of the figure, one row per mark, fractions 0-1. Raises as the figure does."""
        if self._table is None:
            raise TypeError(f"chart {self.name} has no table")
        return self._table(result, **self._checked(result, values)).reset_index(drop=True)

    def describe(self) -> dict[str, Any]:
        """This chart as plain values, for `--json` and the docs."""
        parameters = [s.describe() for s in self.specs]
        words = {"name": self.name, "title": self.title, "summary": self.summary, "how": self.how}
        return {**words, "results": list(self.results), "parameters": parameters}

    def _checked(self, result: Result, values: Mapping[str, Any]) -> dict[str, Any]:
        if result.kind not in self.results:
            must = f"draws a result of kind {' or '.join(self.results)}"
            raise ParameterError(sentence(self.name, must, repr(result.kind), "Pass the matching result."))
        declared = {k: v for k, v in values.items() if k not in SUPPLIED}
        checked = check_values(self.specs, declared, who=self.name, tasks=result.tasks)
        supplied = {k: v for k, v in values.items() if k in self._takes and v is not None}
        if "pair" in supplied:
            self._check_pair(supplied["pair"], result.tasks)
        if "task" in supplied and supplied["task"] not in result.tasks:
            strange = supplied["task"]
            hint = near(str(strange), result.tasks)
            raise ParameterError(sentence(self.name, "task names a task of the result", repr(strange), hint))
        # Caption and table functions take the same keywords without defaults, so all are always passed.
        return checked | {k: supplied.get(k) for k in self._takes}

    def _check_pair(self, pair: Any, tasks: tuple[str, ...]) -> None:
        names = list(pair) if isinstance(pair, (tuple, list)) else []
        if len(names) == 2 and names[0] != names[1] and all(n in tasks for n in names):
            return
        strange = next((str(n) for n in names if n not in tasks), "")
        hint = near(strange, tasks) if strange else "Choose two tasks, or none for all."
        raise ParameterError(sentence(self.name, "pair names two different tasks of the result", repr(pair), hint))


CHARTS: Registry[Chart] = Registry("chart", "viz.charts")


def chart(title: str, how: str, result: str | tuple[str, ...]) -> Callable[[Callable[..., go.Figure]], Chart]:
    """Register a function as a chart.

    `how` says how to read the figure: definition, formula in words, what chance would give. `result` names the
    kind of result that it draws, or several. Raises TypeError (a programming error) as `specs_of` does, and for
    a name already taken.
    """

    def register(function: Callable[..., go.Figure]) -> Chart:
        kinds = (result,) if isinstance(result, str) else tuple(result)
        return CHARTS.add(Chart(function, title, how, kinds))

    return register
