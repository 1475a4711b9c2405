"""Recipes round-trip, and every problem is named at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.errors import RecipeError
from explorer.recipe import Recipe, TaskEntry

TEXT = """
schema: 1
base: sample_checkpoints/base
tasks:
  spam:   {checkpoint: sample_checkpoints/spam, scale: 0.3}
  movies: {checkpoint: sample_checkpoints/movies, scale: 0.4}
method: ties
parameters: {density: 0.2, scope: model}
dtype: float16
seed: 0
"""


def test_the_documented_example_round_trips() -> None:
    recipe = Recipe.from_yaml(TEXT)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.values() == {"density": 0.2, "scope": "model", "scale": {"spam": 0.3, "movies": 0.4}}


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\x85\u2028\u2029", exclude_categories=("C", "Z")),
    min_size=1,
    max_size=12,
)


@given(
    st.lists(NAMES.filter(lambda n: not n.startswith(".")), min_size=1, max_size=5, unique=True),
    st.floats(-1, 2),
    st.integers(0, 2**31),
)
def test_any_recipe_round_trips(names: list[str], scale: float, seed: int) -> None:
    tasks = tuple(TaskEntry(n, f"models/{n}", {"scale": scale}) for n in names)
    recipe = Recipe(
        "base dir", tasks, "task_arithmetic", {"a": 1}, "bfloat16", seed, ("x.*",), ("*.bias",), "keep_base"
    )
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe and again.digest == recipe.digest


def test_add_ons_round_trip_in_their_order() -> None:
    text = TEXT + "add_ons:\n- lines: {alpha: 0.1}\n- consensus_mask\n"
    recipe = Recipe.from_yaml(text)
    assert recipe.add_ons == (("lines", {"alpha": 0.1}), ("consensus_mask", {}))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.digest != Recipe.from_yaml(TEXT).digest


@pytest.mark.parametrize("wrong", ["lines", "[{lines: 3}]", "[{a: {}, b: {}}]", "[3]", "{lines: {}}"])
def test_add_ons_must_be_a_list_of_names_with_parameters(wrong: str) -> None:
    with pytest.raises(RecipeError, match="add_ons must be a list of names or"):
        Recipe.from_yaml(f"{TEXT}add_ons: {wrong}\n")


def test_digest_sees_every_change() -> None:
    recipe = Recipe.from_yaml(TEXT)
    changed = [
        recipe.with_parameters(density=0.3),
        Recipe.from_yaml(TEXT.replace("0.4", "0.5")),
        Recipe.from_yaml(TEXT.replace("seed: 0", "seed: 1")),
    ]
    assert len({recipe.digest, *(r.digest for r in changed)}) == 4


def test_common_value_and_own_value_combine() -> None:
    recipe = Recipe("b", (TaskEntry("x", "x", {"scale": 0.1}), TaskEntry("y", "y")), parameters={"scale": 0.5})
    assert recipe.values() == {"scale": {"x": 0.1, "y": 0.5}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("method: ties", "methud: ties"), "Did you mean 'method'?"),
        (("dtype: float16", "dtype: float61"), "or 'float16'"),
        (("seed: 0", "seed: now"), "seed must be a whole number"),
        (("schema: 1", "schema: 9"), "schema must be 1"),
        (("{checkpoint: sample_checkpoints/spam, scale: 0.3}", "{scale: 0.3}"), "task spam must have a checkpoint"),
        (("spam:", "../spam:"), "task names must be plain text"),
    ],
)
def test_problems_are_named(change: tuple[str, str], expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml(TEXT.replace(*change))
    assert expected in str(error.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_yaml("base: 3\ntasks: {}\nseed: x\n")
    assert all(
        word in str(error.value) for word in ("base must be text", "tasks must name", "seed must", "method must")
    )


@pytest.mark.parametrize("text", ["[1, 2", "just words", "a: &x [*x]"])
def test_no_recipe_at_all(text: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.from_yaml(text)


def test_yaml_cannot_construct_objects() -> None:
    with pytest.raises(RecipeError):
        Recipe.from_yaml("base: !!python/object/apply:os.system ['true']")
