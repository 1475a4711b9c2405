"""Between the page's controls and a recipe: nothing from the page is trusted, nothing is lost on the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from explorer.errors import ParameterError
from explorer.interference import METRICS
from explorer.merging import METHODS
from explorer.params import Choice, Range, Spec
from explorer.recipe import Recipe, TaskEntry
from explorer.session import Session, change, redo, undo
from viz.panels import words
from viz.panels.settings import (
    describe_change,
    mixer_spec,
    other_specs,
    recipe_from,
    show_controls,
    show_mixer,
    switch_method,
    turn_of,
)
from viz.parts import controls_value, read_controls, read_mixer

TASKS = ("spam", "movies")
PLAIN = Recipe("base", tuple(TaskEntry(t, f"m/{t}") for t in TASKS))
ALL_SPECS = [(m.name, m.specs) for m in METHODS] + [(m.name, m.specs) for m in METRICS]


def specs(method: str) -> tuple[Spec, ...]:
    return METHODS.get(method).specs


def page(recipe: Recipe, mixer: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page shows for a recipe: mixer and controls."""
    method = METHODS.get(recipe.method)
    return show_mixer(recipe, method.specs, mixer), show_controls(recipe, method.title, method.specs)


def read(recipe: Recipe, mixer: Any, controls: Any, method: str | None = None) -> Recipe:
    name = method or recipe.method
    return recipe_from(recipe, name, specs(name), mixer, controls)


def of(method: str, common: dict[str, Any] | None = None, **per_task: dict[str, Any]) -> Recipe:
    tasks = tuple(TaskEntry(t, f"m/{t}", {n: v[t] for n, v in per_task.items() if t in v}) for t in TASKS)
    return Recipe("base", tasks, method, common or {})


# ---------------------------------------------------------------- controls


@pytest.mark.parametrize(("name", "declared"), ALL_SPECS, ids=[n for n, _ in ALL_SPECS])
def test_every_declaration_makes_controls_whose_ends_are_legal(name: str, declared: tuple[Spec, ...]) -> None:
    value = controls_value(name, declared)
    assert [s["name"] for s in value["specs"]] == [s.name for s in declared]
    assert read_controls(value, declared, who=name) == {s.name: s.default for s in declared}
    for shown, spec in zip(value["specs"], declared, strict=True):
        assert shown["help"] == spec.help and shown["must"] == spec.must and shown["label"]
        if isinstance(spec.allowed, Range):
            assert shown["control"] == "slider" and shown["step"] > 0
            for end in (shown["low"], shown["high"]):
                assert spec.check(spec.type(end), who=name) == end
            kept = (spec.allowed.low, spec.allowed.high, spec.allowed.open_low, spec.allowed.open_high)
            assert tuple(shown["bounds"].values()) == kept
        elif isinstance(spec.allowed, Choice):
            assert shown["control"] == "list" and len(shown["options"]) == len(shown["labels"])
        else:
            assert shown["control"] == ("switch" if spec.type is bool else "text")


@pytest.mark.parametrize(("name", "declared"), ALL_SPECS, ids=[n for n, _ in ALL_SPECS])
def test_every_illegal_value_from_the_page_is_refused_with_its_sentence(name: str, declared: tuple[Spec, ...]) -> None:
    for spec in declared:
        for wrong in spec.illegal():
            value = controls_value(name, declared)
            value["values"][spec.name] = wrong
            with pytest.raises(ParameterError) as caught:
                read_controls(value, declared, who=name)
            assert str(caught.value) == spec.message(name, wrong)


@pytest.mark.parametrize("wrong", [None, [], "x", 3, {}, {"values": []}, {"values": "x"}])
def test_what_is_no_value_of_controls_is_refused(wrong: Any) -> None:
    with pytest.raises(ParameterError, match="the settings must be a mapping"):
        read_controls(wrong, specs("ties"), who="ties")


@pytest.mark.parametrize(
    "values",
    [
        {"density": 10**400}, {"density": {"spam": 0.2}}, {"density": [0.2]}, {"density": True}, {"density": None},
        {"reduce": {"a": 1}}, {"reduce": ["mean"]}, {"densty": 0.2}, {"__class__": 1}, {"scope": 3},
    ],
)  # fmt: skip
def test_tampered_controls_are_refused(values: dict[str, Any]) -> None:
    mixer, controls = page(of("ties"))
    controls["values"].update(values)
    with pytest.raises(ParameterError, match=r"^ties"):
        read(of("ties"), mixer, controls)


@pytest.mark.parametrize("number", [float("nan"), 10**400, "0.3", None, 9.0])
def test_tampered_mixers_are_refused(number: Any) -> None:
    mixer, controls = page(of("ties"))
    mixer["tasks"][1]["value"] = number
    with pytest.raises(ParameterError, match="coefficient of 'movies' must be a number between -1 and 2"):
        read(of("ties"), mixer, controls)
    mixer["tasks"][1]["name"] = "other"
    with pytest.raises(ParameterError, match="there must be one row for each of"):
        read(of("ties"), mixer, controls)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("method", METHODS.names())
def test_what_is_shown_reads_back_as_the_same_values(method: str) -> None:
    recipe = of(method)
    got = read(recipe, *page(recipe))
    assert got.method == method and not got.parameters, "defaults stay unsaid"
    mixed = mixer_spec(specs(method))
    assert got.values() == ({mixed.name: dict.fromkeys(TASKS, mixed.default)} if mixed else {})
    assert read(got, *page(got)) == got


def test_given_values_read_back() -> None:
    recipe = of("ties", {"density": 0.35, "reduce": "sum"}, scale={"spam": 0.5, "movies": -0.2})
    assert read(recipe, *page(recipe)) == recipe


def test_values_per_task_survive_another_control() -> None:
    recipe = of("ties", None, scale=dict.fromkeys(TASKS, 1.0), density={"spam": 0.1, "movies": 0.4})
    mixer, controls = page(recipe)
    assert controls["values"]["density"] == 0.1
    mixer["tasks"][0]["value"] = 0.7
    assert read(recipe, mixer, controls).values() == {
        "scale": {"spam": 0.7, "movies": 1.0}, "density": {"spam": 0.1, "movies": 0.4},
    }  # fmt: skip
    controls["values"]["density"] = 0.3
    assert read(recipe, mixer, controls).values()["density"] == 0.3


def test_numbers_that_came_as_text_are_numbers() -> None:
    recipe = of("ties", {"scale": "0.5"})
    assert [r["value"] for r in show_mixer(recipe, specs("ties"))["tasks"]] == [0.5, 0.5]
    assert switch_method(recipe, specs("ties"), "task_arithmetic", specs("task_arithmetic")).values() == {
        "scale": {"spam": 0.5, "movies": 0.5}
    }
    broken = of("ties", {"scale": "lots"})
    assert [r["value"] for r in show_mixer(broken, specs("ties"))["tasks"]] == [1.0, 1.0]


def test_a_method_without_coefficients_disables_the_mixer() -> None:
    plain = tuple(s for s in specs("ties") if s.name not in ("scale", "weight"))
    assert mixer_spec(plain) is None and "no coefficient" in show_mixer(PLAIN, plain)["disabled"]
    assert recipe_from(PLAIN, "ties", plain, None, show_controls(PLAIN, "t", plain)).tasks == PLAIN.tasks


def test_settings_come_plain_ones_first() -> None:
    order = [s.advanced for s in other_specs(specs("ties"))]
    assert order == sorted(order) and "scale" not in [s.name for s in other_specs(specs("ties"))]


# ---------------------------------------------------------------- another method


def test_switching_keeps_what_both_methods_know() -> None:
    recipe = of("ties", {"density": 0.3, "reduce": "sum"}, scale={"spam": 0.5, "movies": 0.2})
    got = switch_method(recipe, specs("ties"), "consensus", specs("consensus"))
    assert got.method == "consensus"
    assert got.parameters == {"density": 0.3}
    assert got.values()["scale"] == {"spam": 0.5, "movies": 0.2}


def test_switching_gives_untouched_coefficients_the_new_default() -> None:
    recipe = of("task_arithmetic", None, scale=dict.fromkeys(TASKS, 0.3))
    got = switch_method(recipe, specs("task_arithmetic"), "ties", specs("ties"))
    assert got.values() == {"scale": {"spam": 1.0, "movies": 1.0}}
    other = switch_method(recipe, specs("task_arithmetic"), "weight_average", specs("weight_average"))
    assert other.values() == {"weight": {"spam": 1.0, "movies": 1.0}}


@pytest.mark.parametrize("before", METHODS.names())
@pytest.mark.parametrize("after", ["task_arithmetic", "ties", "weight_average", "tall_masks"])
def test_every_switch_is_legal(before: str, after: str) -> None:
    recipe = of(before)
    got = switch_method(recipe, specs(before), after, specs(after))
    for spec in specs(after):
        spec.check(got.values().get(spec.name, spec.default), who=after, tasks=TASKS)


# ---------------------------------------------------------------- mute, solo and the way back


def muted(mixer: dict[str, Any], *tasks: str) -> dict[str, Any]:
    made = copy.deepcopy(mixer)
    for row in made["tasks"]:
        row["muted"] = row["name"] in tasks
    return made


def test_a_muted_task_keeps_the_value_it_will_come_back_with() -> None:
    start = of("task_arithmetic", None, scale={"spam": 0.5, "movies": 0.2})
    mixer, controls = page(start)
    mixer = muted(mixer, "spam")
    silent = read(start, mixer, controls)
    assert silent.values()["scale"] == {"spam": 0.0, "movies": 0.2}
    again, _ = page(silent, mixer)
    assert [(r["muted"], r["value"]) for r in again["tasks"]] == [(True, 0.5), (False, 0.2)]
    assert read_mixer(again, TASKS, -1, 2) == {"spam": 0.0, "movies": 0.2}
    assert read_mixer(muted(again), TASKS, -1, 2) == {"spam": 0.5, "movies": 0.2}


def test_undo_of_a_mute_brings_the_task_back_and_redo_silences_it() -> None:
    start = of("task_arithmetic", None, scale={"spam": 0.5, "movies": 0.2})
    mixer, controls = page(start)
    mixer = muted(mixer, "spam")
    session = change(Session(start), read(start, mixer, controls))
    session = undo(session)
    shown, controls = page(session.recipe, mixer)
    assert not any(r["muted"] for r in shown["tasks"])
    assert read(session.recipe, shown, controls).values() == start.values()
    session = redo(session)
    shown, controls = page(session.recipe, shown)
    assert read(session.recipe, shown, controls).values()["scale"] == {"spam": 0.0, "movies": 0.2}


def test_undo_of_a_solo_clears_it() -> None:
    start = of("task_arithmetic", None, scale={"spam": 0.5, "movies": 0.2})
    mixer, controls = page(start)
    mixer = {**mixer, "solo": "movies"}
    alone = read(start, mixer, controls)
    assert alone.values()["scale"] == {"spam": 0.0, "movies": 0.2}
    assert page(alone, mixer)[0]["solo"] == "movies" and page(alone, mixer)[0]["tasks"][0]["value"] == 0.5
    assert page(start, mixer)[0]["solo"] is None


@pytest.mark.parametrize("previous", [None, 3, "x", [], {"tasks": 3}, {"tasks": [3, {"name": 4, "muted": True}]}])
def test_a_tampered_earlier_mixer_is_survived(previous: Any) -> None:
    shown = show_mixer(of("ties"), specs("ties"), previous)
    assert [r["value"] for r in shown["tasks"]] == [1.0, 1.0]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, of("ties"), "TITLE"),
        (of("ties"), of("task_arithmetic"), "TITLE"),
        (of("ties"), of("ties"), "TITLE"),
        (of("ties", {"density": 0.2}), of("ties", {"density": 0.3}), "density 0.20 → 0.30"),
        (of("ties"), of("ties", {"reduce": "sum"}), "reduce default → sum"),
        (of("ties", None, scale={"spam": 0.3}), of("ties", None, scale={"spam": 0.45}), "spam 0.30 → 0.45"),
        (of("ties", {"scale": 0.3}), of("ties", None, scale={"spam": 0.3, "movies": 0.5}), "movies 0.30 → 0.50"),
        (of("ties"), of("ties", None, scale={"spam": 0.5}), "spam default → 0.50"),
        (
            of("ties", {"density": 0.2}, scale={"spam": 0.3}),
            of("ties", {"density": 0.4}, scale={"spam": 0.6}),
            "density 0.20 → 0.40, spam 0.30 → 0.60",
        ),
    ],
)  # fmt: skip
def test_a_change_in_words(before: Recipe | None, now: Recipe, said: str) -> None:
    assert describe_change(before, now, "TITLE") == said


def test_defaults_stand_for_what_a_recipe_leaves_open() -> None:
    now = of("ties", {"density": 0.4}, scale={"spam": 0.5, "movies": 1.0})
    said = describe_change(of("ties"), now, "T", {"density": 0.2, "scale": 1.0})
    assert sorted(said.split(", ")) == ["density 0.20 → 0.40", "spam 1.00 → 0.50"]


def test_many_changes_and_the_dtype_in_words() -> None:
    names = [f"t{i}" for i in range(4)]
    one, other = (Recipe("b", tuple(TaskEntry(n, n, {"scale": s}) for n in names)) for s in (0.3, 0.4))
    assert describe_change(one, other, "T") == "scale of 4 tasks"
    half = Recipe("b", one.tasks, dtype="float16")
    assert describe_change(one, half, "T") == "stored as float16"
    assert describe_change(half, one, "T") == "stored as the base"


def test_pieces_of_the_page_escape_names() -> None:
    import pandas as pd

    evil = "<img src=x onerror=alert(1)>"
    frame = pd.DataFrame({evil: [evil], "n": [evil]})
    made = [words.note(evil), words.table(frame, caption=evil, numeric=("n",)), words.figure(evil, evil, evil)]
    assert all("<img" not in text and "&lt;img" in text for text in made)
    assert words.note("") == "" and 'role="alert"' in words.note("a\nb", kind="problem")
    assert words.change_text(0.5, 0.4) == ("+10.0 points", "better")
    assert words.change_text(0.4, 0.5)[1] == "worse" and words.change_text(0.4, 0.4) == ("as before", "same")
    assert words.change_text(float("nan"), 0.4) == ("", "") and words.share(float("nan")) == "–"


@pytest.mark.parametrize(
    ("values", "turn"),
    [
        (({"turn": 3}, {"turn": 5}), 5),
        (({"turn": 3}, {}), 3),
        (({}, None), None),
        (({"turn": "9"}, {"turn": True}, {"turn": -1}, {"turn": 1 << 60}, {"turn": 2.5}, 7), None),
    ],
)
def test_the_newest_turn_of_what_the_page_sent(values: tuple[Any, ...], turn: int | None) -> None:
    assert turn_of(*values) == turn
