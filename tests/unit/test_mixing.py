"""Curves over depth between the Mixer and a recipe: there and back, through undo, mute and other methods."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from explorer.curves import blocks_of, places_of, presets
from explorer.errors import ParameterError, PathError
from explorer.merging import METHODS
from explorer.recipe import Recipe, TaskEntry
from explorer.session import Session, change, redo, undo
from viz.panels.mixing import TensorNames
from viz.panels.settings import describe_change, recipe_from, show_controls, show_mixer, switch_method

TASKS = ("spam", "movies")
IN_LAYER = ("attention.self.query", "mlp.fc1", "norm")
NAMES = (
    "embeddings.word.weight",
    *(f"encoder.layer.{i}.{m}.{k}" for i in range(3) for m in IN_LAYER for k in ("weight", "bias")),
)
UP = {"attention": [1.0, 0.25, 0.5, 0.75]}
HAND = {"*norm*": 1.9, "encoder.layer.1.*": 0.05, "*": 0.6}
"""By hand: three times the coefficient and more, which no curve gives."""


def of(spam: Any = 0.3, movies: Any = 0.4, method: str = "task_arithmetic") -> Recipe:
    values = {"spam": spam, "movies": movies}
    return Recipe("base", tuple(TaskEntry(t, f"m/{t}", {"scale": values[t]}) for t in TASKS), method)


def shown(recipe: Recipe, previous: Any = None, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return show_mixer(recipe, METHODS.get(recipe.method).specs, previous, names=names)


def read(recipe: Recipe, mixer: Any, method: str | None = None, past: tuple[Recipe, ...] = ()) -> Recipe:
    specs = METHODS.get(method or recipe.method).specs
    controls = show_controls(recipe, "m", specs)
    return recipe_from(recipe, method or recipe.method, specs, mixer, controls, names=NAMES, past=past)


def moved(mixer: dict[str, Any], task: int = 0, **changes: Any) -> dict[str, Any]:
    """The mixer after a person's move of one row."""
    made = copy.deepcopy(mixer)
    made["tasks"][task].update(changes)
    return made


def scale(recipe: Recipe, task: str = "spam") -> Any:
    return recipe.values()["scale"][task]


def test_a_drawn_curve_is_in_the_recipe_and_comes_back() -> None:
    mixer = moved(shown(of()), curve=UP)
    drawn = read(of(), mixer)
    assert scale(drawn) == {
        "encoder.layer.0.attention.*": 0.075, "encoder.layer.1.attention.*": 0.15,
        "encoder.layer.2.attention.*": 0.225, "*": 0.3,
    }  # fmt: skip
    assert scale(drawn, "movies") == 0.4
    again = shown(Recipe.from_yaml(drawn.to_yaml()))
    assert again["tasks"][0]["curve"] == UP and again["tasks"][0]["value"] == 0.3 and again["tasks"][0]["own"] is None
    assert read(drawn, again) == drawn
    louder = read(drawn, moved(again, value=0.6))
    assert scale(louder)["encoder.layer.1.attention.*"] == 0.3 and scale(louder)["*"] == 0.6
    assert scale(read(drawn, moved(again, curve={}))) == 0.3


def test_every_preset_reads_back_for_every_choice_of_modules() -> None:
    ready = presets(places_of(NAMES))
    assert [p["name"] for p in shown(of())["depth"]["presets"]] == list(ready)
    for values in ready.values():
        for lanes in (("attention",), ("mlp", "norm"), ("attention", "mlp", "norm", "rest")):
            drawn = read(of(), moved(shown(of()), curve={lane: list(values) for lane in lanes}))
            assert read(drawn, shown(drawn)) == drawn


def test_undo_and_redo_of_a_curve() -> None:
    start = of()
    mixer = moved(shown(start), curve=UP)
    session = change(Session(start), read(start, mixer))
    session = undo(session)
    mixer = shown(session.recipe, mixer)
    assert mixer["tasks"][0]["curve"] == {} and read(session.recipe, mixer) == start
    session = redo(session)
    mixer = shown(session.recipe, mixer)
    assert mixer["tasks"][0]["curve"] == UP and read(session.recipe, mixer) == session.recipe


def test_a_mute_and_a_slider_at_zero_hide_the_curve_only() -> None:
    drawn = read(of(), moved(shown(of()), curve=UP))
    for silent, loud in ({"muted": True}, {"muted": False}), ({"value": 0.0}, {"value": 0.3}):
        mixer = moved(shown(drawn), **silent)
        quiet = read(drawn, mixer)
        assert scale(quiet) == 0.0
        mixer = shown(quiet, mixer)
        assert mixer["tasks"][0]["curve"] == UP
        assert read(quiet, moved(mixer, **loud)) == drawn


def test_values_by_hand_stay_until_slider_or_curve_is_moved() -> None:
    hand = of(HAND)
    mixer = shown(hand)
    row = mixer["tasks"][0]
    assert (row["value"], row["curve"], row["own"]) == (0.6, {}, 0.6)
    assert scale(read(hand, moved(mixer, 1, value=0.1))) == HAND
    assert scale(read(hand, moved(mixer, value=0.7))) == 0.7
    assert scale(read(hand, moved(mixer, own=None))) == 0.6
    assert scale(read(hand, moved(mixer, curve=UP, own=None)))["encoder.layer.0.attention.*"] == 0.15
    plain = {"encoder.layer.1.*": 0.3, "*": 0.6}
    written = of({**plain, "encoder.layer.2.norm.weight": 0.6})
    assert shown(written)["tasks"][0]["own"] is None and read(written, shown(written)) == written, "kept as written"


def test_values_by_hand_come_back_after_a_mute() -> None:
    hand = of(HAND)
    mixer = moved(shown(hand), muted=True)
    quiet = read(hand, mixer)
    assert scale(quiet) == 0.0
    mixer = moved(shown(quiet, mixer), muted=False)
    assert mixer["tasks"][0]["own"] == 0.6
    assert read(quiet, mixer, past=(hand,)) == hand
    assert scale(read(quiet, mixer, past=(of(), replace(hand, method="dare")))) == 0.6, "not another method's"
    silenced = of({"*norm*": 0.4, "*": 0.0})
    assert read(silenced, shown(silenced)) == silenced, "a last value of 0 is no mute"


def test_methods_say_whether_they_have_curves() -> None:
    with_curve, without = shown(of()), shown(of(method="ties"))
    assert with_curve["no_depth"] == "" and [k["label"] for k in with_curve["depth"]["knots"]] == ["emb", "0", "1", "2"]
    assert without["depth"] is None and "one coefficient per task for the whole model" in without["no_depth"]
    assert shown(of(), names=())["depth"] is None and shown(of(), names=())["no_depth"] == ""
    for method in METHODS:
        value = show_mixer(replace(of(), method=method.name), method.specs, names=NAMES)
        mixed = next((s for s in method.specs if s.name in ("scale", "weight") and s.per_task), None)
        assert (value["depth"] is not None) == bool(mixed and mixed.per_block)
    drawn = read(of(), moved(shown(of()), curve=UP))
    ties, dare = METHODS.get("ties").specs, METHODS.get("dare").specs
    specs = METHODS.get("task_arithmetic").specs
    assert scale(switch_method(drawn, specs, "dare", dare)) == scale(drawn)
    assert scale(switch_method(drawn, specs, "ties", ties)) == 0.3


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ({"attention": [1, 1, 1]}, "must have 4 numbers between 0 and 2"),
        ({"attention": [1, 1, 1, 2.5]}, "must have 4 numbers between 0 and 2"),
        ({"attention": [1, 1, 1, float("nan")]}, "must have 4 numbers between 0 and 2"),
        ({"attention": [1, 1, 1, 10**400]}, "must have 4 numbers between 0 and 2"),
        ({"attention": [1, 1, 1, True]}, "must have 4 numbers between 0 and 2"),
        ({"attention": "1111"}, "must have 4 numbers between 0 and 2"),
        ({"attention": None}, "must have 4 numbers between 0 and 2"),
        ({"heads": [1, 1, 1, 1]}, "must be given by attention, mlp, norm, rest"),
        ([1, 1, 1, 1], "must be given by attention, mlp, norm, rest"),
        ("flat", "must be given by attention, mlp, norm, rest"),
    ],
)
def test_tampered_curves_are_refused(curve: Any, said: str) -> None:
    with pytest.raises(ParameterError, match=f"mixer: the curve of 'spam' {said}"):
        read(of(), moved(shown(of()), curve=curve))
    assert shown(of(0.0), moved(shown(of(0.0)), curve=curve, muted=True))["tasks"][0]["curve"] == {}


@pytest.mark.parametrize("own", [10**400, float("nan"), "0.6", True, {"a": 1}])
def test_a_tampered_mark_of_own_values_counts_for_nothing(own: Any) -> None:
    assert scale(read(of(), moved(shown(of()), own=own), past=(of(HAND),))) == 0.3


def test_curves_for_a_method_without_them_are_refused() -> None:
    with pytest.raises(ParameterError, match="nothing, for there is no depth"):
        read(of(), moved(shown(of()), curve=UP), method="ties")


def test_a_change_of_the_curve_in_words() -> None:
    drawn = read(of(), moved(shown(of()), curve=UP))
    other = read(of(), moved(shown(of()), curve={"mlp": UP["attention"]}))
    assert describe_change(of(), drawn, "T") == "spam 0.30 → 0.30 by tensor"
    assert describe_change(drawn, other, "T") == "spam by tensor"


def test_names_are_opened_once_for_each_choice_of_models() -> None:
    asked: list[Recipe] = []

    class Models:
        names = NAMES

    def models(recipe: Recipe) -> Models:
        asked.append(recipe)
        if recipe.base == "gone":
            raise PathError("gone")
        return Models()

    names = TensorNames(models)
    assert names(of()) == names(of(0.9)) == NAMES and len(asked) == 1
    assert names(of(), again=True) == NAMES and len(asked) == 2
    assert names(replace(of(), base="gone")) == ()
    for i in range(40):
        names(replace(of(), base=str(i)))
    assert len(names._known) == 32


def test_a_curve_that_passes_the_range_stops_at_its_end() -> None:
    loud = blocks_of(1.5, {"mlp": (1, 2, 1, 1)}, places_of(NAMES), -1, 2)
    row = shown(of(loud))["tasks"][0]
    assert isinstance(loud, dict) and loud["encoder.layer.0.mlp.*"] == 2.0 and row["own"] is None
    assert scale(read(of(loud), shown(of(loud)))) == loud
