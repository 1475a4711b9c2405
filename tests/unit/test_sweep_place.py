"""The sweeps of the page without a browser: plan, run, stop, and from a click to a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from test_sweeps import NAMES, curve
from workbench_zoo import make_bench, make_models, recipe_of

from explorer.session import change
from explorer.sweep_plans import plan_map
from explorer.workbench import Slot, Workbench
from viz.panels.sweep import SweepPlace

AXES = (("scale", 0, 1, 3), ("scale of numbers", 0, 1, 3))
ASKED: tuple[Any, ...] = ("sweep_curve", *AXES, list(NAMES), 0.9, 2, "quick")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"), NAMES)


@pytest.fixture
def bench(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.setattr("explorer.spare_time.CALM_SECONDS", 0.0)
    return make_bench(zoo, tmp_path / "exports", start=curve(zoo).recipe)


@pytest.fixture
def place(bench: Workbench) -> SweepPlace:
    with gr.Blocks():
        return SweepPlace(bench)


def asked(**changes: Any) -> tuple[Any, ...]:
    names = ("kind", "first", "second", "tasks", "total", "steps", "examples")
    return tuple(changes.get(name, value) for name, value in zip(names, ASKED, strict=True))


def run(place: SweepPlace, slot: Slot, **changes: Any) -> list[list[Any]]:
    return list(place.run(slot, *asked(**changes)))


def cursor(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["figure"]["layout"]["meta"]["cursor"]
    return found


@pytest.mark.parametrize(("kind", "points"), [("sweep_curve", 3), ("sweep_map", 9), ("sweep_mix", 6)])
def test_a_sweep_fills_in_and_every_point_can_be_taken_over(
    place: SweepPlace, bench: Workbench, kind: str, points: int
) -> None:
    slot = bench.slot("a")
    first = ("scale of colours", 0, 1, 3) if kind == "sweep_map" else ASKED[1]
    *_, (told, value, _, stop) = run(place, slot, kind=kind, first=first)
    assert f"All {points} points are scored" in told and stop["interactive"] is False
    assert value["name"] == kind and value["note"] is None and f"Best of {points} points" in value["caption"]
    places = cursor(value)["points"]
    assert len(places) == points and all("not scored" not in p["text"] for p in places)
    swept = place.tab(slot).swept
    assert swept is not None
    for p in places:
        recipe = place.recipe_at(slot, {"name": kind, "argument": "cell", "value": p["value"], "turn": 3})
        clicked = place.recipe_at(slot, {"points": [{"customdata": {"cell": p["value"]}}]})
        assert recipe is not None and recipe == clicked == swept.sweep.recipe_at(tuple(p["value"]))
        slot.session = change(slot.session, recipe)
        moved = cursor(place.follow(slot))
        assert moved["place"] is not None
        if kind == "sweep_curve":
            assert moved["place"][0] == p["x"]
        else:
            assert moved["place"] == pytest.approx([p["x"], p["y"]])


@pytest.mark.parametrize(
    "payload",
    [
        None, "x", {}, {"points": "x"}, {"points": [{"customdata": {"cell": [99]}}]},
        {"argument": "cell", "value": [-1]},
        {"argument": "cell", "value": [1.0]}, {"argument": "cell", "value": [True]}, {"argument": "k", "value": [1]},
        {"argument": "cell", "value": [[1]]}, {"points": [{"customdata": {"task": "colours"}}]},
    ],
)  # fmt: skip
def test_nothing_else_from_the_page_is_a_recipe(place: SweepPlace, bench: Workbench, payload: object) -> None:
    slot = bench.slot("a")
    assert place.recipe_at(slot, {"argument": "cell", "value": [1]}) is None, "no sweep yet"
    place.tab(slot).swept = _empty(place, slot)
    assert place.recipe_at(slot, {"argument": "cell", "value": [1]}) is not None
    assert place.recipe_at(slot, payload) is None


def _empty(place: SweepPlace, slot: Slot) -> Any:
    from explorer.sweeps import Swept
    from viz.panels.sweep_controls import plan

    return Swept(plan(slot.session.recipe, *ASKED))


def test_a_stopped_sweep_goes_on_and_a_newer_one_has_the_last_word(
    place: SweepPlace, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explorer.sweeps.UPDATE_EVERY_SECONDS", 0.0)
    slot = bench.slot("a")
    runs = place.run(slot, *asked(first=("scale", 0, 1, 9)))
    for shown in runs:
        if "2 of 9" in shown[0] or "3 of 9" in shown[0]:
            break
    slot.background.cancel()
    *_, (told, value, _, stop) = runs
    swept = place.tab(slot).swept
    assert swept is not None and 0 < len(swept.rows) < 9
    assert f"Stopped with {len(swept.rows)} of 9" in told and stop["interactive"] is False
    assert f"Best of the {len(swept.rows)} of 9 points scored so far" in value["caption"]
    older = place.run(slot, *asked(first=("scale", 0, 1, 9)))
    next(older)
    assert place.tab(slot).swept is swept, "an equal sweep goes on"
    *_, (told, *_) = run(place, slot)
    assert "All 3 points" in told
    assert all(update == gr.skip() for update in list(older)[-1]), "the older run shows nothing any more"


def test_problems_are_said_and_change_nothing(place: SweepPlace, bench: Workbench) -> None:
    slot = bench.slot("a")
    ((told, *rest),) = run(place, slot, first=("scale", 2, 9, None))
    assert "problem" in told and "points must be a whole number" in told and "scale must be in [-1, 2]" in told
    assert all(update == gr.skip() for update in rest) and place.tab(slot).swept is None


def test_other_settings_are_noted_and_other_models_end_the_sweep(
    place: SweepPlace, bench: Workbench, zoo: Path
) -> None:
    slot = bench.slot("a")
    run(place, slot)
    slot.session = change(slot.session, slot.session.recipe.with_parameters(scale=0.7))
    assert place.figure(slot)["note"] is None
    slot.session = change(slot.session, recipe_of(zoo, tasks=slot.session.recipe.to_dict()["tasks"], seed=4))
    assert "more than what was swept" in place.figure(slot)["note"]
    token = slot.newest_in_background()
    slot.session = change(slot.session, recipe_of(zoo))
    shown = place.show(slot)
    assert len(shown) == len(place.chosen_by_code)
    assert token.cancelled and place.tab(slot).swept is None and "empty" in shown[-1]
    assert place.follow(slot) == gr.skip()


def test_one_tasks_score_is_shown_in_place_of_the_mean(place: SweepPlace, bench: Workbench) -> None:
    slot = bench.slot("a")
    run(place, slot)
    place.tab(slot).measure = "task numbers"
    assert "score of numbers" in place.figure(slot)["caption"]
    place.tab(slot).measure = "worst"
    assert "worst task (% of its expert)" in place.figure(slot)["caption"]


def test_a_map_begins_with_two_numbers_that_go_together(place: SweepPlace, bench: Workbench, zoo: Path) -> None:
    controls, tasks = place.controls, bench.start.to_dict()["tasks"]
    for method, first in (("task_arithmetic", "scale of colours"), ("ties", None)):
        recipe = recipe_of(zoo, tasks=tasks, method=method)
        shown = controls.show(recipe, None, None)
        switched = controls.switch(recipe, "sweep_map", None)
        assert len(switched) == len(controls.of_kind) and [u["visible"] for u in switched[:3]] == [True, True, False]
        chosen = [switched[4]["value"] if first else shown[0]["value"], shown[3]["value"]]
        assert chosen == ([first, "scale of numbers"] if first else ["scale", "density"])
        plan_map(recipe, (chosen[0], 0.1, 1, 3), (chosen[1], 0.1, 1, 3))
        assert controls.switch(recipe, "sweep_map", "scale of shapes")[4:] == [gr.skip()] * 3
    assert controls.ends(recipe, "density") == [0.01, 1.0] and controls.ends(recipe, "none") == [gr.skip()] * 2


def test_two_tabs_have_sweeps_of_their_own(place: SweepPlace, bench: Workbench) -> None:
    one, other = bench.slot("a"), bench.slot("b")
    run(place, one)
    assert place.tab(other).swept is None and place.recipe_at(other, {"argument": "cell", "value": [1]}) is None
