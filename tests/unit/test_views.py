"""How a tab looks at its models: into a link and back, what it waits for, and two settings side by side."""

from __future__ import annotations

import math
from typing import Any

import pytest

from explorer.executor import Progress
from explorer.recipe import Recipe, TaskEntry
from explorer.session import Session, from_link, to_link
from viz.charts import Selection
from viz.panels import working
from viz.panels.draw import draw_alike
from viz.panels.views import View
from viz.panels.working import Working

TASKS = ("a", "b", "c")
RECIPE = Recipe("base", tuple(TaskEntry(t, t) for t in TASKS))


def test_a_link_brings_back_what_is_open() -> None:
    view = View(place="interference", topic="masks", trim=0.3, threshold=0.8, denominator="changed", min_tasks=3)
    view.selection, view.chosen = Selection(pair=("a", "c"), layer="layer.1", kind="mlp"), ("b", "c")
    _, plain = from_link(to_link(Session(RECIPE), view.to_plain()))
    found = View()
    found.take(plain, TASKS)
    assert found.to_plain() == view.to_plain()
    assert found.selection == view.selection and found.opened == {"masks"}
    assert View().to_plain() == {}


@pytest.mark.parametrize(
    "plain",
    [
        {"trim": "much", "threshold": math.nan, "min_tasks": True},
        {"place": "elsewhere", "topic": ["masks"], "by": 3, "denominator": None},
        {"selection": {"task": "z", "layer": 7}, "chosen": "abc"},
        {"selection": "a", "chosen": ["z"], "models": ("x",), "working": 1},
    ],
)
def test_what_a_link_says_wrongly_is_left_out(plain: dict[str, Any]) -> None:
    view = View()
    view.take(plain, TASKS)
    assert view.to_plain() == {}
    assert view.jump and view.models == () and isinstance(view.working, Working)


def test_numbers_of_a_link_stay_in_their_range() -> None:
    view = View()
    view.take({"trim": 7, "threshold": -1, "min_tasks": 400.5}, TASKS)
    assert (view.trim, view.threshold, view.min_tasks) == (1.0, 0.05, 20)


def test_slow_work_is_told_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "SHOWN_AFTER_SECONDS", 0.0)
    now = Working()
    assert now.text() == ""
    with now.job() as report:
        assert now.text() == "Reading weights …"
        report(Progress(1, 4, 2.0))
        assert now.text() == "Reading weights: 25 % of this pass, about 6.0 s to go."
    assert now.text() == ""
    monkeypatch.setattr(working, "SHOWN_AFTER_SECONDS", 60.0)
    with now.job():
        assert now.text() == ""


def test_a_watch_ends_when_nothing_runs_and_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(working, "SHOWN_AFTER_SECONDS", 0.0)
    now = Working()
    with now.job():
        first = now.watch()
        assert next(first) == "Reading weights …"
        assert list(now.watch()) == []
    assert list(first) == ["", ""]
    assert list(now.watch()) == [""]


def test_stopping_asks_what_runs_and_going_on_lets_it_run_again() -> None:
    now = Working()
    token = now.token
    now.stop()
    assert token.cancelled and now.stopped
    now.go_on()
    assert token.cancelled and not now.stopped


def test_two_figures_share_their_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(name: str, result: Any, **values: Any) -> dict[str, Any]:
        heat = {"type": "heatmap", "zmin": -result, "zmax": result}
        return {"figure": {"data": [heat, {"type": "bar", "y": values["y"]}]}}

    monkeypatch.setattr("viz.panels.draw.draw", drawn)
    one, other = draw_alike("any", [(1.0, {"y": 1}), (3.0, {"y": 2})])  # type: ignore[list-item]
    assert one["figure"]["data"][0] == other["figure"]["data"][0] == {"type": "heatmap", "zmin": -3.0, "zmax": 3.0}
    assert one["figure"]["data"][1]["y"] != other["figure"]["data"][1]["y"]
