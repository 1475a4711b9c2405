"""The sample fine-tunes are siblings of their base, and a greedy soup can be cooked of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from explorer.recipe import Recipe
from explorer.samples import FOLDER, sample_recipe
from explorer.siblings import compare_siblings
from explorer.soup import cook_greedy_soup


@pytest.mark.slow
def test_every_sample_keeps_nearly_all_hidden_units_of_the_base_in_place() -> None:
    recipe = sample_recipe()
    result = compare_siblings(recipe.base, {t.name: t.checkpoint for t in recipe.tasks}, pairs=False)
    whole = result.table[result.table["part"] == "all"]
    assert list(whole["b"]) == list(recipe.task_names) and (whole["units"] == 3 * 1536).all()
    assert (whole["in_place"] > 0.99).all() and (whole["distance_before"] < 0.1).all()
    assert result.provenance["verdict"].startswith("Siblings") and result.provenance["left_out"] == []


@pytest.mark.slow
def test_a_greedy_soup_of_three_samples() -> None:
    whole = sample_recipe()
    recipe = Recipe(whole.base, tuple(t for t in whole.tasks if t.name in ("movies", "products", "spam")))
    cooked = cook_greedy_soup(recipe, tasks_folder=Path(FOLDER / "tasks"), examples=24, device="cpu")
    table = cooked.trail.table
    assert list(table["stage"]) == ["alone"] * 3 + ["soup"] * 2 and (table["n"] == 72).all()
    alone = table[table["stage"] == "alone"]["score"]
    assert list(alone) == sorted(alone, reverse=True) and cooked.soup.score >= alone.max()
    assert cooked.recipe.method == "weight_average" and set(cooked.recipe.task_names) == set(cooked.soup.members)
