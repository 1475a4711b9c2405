"""Presets are legal, say what they are, and set a recipe's method by role; and the laws of negation and analogy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from workbench_zoo import TASKS, make_models, recipe_of, write_recipe

from explorer import reference
from explorer.cli import main
from explorer.errors import RecipeError, UnknownNameError
from explorer.library import merge_state_dicts
from explorer.merging import METHODS
from explorer.merging.presets import PRESETS, Preset
from explorer.params import check_values
from explorer.recipe import Recipe, TaskEntry

ALL = list(PRESETS)
every_preset = pytest.mark.parametrize("preset", ALL, ids=lambda p: p.name)
Captured = pytest.CaptureFixture[str]


def recipe_with(*names: str, **own: float) -> Recipe:
    return Recipe("base", tuple(TaskEntry(n, f"models/{n}", dict(own)) for n in names))


@every_preset
def test_every_preset_gives_a_legal_recipe(preset: Preset) -> None:
    method = METHODS.get(preset.method)
    count = len(preset.roles) or max(2, method.min_tasks)
    recipe = preset.apply(recipe_with(*"abcdef"[:count], scale=0.7, weight=0.5))
    check_values(method.specs, recipe.values(), who=preset.name, tasks=recipe.task_names)
    assert method.min_tasks <= count <= (method.max_tasks or count)
    assert recipe.method == preset.method and Recipe.from_yaml(recipe.to_yaml()) == recipe
    for name, value in preset.parameters.items():
        assert recipe.values()[name] == value, f"{name} of a task stands above the preset's"
    assert preset.title and preset.summary.endswith(".") and preset.paper
    assert all(len(v) == len(preset.roles) for v in preset.per_role.values())


@every_preset
def test_the_reference_page_and_the_catalogue_hold_it(preset: Preset, capsys: Captured) -> None:
    assert f"(`{preset.name}`)" in reference.presets_page()
    assert main(["presets"]) == 0
    text = capsys.readouterr().out
    assert f"{preset.name}: {preset.title}" in text
    assert main(["presets", "--json"]) == 0
    found = {p["name"]: p for p in json.loads(capsys.readouterr().out)}
    assert set(found[preset.name]["parameters"]) == set(preset.parameters) | set(preset.per_role)


def test_a_preset_keeps_what_it_does_not_set() -> None:
    before = Recipe("base", recipe_with("a", "b", weight=0.5, scale=0.9).tasks, "slerp", {"t": 0.2}, "float16", 3)
    after = PRESETS.get("ties_authors").apply(before)
    assert (after.base, after.dtype, after.seed, after.task_names) == ("base", "float16", 3, ("a", "b"))
    assert all(t.parameters == {"weight": 0.5} for t in after.tasks) and "t" not in after.parameters
    assert before.method == "slerp" and before.tasks[0].parameters == {"weight": 0.5, "scale": 0.9}


def test_roles_are_places_in_the_recipe() -> None:
    recipe = PRESETS.get("analogy").apply(recipe_with("king", "queen", "man", scale=0.3))
    assert recipe.values()["scale"] == {"king": -1.0, "queen": 1.0, "man": 1.0}
    with pytest.raises(RecipeError, match=r"preset analogy: needs 3 tasks, in this order: A, B, C; got 2"):
        PRESETS.get("analogy").apply(recipe_with("a", "b"))
    with pytest.raises(UnknownNameError, match="Did you mean 'analogy'"):
        PRESETS.get("anology")


def exact(seed: int) -> dict[str, Tensor]:
    """Multiples of 1/64, so that every sum and difference is exact."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randint(-64, 65, (5, 4), generator=generator) / 64 for n in ("x", "y")}


def by_preset(name: str, base: dict[str, Tensor], tasks: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    recipe = PRESETS.get(name).apply(recipe_with(*tasks))
    return merge_state_dicts(base, tasks, recipe.method, **recipe.values())  # type: ignore[return-value]


def test_analogy_is_exact_arithmetic() -> None:
    base, a, b, c = (exact(i) for i in range(4))
    found = by_preset("analogy", base, {"z": a, "m": b, "f": c})
    assert all(torch.equal(found[n], base[n] + (c[n] - base[n]) + (b[n] - a[n])) for n in base)
    same = by_preset("analogy", base, {"one": a, "two": a, "three": c})
    assert all(torch.equal(same[n], c[n]) for n in base)  # A = B: D is C


def test_adding_what_was_taken_away_gives_the_base_back() -> None:
    base, tuned = exact(0), exact(1)
    forgot = by_preset("negation", base, {"task": tuned})
    assert all(torch.equal(forgot[n], base[n] - (tuned[n] - base[n])) for n in base)
    again = {n: forgot[n] + (tuned[n] - base[n]) for n in base}
    assert all(torch.equal(again[n], base[n]) for n in base)
    both = merge_state_dicts(base, {"t": tuned, "u": forgot}, "task_arithmetic", scale=1.0)
    assert all(torch.equal(both[n], base[n]) for n in base)  # type: ignore[index]


def test_the_sphinx_mix_is_the_plain_average_of_two() -> None:
    base, a, b = (exact(i) for i in range(3))
    for tasks in ({"a": a, "b": b}, {"b": b, "a": a}):
        found = by_preset("sphinx_mix", base, tasks)
        assert all(torch.equal(found[n], (a[n] + b[n]) / 2) for n in base)


def test_merge_by_preset(tmp_path: Path, capsys: Captured) -> None:
    zoo = make_models(tmp_path / "zoo")
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(zoo))
    arguments = ["merge", str(recipe), str(tmp_path / "out"), "--preset", "ties_fusionbench", "--set", "density=0.5"]
    assert main(arguments) == 0
    written = Recipe.load(tmp_path / "out" / "explorer_recipe.yaml")
    assert written.method == "ties" and written.task_names == TASKS
    assert (written.parameters["reduce"], written.parameters["density"]) == ("sum", 0.5)
    capsys.readouterr()
    assert main(["merge", str(recipe), str(tmp_path / "two"), "--preset", "ties"]) == 2
    assert "preset: must be a known name; got 'ties'" in capsys.readouterr().err
