"""From a click on a mark to the selection of the page, and from a drag to a chart's argument; nothing is trusted."""

from __future__ import annotations

from typing import Any

import pytest
from chart_examples import TASKS, cosine

from viz.charts import CHARTS, Selection, picked
from viz.parts import panel_value, read_drag


def clicked(*marks: Any) -> dict[str, Any]:
    """What a panel sends for a click on these marks."""
    return {"name": "x", "points": [{"x": 0, "y": 0, "customdata": mark} for mark in marks]}


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ({"task": "spam"}, Selection(task="spam")),
        ({"pair": ["spam", "movies"]}, Selection(pair=("movies", "spam"))),
        ({"layer": "layer 0"}, Selection(layer="layer 0")),
        ({"layer": "layer 0", "kind": "mlp in"}, Selection(layer="layer 0", kind="mlp in")),
        ({"task": "spam", "layer": "layer 1"}, Selection(task="spam", layer="layer 1")),
        ({"move": 3}, Selection()),
    ],
)
def test_marks_are_read(mark: dict[str, Any], expected: Selection) -> None:
    assert picked(clicked(mark), TASKS) == expected


@pytest.mark.parametrize(
    "payload",
    [
        None, 3, "spam", [], {}, {"points": None}, {"points": "spam"}, {"points": [None, 3, {}]}, clicked(None),
        clicked(["layer 0", "mlp in"]), clicked({"task": "span"}), clicked({"task": ["spam"]}),
        clicked({"pair": "spam"}), clicked({"pair": ["spam", "spam"]}), clicked({"pair": ["spam", "x"]}),
        clicked({"pair": ["spam", "movies", "products"]}), clicked({"pair": [["spam"], {}]}),
        clicked({"layer": 3, "kind": None}), clicked({"layer": "x" * 501}), clicked({"layer": ""}),
    ],
)  # fmt: skip
def test_what_is_not_known_selects_nothing(payload: object) -> None:
    assert picked(payload, TASKS) == Selection()


def test_the_first_mark_that_names_something_counts() -> None:
    assert picked(clicked(None, {"move": 1}, {"task": "spam"}, {"task": "movies"}), TASKS).task == "spam"


def test_a_click_replaces_its_like_and_a_second_click_lets_go() -> None:
    start = Selection(task="spam", layer="layer 0", kind="norm")
    pair = start.after(Selection(pair=("movies", "spam")))
    assert pair == Selection(pair=("movies", "spam"), layer="layer 0", kind="norm")
    assert pair.after(Selection(pair=("movies", "spam"))) == Selection(layer="layer 0", kind="norm")
    assert pair.after(Selection(layer="layer 1")) == Selection(pair=("movies", "spam"), layer="layer 1")
    assert start.after(Selection()) == start
    both = Selection(task="spam", layer="layer 1")
    assert Selection(task="spam").after(both) == both
    assert both.after(both) == Selection()


def test_a_selection_is_what_charts_take() -> None:
    chosen = Selection(pair=("movies", "spam"), layer="layer 0").arguments()
    assert chosen == {"task": None, "pair": ("movies", "spam"), "layer": "layer 0", "kind": None}
    shapes = CHARTS.get("cosine_map")(cosine(), **chosen).layout.shapes
    assert len([s for s in shapes if s.name == "selected"]) == 4


def test_names_come_back_from_a_click_as_they_are() -> None:
    name = "<a href='//x'>spam</a>"
    figure = CHARTS.get("cosine_map")(cosine((name, "movies")))
    shown = panel_value("x", "x", figure, None, "x", "x")["figure"]
    assert {"task": name} in [mark for row in shown["data"][0]["customdata"] for mark in row]
    assert shown["layout"]["meta"]["x"] == [name, "movies"] and "<a" not in str(shown["layout"]["xaxis"])


SPECS = CHARTS.get("mask_agreement_layers").specs


def test_a_drag_is_the_charts_argument() -> None:
    assert read_drag({"name": "x", "argument": "min_tasks", "value": 3, "turn": 1}, SPECS) == {"min_tasks": 3}
    assert read_drag({"argument": "mask_threshold", "value": 0.45}, SPECS) == {"mask_threshold": 0.45}


@pytest.mark.parametrize("value", [-1, 31, 2.5, "3", None, True, float("nan"), [2]])
def test_an_illegal_drag_is_left_alone(value: object) -> None:
    assert read_drag({"argument": "min_tasks", "value": value}, SPECS) == {}
    assert read_drag({"argument": "colours", "value": 1}, SPECS) == {} == read_drag("min_tasks", SPECS)
