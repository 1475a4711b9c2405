"""The history of settings: pure functions on a small value, bounded, and never trusting what a browser kept of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer import history as h
from explorer.errors import InputError
from explorer.history import History, Setting, TaskCount
from explorer.kept_history import MAX_BYTES, from_json, kept_form, to_json
from explorer.recipe import Recipe, TaskEntry
from explorer.session import Session, restore, undo

RECIPE = Recipe("base", (TaskEntry("spam", "m/spam", {"scale": 0.3}), TaskEntry("movies", "m/movies")), "ties")
SCORES = (TaskCount("spam", 40, 40, 30, 0.9), TaskCount("movies", 40, 40, 20, 0.8))


def setting(density: float = 0.2, when: float = 1.0, models: str = "m", **more: Any) -> Setting:
    return Setting(RECIPE.with_parameters(density=density), models, when, **{"scores": SCORES, **more})


def filled(count: int, models: str = "m") -> History:
    history = History()
    for i in range(count):
        history = h.note(history, setting((i + 1) / 1000, i + 1.0, models))
    return history


def test_numbers_of_a_setting_follow_from_its_counts() -> None:
    one = setting()
    assert one.complete and one.score == 0.625
    assert one.normalized == pytest.approx((0.75 / 0.9 + 0.5 / 0.8) / 2)
    assert one.worst is not None and one.worst.task == "movies"
    unknown = replace(one, scores=(TaskCount("spam", 3, 40, 2),))
    assert not unknown.complete and math.isnan(unknown.normalized) and unknown.worst is None


def test_the_same_setting_again_becomes_the_newest_and_keeps_its_name_star_and_pin() -> None:
    history = h.note(h.note(History(), setting(0.1)), setting(0.2, 2.0))
    id = setting(0.1).id
    history = h.pin(h.star(h.rename(history, id, "mine"), id), id)
    again = setting(0.1, 3.0, scores=(TaskCount("spam", 8, 40, 8),))
    last = h.note(history, again).settings[-1]
    assert (last.id, last.name, last.starred, last.pinned, last.when) == (id, "mine", True, True, 3.0)
    assert last.scores == SCORES, "an estimate does not replace what is known exactly"
    assert len(h.note(history, again).settings) == 2


def test_the_order_of_tasks_parameters_is_no_other_setting_but_other_models_are() -> None:
    turned = replace(RECIPE, parameters={"scope": "model", "density": 0.2})
    same = replace(RECIPE, parameters={"density": 0.2, "scope": "model"})
    assert Setting(turned, "m", 1.0).id == Setting(same, "m", 2.0).id != Setting(same, "n", 2.0).id


def test_the_oldest_without_a_star_goes_first() -> None:
    full = filled(h.MAX_SETTINGS)
    first, second = full.settings[0].id, full.settings[1].id
    kept = h.note(h.star(full, first), setting(0.9, 1e6))
    ids = [s.id for s in kept.settings]
    assert len(ids) == h.MAX_SETTINGS and first in ids and second not in ids
    assert h.note(h.pin(full, second), setting(0.9, 1e6)).settings[0].id == second
    for one in full.settings[: h.MAX_STARRED]:
        full = h.star(full, one.id)
    with pytest.raises(InputError, match="at most 100 settings can be starred; got 100 already"):
        h.star(full, full.settings[-1].id)
    assert h.star(full, full.settings[-1].id, starred=False) == full


def test_settings_of_other_models_are_kept_apart_and_the_idlest_models_go() -> None:
    history = filled(3, "m0")
    for i in range(1, h.MAX_MODELS):
        history = h.note(history, setting(models=f"m{i}"))
    assert len(history.of("m0")) == 3 and len(history.of("m1")) == 1
    history = h.note(history, setting(models="new"))
    assert history.of("m0") == () and len(history.of("m1")) == 1 and len(history.of("new")) == 1


def test_one_setting_is_pinned_per_models() -> None:
    history = h.note(filled(3), setting(models="n"))
    a, b, c = (s.id for s in history.of("m"))
    history = h.pin(h.pin(h.pin(history, a), b), history.of("n")[0].id)
    assert [s.pinned for s in history.of("m")] == [False, True, False]
    pinned = history.pinned("m")
    assert pinned is not None and pinned.id == b and history.pinned("n") is not None
    assert h.unpin(history, "m").pinned("m") is None and h.unpin(history, "m").pinned("n") is not None
    with pytest.raises(InputError, match="must be a kept setting; got 'zzz'"):
        h.pin(history, "zzz")
    assert c in [s.id for s in history.settings]


def test_what_was_deleted_does_not_come_back_from_a_browser_until_it_is_tried_again() -> None:
    history, text = filled(2), to_json(filled(2), "m")
    gone = h.delete(history, history.settings[0].id)
    found, lost = from_json(text, RECIPE, "m")
    assert lost == 0 and h.joined(gone, found).settings == gone.settings
    assert len(h.joined(h.note(gone, history.settings[0]), found).settings) == 2
    assert kept_form(gone, "m")["removed"] == [history.settings[0].id]


def test_names_stars_and_pins_come_back_from_a_browser_also_for_what_was_scored_meanwhile() -> None:
    first, second = (s.id for s in filled(2).settings)
    before = h.pin(h.star(h.rename(filled(2), first, "mine"), first), first)
    found, _ = from_json(to_json(before, "m"), RECIPE, "m")
    again = h.note(History(), replace(filled(1).settings[0], when=9.0))
    last = h.joined(again, found).settings[-1]
    assert (last.id, last.name, last.starred, last.pinned, last.when) == (first, "mine", True, True, 9.0)
    pinned_here = h.joined(h.pin(h.note(again, filled(2).settings[1]), second), found)
    assert [s.id for s in pinned_here.settings if s.pinned] == [second], "a pin of now goes before one of then"
    assert h.joined(h.rename(again, first, "new"), found).get(first).name == "new"
    stars = [replace(setting(i / 1000, float(i)), starred=True) for i in range(1, 141)]
    assert [s.starred for s in h.joined(History(), stars).settings] == [False] * 40 + [True] * h.MAX_STARRED


def test_names_are_one_plain_line() -> None:
    history = filled(1)
    id = history.settings[0].id
    shown = h.rename(history, id, "  <b>mine\u202e</b>\n\x00 " + "x" * 100).settings[0].name
    assert shown.startswith("<b>mine </b> x") and len(shown) == h.MAX_NAME
    assert h.rename(history, id, " \t").settings[0].name == ""


def test_restoring_is_a_change_that_can_be_undone() -> None:
    session = Session(RECIPE, history=filled(2))
    after = restore(session, session.history.settings[0].id)
    assert after.recipe.parameters == {"density": 0.001} and undo(after).recipe == RECIPE
    assert undo(after).history == session.history


def test_text_and_back_keeps_every_digit() -> None:
    exact = replace(
        RECIPE.with_parameters(density=0.1 + 0.2, scope="model"),
        tasks=(TaskEntry("spam", "m/spam", {"scale": 1.0}), TaskEntry("movies", "m/movies", {"scale": 1 / 3})),
        add_ons=(("lines", {"alpha": 0.5}),), dtype="float16", seed=7,
    )  # fmt: skip
    one = Setting(exact, "m", 1.75e9, (SCORES[0], TaskCount("movies", 7, 40, 3)), "<b>", starred=True, pinned=True)
    text = to_json(History((one, setting(models="n"))), "m")
    in_a_browser = json.dumps(json.loads(text, parse_float=lambda x: int(float(x)) if x.endswith(".0") else float(x)))
    (back,), lost = from_json(in_a_browser, RECIPE, "m")
    assert lost == 0 and back.id == one.id and back.recipe == exact and back.scores[0] == one.scores[0]
    assert (back.name, back.starred, back.pinned, back.when) == ("<b>", True, True, 1.75e9)
    assert math.isnan(back.scores[1].expert) and "m/spam" not in text and "base" not in text


def test_text_is_bounded_and_the_starred_stay() -> None:
    wide = {f"layer.{i}.*": i / 1000 for i in range(1, 650)}
    history = History()
    for i in range(80):
        history = h.note(history, Setting(RECIPE.with_parameters(density=wide, k=i), "m", i + 1.0, SCORES))
    history = h.star(history, history.settings[0].id)
    kept = kept_form(history, "m")
    assert len(to_json(history, "m").encode()) <= MAX_BYTES + 1000
    assert 20 < len(kept["settings"]) < 80
    assert kept["settings"][0]["starred"] and kept["settings"][-1]["id"] == history.settings[-1].id
    huge = Setting(RECIPE.with_parameters(density={str(i): 0.1 for i in range(5000)}), "m", 1.0, SCORES)
    assert kept_form(h.note(History(), huge), "m")["settings"] == []


def entry(**changes: Any) -> dict[str, Any]:
    return {**kept_form(History((setting(),)), "m")["settings"][0], **changes}


def of_settings(**changes: Any) -> str:
    return json.dumps({**h.settings_of(RECIPE), **changes})


BAD = {
    "no mapping": 7,
    "no time": {**entry(), "when": None},
    "a time that is true": entry(when=True),
    "a time beyond all times": entry(when=1e300),
    "a name that is a list": entry(name=["x"]),
    "a name without end": entry(name="x" * 10_000),
    "a star that is 1": entry(starred=1),
    "no scores": entry(scores=[]),
    "more right than answered": entry(scores=[["spam", 4, 40, 5, None]]),
    "more answered than there are": entry(scores=[["spam", 41, 40, 5, None]]),
    "half an example": entry(scores=[["spam", 4.0, 40, 2, None]]),
    "nothing answered": entry(scores=[["spam", 0, 40, 0, None]]),
    "an expert beyond 1": entry(scores=[["spam", 4, 40, 2, 1.5]]),
    "a task of other models": entry(scores=[["toxic", 4, 40, 2, None]]),
    "a task twice": entry(scores=[["spam", 4, 40, 2, None]] * 2),
    "settings that are no text": entry(settings={"method": "ties"}),
    "settings too long": entry(settings=" " * 20_000),
    "settings too deep": entry(settings="[" * 10_000),
    "an unknown method": entry(settings=of_settings(method="magic")),
    "a density of 20": entry(settings=of_settings(parameters={"density": 20})),
    "a number that is none": entry(settings=of_settings(parameters={"density": math.nan})),
    "an unknown parameter": entry(settings=of_settings(parameters={"path": "/etc/passwd"})),
    "a task that is missing": entry(settings=of_settings(tasks={"spam": {}})),
    "a checkpoint of its own": entry(settings=of_settings(tasks={"spam": {"checkpoint": "/etc"}, "movies": {}})),
    "statistics of its own": entry(settings=of_settings(tasks={"spam": {"statistics": "/etc"}, "movies": {}})),
    "an unknown add-on": entry(settings=of_settings(add_ons=[{"virus": {}}])),
    "a dtype that is none": entry(settings=of_settings(dtype="int1")),
}


@pytest.mark.parametrize("what", BAD)
def test_an_entry_with_any_wrong_field_is_left_out_and_counted(what: str) -> None:
    text = json.dumps({"version": 1, "models": "m", "settings": [BAD[what], entry()]})
    found, lost = from_json(text, RECIPE, "m")
    assert [s.id for s in found] == [setting().id] and lost == 1


def test_a_text_that_is_no_history_of_these_models_is_refused_in_words() -> None:
    for text, got in {
        "": "damaged text", "[1": "damaged text", "[" * 100_000: "damaged text", "NaN": "damaged text",
        "[]": "something else", '{"version": 2, "models": "m", "settings": []}': "something else",
        '{"version": 1, "models": "n", "settings": []}': "one of other models", "9" * 5000: "damaged text",
        " " * 3_000_000: "3,000,000 characters",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=f"must be what this page kept in the browser; got {got}"):
            from_json(text, RECIPE, "m")
    with pytest.raises(InputError, match="got NoneType"):
        from_json(None, RECIPE, "m")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["spam", "ties"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(
        st.sampled_from(["settings", "when", "scores", "name", "starred", "spam", "scale"]), inner, max_size=6
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(list(entry())), PLAIN), st.dictionaries(st.sampled_from(["method", "parameters", "tasks", "add_ons", "dtype", "seed"]), PLAIN), PLAIN)  # fmt: skip  # noqa: E501
def test_garbage_never_gets_through(fields: dict[str, Any], inside: dict[str, Any], other: Any) -> None:
    spoilt = entry(settings=of_settings(**inside), **{k: v for k, v in fields.items() if k != "settings"})
    text = json.dumps({"version": 1, "models": "m", "settings": [spoilt, other, entry(**fields)]})
    try:
        found, lost = from_json(text, RECIPE, "m")
    except InputError as error:
        assert "damaged text" in str(error)  # NaN is no JSON
        return
    assert len(found) + lost == 3
    for one in h.joined(History(), found).settings:
        assert one.recipe.checkpoints == RECIPE.checkpoints and one.scores and 0 <= one.score <= 1
        assert from_json(to_json(History((one,)), "m"), RECIPE, "m")[0][0].id == one.id
