"""Which settings a sweep tries: every cell once, coarse to fine, each the recipe that it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from explorer.errors import ParameterError
from explorer.recipe import Recipe, TaskEntry
from explorer.sweep_axes import axes_of, axis_of
from explorer.sweep_plans import plan_curve, plan_map, plan_mix

NAMES = ("spam", "movies", "intents")
PLAIN = Recipe("base", tuple(TaskEntry(t, t) for t in NAMES), "ties")
MIXED = replace(PLAIN, tasks=tuple(TaskEntry(t, t, {"scale": s}) for t, s in zip(NAMES, (0.2, 0.4, 0.8), strict=True)))


def test_every_cell_of_a_map_comes_once_and_every_lattice_before_the_next_finer_one() -> None:
    sweep = plan_map(PLAIN, ("scale", 0, 2, 9), ("density", 0.1, 1, 6))
    assert sorted(sweep.cells) == [(i, j) for i in range(9) for j in range(6)]
    reaches = list(sweep.reach.values())
    assert reaches == sorted(reaches, reverse=True) and set(reaches) == {2, 1, 0}
    assert sweep.cells[:6] == ((0, 0), (4, 0), (8, 0), (0, 4), (4, 4), (8, 4))
    ends = {(i, j) for i in (0, 8) for j in (0, 5)}
    assert ends <= {c for c, reach in sweep.reach.items() if reach == 2}


@pytest.mark.parametrize("steps", [2, 5, 6, 8])
def test_every_mix_comes_once_and_adds_up(steps: int) -> None:
    sweep = plan_mix(MIXED, NAMES, total=1.2, steps=steps)
    assert len(set(sweep.cells)) == len(sweep.cells) == (steps + 1) * (steps + 2) // 2
    assert all(sum(cell) == steps for cell in sweep.cells)
    assert all(sum(sweep.values_at(c)) == pytest.approx(1.2, abs=1e-5) for c in sweep.cells)
    reaches = list(sweep.reach.values())
    assert reaches == sorted(reaches, reverse=True) and reaches[-1] == 0


def test_the_axes_are_every_number_of_the_method_and_of_the_add_ons_that_are_on() -> None:
    ones = [f"scale of {t}" for t in NAMES]
    assert [a.name for a in axes_of(PLAIN)] == ["scale", *ones, "density", "weight", "trim_amount"]
    assert axes_of(MIXED)[1].factor
    with_lines = replace(PLAIN, add_ons=(("lines", {"beta": 0.7}),))
    assert [a.name for a in axes_of(with_lines)][-2:] == ["lines: alpha", "lines: beta"]
    by_block = replace(PLAIN, add_ons=(("layer_scales", {"scale": {"*": 0.5}}),))
    assert axes_of(by_block) == axes_of(PLAIN), "a number would wipe out the patterns"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("scale", 0.5, {"spam": 0.5, "movies": 0.5, "intents": 0.5}),
        ("scale of movies", 0.5, {"spam": 0.2, "movies": 0.5, "intents": 0.8}),
        ("scale times", 0.5, {"spam": 0.1, "movies": 0.2, "intents": 0.4}),
    ],
)
def test_a_value_goes_where_its_axis_says_and_is_found_again(
    name: str, value: float, expected: dict[str, float]
) -> None:
    axis = axis_of(MIXED, name)
    changed = axis.put(MIXED, value)
    assert changed.values()["scale"] == pytest.approx(expected)
    assert axis.value_of(changed, MIXED) == pytest.approx(value)
    assert replace(changed, tasks=MIXED.tasks, parameters={}) == MIXED


def test_other_numbers_of_a_recipe() -> None:
    density = axis_of(PLAIN, "density").put(PLAIN, 0.3)
    assert density.parameters == {"density": 0.3} and density.tasks == PLAIN.tasks
    with_lines = replace(PLAIN, add_ons=(("consensus_mask", {}), ("lines", {"alpha": 0.1})))
    axis = axis_of(with_lines, "consensus_mask: min_tasks")
    assert axis.value_of(with_lines, with_lines) == 2
    assert axis.put(with_lines, 2.6).add_ons == (("consensus_mask", {"min_tasks": 3}), ("lines", {"alpha": 0.1}))
    assert axis_of(MIXED, "scale").value_of(MIXED, MIXED) is None, "three scales are no single number"


def test_values_lie_on_the_steps_of_the_control_and_whole_numbers_stay_whole() -> None:
    sweep = plan_curve(PLAIN, "density", low=0.01, high=1, points=7)
    assert sweep.grid[0] == (0.01, 0.18, 0.34, 0.5, 0.67, 0.84, 1.0)
    fine = plan_curve(PLAIN, "density", low=0.1, high=0.12, points=5)
    assert fine.grid[0] == (0.1, 0.105, 0.11, 0.115, 0.12)
    masked = replace(PLAIN, add_ons=(("consensus_mask", {}),))
    whole = plan_curve(masked, "consensus_mask: min_tasks", low=0, high=3, points=9)
    assert whole.grid[0] == (0, 1, 2, 3)


def test_where_a_recipe_stands_and_whether_only_the_swept_numbers_differ() -> None:
    sweep = plan_map(PLAIN, ("scale of spam", 0, 1, 5), ("density", 0.1, 0.9, 5))
    there = sweep.recipe_at((1, 2))
    assert sweep.place_of(there) == (0.25, 0.5) and sweep.explores(there)
    assert sweep.place_of(PLAIN) == (1.0, 0.2), "the defaults, where the recipe says nothing"
    other = axis_of(there, "scale of movies").put(there, 0.3)
    assert sweep.place_of(other) == (0.25, 0.5) and not sweep.explores(other)
    assert sweep.continues(replace(sweep, recipe=there)) and not sweep.continues(replace(sweep, recipe=other))
    assert not sweep.continues(replace(sweep, rounds=None))
    assert sweep.place_of(replace(PLAIN, method="dare")) is None
    mix = plan_mix(MIXED, NAMES, total=1.4, steps=4)
    assert mix.place_of(MIXED) == (0.2, 0.4, 0.8) and mix.explores(MIXED)
    assert mix.place_of(axis_of(MIXED, "scale of spam").put(MIXED, 0.9)) is None, "another total"
    times = plan_curve(MIXED, "scale times", low=0, high=2, points=5)
    assert times.place_of(times.recipe_at((1,))) == (0.5,) and times.explores(times.recipe_at((1,)))


def test_problems_are_told_all_at_once() -> None:
    with pytest.raises(ParameterError, match=r"(?s)points must be a whole number in \[2, 25\].*Did you mean 'density'"):
        plan_map(PLAIN, ("scale", 0, 1, 99), ("densty", 0, 1, 5))
    with pytest.raises(ParameterError, match=r"density must be in \(0, 1\]; got 0"):
        plan_curve(PLAIN, "density", low=0, high=1, points=5)
    with pytest.raises(ParameterError, match=r"the range of density of all tasks must go up; got 0\.9 to 0\.2"):
        plan_curve(PLAIN, "density", low=0.9, high=0.2, points=5)
    with pytest.raises(ParameterError, match="the two numbers must not set the same thing"):
        plan_map(PLAIN, ("scale", 0, 1, 5), ("scale of spam", 0, 1, 5))
    with pytest.raises(ParameterError, match=r"(?s)three different tasks.*the total must be in \(0, 2\]"):
        plan_mix(PLAIN, ("spam", "spam", "movies"), total=9, steps=4)
    for strange in (None, float("nan"), "many", True):
        with pytest.raises(ParameterError):
            plan_curve(PLAIN, "scale", low=strange, high=strange, points=strange)  # type: ignore[arg-type]
