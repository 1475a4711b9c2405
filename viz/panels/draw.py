"""From a result to the value of a panel: chart, caption, numbers and words in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from explorer.results import Result
from viz.charts import CHARTS
from viz.parts import panel_value
from viz.style import task_colour


def colours_of(tasks: tuple[str, ...]) -> dict[str, str]:
    """Each task's colour, the same everywhere on the page."""
    return {task: task_colour(i) for i, task in enumerate(tasks)}


def draw(name: str, result: Result, *, note: str | None = None, **values: Any) -> dict[str, Any]:
    """The value of a PlotlyPanel that shows this chart of this result."""
    chart = CHARTS.get(name)
    values = {"colours": colours_of(result.tasks), **values}
    return panel_value(
        name,
        chart.title,
        chart(result, **values),
        chart.table_of(result, **values),
        chart.caption_of(result, **values),
        chart.how,
        note,
    )


def draw_alike(name: str, sides: Sequence[tuple[Result, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The same chart of several results, each drawn with its own values, on common scales of colours and axes."""
    made = [draw(name, result, **values) for result, values in sides]
    for index in range(min(len(value["figure"]["data"]) for value in made)):
        traces = [value["figure"]["data"][index] for value in made]
        if all("zmin" in trace and trace["type"] == traces[0]["type"] for trace in traces):
            low, high = min(t["zmin"] for t in traces), max(t["zmax"] for t in traces)
            for trace in traces:
                trace["zmin"], trace["zmax"] = low, high
    return made


def empty(sentence: str) -> dict[str, Any]:
    """The value of a PlotlyPanel with nothing to show, and what to do about it."""
    return {"empty": sentence}
