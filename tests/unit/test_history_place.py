"""The place History without a browser: what its parts are given, and what comes back from them unchecked."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.history import MAX_MODELS, MAX_NAME, MAX_SETTINGS
from explorer.history_words import setting_words, settings_result
from explorer.kept_history import VERSION
from explorer.noting import models_key, noted
from explorer.session import change
from explorer.slots import Slot
from explorer.streaming import stream
from explorer.workbench import Workbench
from viz.panels.history import AGAIN, IS_A, NO_PIN, HistoryPlace, _View
from viz.panels.history_rows import picked_move
from viz.parts import HistoryKeeper, history_keeper, history_table, read_act, read_kept

KEEPER, NOTE, TABLE, PARALLEL, STATE, DIFFERENCE = range(6)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


@pytest.fixture
def place(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> HistoryPlace:
    """The place, looked at."""
    monkeypatch.setattr("viz.panels.history._View", partial(_View, opened=True))
    with gr.Blocks():
        return HistoryPlace(bench, HistoryKeeper())


def scored(bench: Workbench, zoo: Path, *scales: float, id: str = "a") -> Slot:
    slot = bench.slot(id)
    for value in scales:
        slot.session = change(slot.session, recipe_of(zoo, parameters={"scale": value}))
        for update in stream(bench, slot, slot.session.recipe, slot.newest()):
            slot.session = noted(slot.session, update, models_key(bench, slot.session.recipe))
    return slot


def rows(shown: list[Any]) -> list[dict[str, Any]]:
    return shown[TABLE]["rows"]


def test_a_reload_brings_everything_back(bench: Workbench, place: HistoryPlace, zoo: Path) -> None:
    slot = scored(bench, zoo, 0.1, 0.7)
    first = rows(place.show(slot))[0]["id"]
    for act in ({"do": "rename", "id": first, "name": "<b>mine"}, {"do": "star", "id": first, "starred": True}):
        (shown,) = place.act(slot, act)
    kept = json.dumps(shown[KEEPER])
    new = scored(bench, zoo, 0.3, id="reloaded")
    (after,) = place.join(new, kept)
    assert [r["words"] for r in rows(after)] == ["scale 0.1", "scale 0.7", "defaults"]
    assert (rows(after)[0]["name"], rows(after)[0]["starred"], after[NOTE]) == ("<b>mine", True, "")
    place.bring_back(new, {"id": first, "turn": 5})
    assert new.session.recipe.parameters == {"scale": 0.1} and new.session.can_undo
    (refused,) = place.join(new, "nonsense")
    assert "damaged text" in refused[NOTE] and len(rows(refused)) == 3
    broken = {**shown[KEEPER], "settings": [*shown[KEEPER]["settings"], 7]}
    (partly,) = place.join(new, json.dumps(broken))
    assert "1 of the kept settings could not be read" in partly[NOTE]


def test_b_is_compared_with_the_pinned_a_and_a_is_scored_again_where_it_must(
    bench: Workbench, place: HistoryPlace, zoo: Path
) -> None:
    slot = scored(bench, zoo, 0.1, 1.5)
    (shown,) = place.follow(slot)
    assert shown[DIFFERENCE] == {"empty": NO_PIN} and shown[PARALLEL]["name"] == "settings_parallel"
    first = rows(shown)[0]["id"]
    (compared,) = place.act(slot, {"do": "pin", "id": first})
    assert compared[DIFFERENCE]["name"] == "ab_difference" and "scale 0.1" in compared[DIFFERENCE]["note"]
    wider = place.set_min_effect(slot, 5.0)[DIFFERENCE]
    assert wider["csv"] != compared[DIFFERENCE]["csv"] and ",0.05," in wider["csv"]
    place.set_min_effect(slot, 0.5)
    bench.store.drop("predictions/")
    scored(bench, zoo, 1.5)
    missing, *more, last = place.follow(slot)
    assert AGAIN in missing[STATE] and AGAIN in missing[DIFFERENCE]["empty"]
    assert more and all(AGAIN in m[STATE] and "of 120 examples" in m[STATE] for m in more)
    assert last[STATE] == "" and last[DIFFERENCE]["csv"] == compared[DIFFERENCE]["csv"]
    place.bring_back(slot, {"id": first})
    assert place.show(slot)[DIFFERENCE] == {"empty": IS_A}
    (unpinned,) = place.act(slot, {"do": "unpin", "id": first})
    assert unpinned[DIFFERENCE] == {"empty": NO_PIN}
    (gone,) = place.act(slot, {"do": "delete", "id": first})
    assert [r["id"] for r in rows(gone)] != [first] and gone[KEEPER]["removed"] == [first]
    (unknown,) = place.act(slot, {"do": "pin", "id": first})
    assert "must be a kept setting" in unknown[NOTE]


def test_it_is_drawn_once_it_is_opened_and_kept_before(
    bench: Workbench, place: HistoryPlace, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viz.panels.history._View", _View)
    slot = scored(bench, zoo, 0.2, id="unopened")
    shown = place.show(slot)
    assert len(shown[KEEPER]["settings"]) == 1 and all(value == gr.skip() for value in shown[TABLE:])
    assert len(rows(next(iter(place.open(slot))))) == 1 and len(rows(place.show(slot))) == 1


def test_a_line_that_is_clicked_marks_its_row(bench: Workbench, place: HistoryPlace, zoo: Path) -> None:
    slot = scored(bench, zoo, 0.1, 0.7)
    second = rows(place.show(slot))[1]["id"]
    pick = {"points": [{"customdata": {"move": 2}}]}
    assert place.pick(slot, pick)[TABLE]["picked"] == second
    assert place.pick(slot, pick)[TABLE]["picked"] == "", "a second click lets go"
    for strange in ({"points": [{"customdata": {"move": 9}}]}, {"points": [{"customdata": {"move": True}}]}, None, {}):
        assert all(isinstance(part, dict) and "rows" not in part for part in place.pick(slot, strange))


def test_the_table_of_settings_holds_everything(bench: Workbench, zoo: Path) -> None:
    slot = scored(bench, zoo, 0.1)
    (one,) = slot.session.history.settings
    result = settings_result([one], TASKS, shown=one.id)
    told = result.table.set_index("axis")
    assert told.loc[f"scale of {TASKS[0]}", "value"] == 0.1 and told.loc["method", "words"] == "Task arithmetic"
    assert told.loc["mean of experts", "value"] == one.normalized and (result.table["shown"] == 1).all()


def test_settings_in_words(zoo: Path) -> None:
    tasks = {t: {"checkpoint": t, "scale": s} for t, s in zip(TASKS, (0.2, 0.75), strict=True)}
    recipe = recipe_of(zoo, tasks=tasks, method="ties", parameters={"density": 0.3}, dtype="float16", seed=3)
    assert setting_words(recipe) == "scale colours 0.2 numbers 0.75, density 0.3, stored as float16, seed 3"
    assert setting_words(recipe_of(zoo)) == "defaults"
    assert "alpha 0.5" in setting_words(recipe_of(zoo, add_ons=[{"lines": {"alpha": 0.5}}]))


def test_parts_and_explorer_agree_on_bounds() -> None:
    assert (history_keeper.VERSION, history_keeper.MOST, history_keeper.MOST_MODELS) == (
        VERSION, MAX_SETTINGS, MAX_MODELS,
    )  # fmt: skip
    assert history_table.MAX_NAME == MAX_NAME


ANY = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(
    st.sampled_from(["do", "id", "name", "starred", "points", "customdata", "move", "text"]), s
))  # fmt: skip


@given(ANY)
def test_what_comes_from_the_page_is_read_or_refused(payload: object) -> None:
    act, text = read_act(payload), read_kept(payload)
    assert act is None or (act.do in ("rename", "star", "delete", "pin", "unpin", "restore") and act.id)
    assert text is None or isinstance(text, str)
    assert isinstance(picked_move(payload), int)
