"""Add-ons and per-tensor values between the page's controls and a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from explorer.errors import ParameterError
from explorer.merging import METHODS
from explorer.recipe import Recipe, TaskEntry
from viz.panels.add_ons import describe_add_ons, show_add_ons, specs, with_add_ons
from viz.panels.settings import describe_change, recipe_from, show_controls, show_mixer, switch_method

PLAIN = Recipe("base", tuple(TaskEntry(t, f"m/{t}") for t in ("spam", "movies")))
LINES = ("lines", {"alpha": 0.25})
LAYERS = ("layer_scales", {"scale": {"*": 0.5}})


def test_a_switch_comes_before_its_settings_and_shows_them_by_their_own_name() -> None:
    names = [s.name for s in specs()]
    assert names[:2] == ["consensus_mask", "consensus_mask.mask_threshold"] and "lines.alpha" in names
    assert not any(n.startswith("layer_scales") for n in names), "values per tensor do not fit a slider"
    assert {s.name: s.label for s in specs()}["consensus_mask.mask_threshold"] == "mask threshold"


@pytest.mark.parametrize("add_ons", [(), (LINES,), (("consensus_mask", {}), LINES), (LAYERS, LINES), (LINES, LAYERS)])
def test_what_is_shown_reads_back_in_the_same_order(add_ons: Any) -> None:
    recipe = replace(PLAIN, add_ons=add_ons)
    assert with_add_ons(recipe, show_add_ons(recipe)) == recipe


def test_switching_on_off_and_setting() -> None:
    controls = show_add_ons(PLAIN)
    controls["values"] |= {"lines": True, "lines.alpha": 0.25}
    on = with_add_ons(replace(PLAIN, add_ons=(LAYERS,)), controls)
    assert on.add_ons == (LAYERS, LINES)
    controls["values"]["lines"] = False
    assert with_add_ons(on, controls).add_ons == (LAYERS,)


def test_a_tampered_value_is_refused() -> None:
    controls = show_add_ons(PLAIN)
    controls["values"] |= {"lines": True, "lines.alpha": 9}
    with pytest.raises(ParameterError, match=r"lines\.alpha must be in"):
        with_add_ons(PLAIN, controls)


def test_changes_in_words() -> None:
    on, other = replace(PLAIN, add_ons=(LINES,)), replace(PLAIN, add_ons=(("lines", {"alpha": 0.5}),))
    assert describe_add_ons(PLAIN, on) == ["lines on"] and describe_add_ons(on, PLAIN) == ["lines off"]
    assert describe_add_ons(on, other) == ["lines alpha 0.5"] and describe_add_ons(on, on) == []
    assert describe_change(PLAIN, on, "Task arithmetic") == "lines on"


def blocks(value: Any) -> Recipe:
    tasks = (replace(PLAIN.tasks[0], parameters={"scale": value}), replace(PLAIN.tasks[1], parameters={"scale": 0.4}))
    return replace(PLAIN, tasks=tasks)


def test_values_per_tensor_stay_until_their_slider_is_moved() -> None:
    declared = METHODS.get("task_arithmetic").specs
    recipe = blocks({"layer.0.*": 0.1, "*": 0.6})
    mixer, controls = show_mixer(recipe, declared), show_controls(recipe, "Task arithmetic", declared)
    assert [(row["value"], row["own"]) for row in mixer["tasks"]] == [(0.6, 0.6), (0.4, None)]
    mixer["tasks"][1]["value"] = 0.5
    moved = recipe_from(recipe, "task_arithmetic", declared, mixer, controls)
    assert moved.values()["scale"] == {"spam": {"layer.0.*": 0.1, "*": 0.6}, "movies": 0.5}
    mixer["tasks"][0]["value"] = 0.7
    assert recipe_from(recipe, "task_arithmetic", declared, mixer, controls).values()["scale"]["spam"] == 0.7
    assert describe_change(recipe, moved, "m") == "movies 0.40 → 0.50"


def test_another_method_takes_them_or_the_number_that_stands_for_them() -> None:
    recipe = blocks({"layer.0.*": 0.1, "*": 0.6})
    before = METHODS.get("task_arithmetic").specs
    assert switch_method(recipe, before, "ties", METHODS.get("ties").specs).values()["scale"] == {
        "spam": 0.6, "movies": 0.4,
    }  # fmt: skip
    kept = switch_method(recipe, before, "dare", METHODS.get("dare").specs)
    assert kept.values()["scale"] == recipe.values()["scale"], "a method that knows them keeps them"
