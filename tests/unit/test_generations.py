"""Side-by-side texts of a typed prompt: streamed, seeded, stopped by what is newer; and the place that shows them."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from kind_examples import language as zoo
from workbench_zoo import make_bench, make_models

from explorer.errors import Cancelled, InputError, ParameterError, UnknownNameError
from explorer.generations import NO_WRITER, Writing, generations, kind_of_writer, stop_generations, writers
from explorer.recipe import Recipe
from explorer.workbench import Workbench
from viz.panels.prompting import PromptPlace
from viz.panels.prompting_words import columns

CITIES, RIVERS = {"france": "paris", "paris": "is"}, {"france": "city", "japan": "tokyo", "tokyo": "of"}


def recipe_of(folder: Path, scale: float = 1.0, **changes: object) -> Recipe:
    plain = {
        "base": str(folder / "base"),
        "tasks": {t: {"checkpoint": str(folder / t)} for t in ("cities", "rivers")},
        "method": "task_arithmetic",
        "parameters": {"scale": scale},
    }
    return Recipe.from_dict({**plain, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("writers")
    for name, follows in (("base", {}), ("cities", CITIES), ("rivers", RIVERS)):
        zoo.write_model(made / name, zoo.llama(follows), chat="the {{ messages[0]['content'] }}")
    (made / "tasks").mkdir()
    return made


@pytest.fixture
def bench(folder: Path, tmp_path: Path) -> Workbench:
    return make_bench(folder, tmp_path / "exports", start=recipe_of(folder))


def texts(bench: Workbench, recipe: Recipe, prompt: str, slot: str = "a", **options: object) -> dict[str, Writing]:
    last: tuple[Writing, ...] = ()
    for last in generations(bench, bench.slot(slot), recipe, prompt, **options):  # type: ignore[arg-type]  # noqa: B007
        pass
    return {w.name: w for w in last}


def test_every_model_says_what_its_weights_know(bench: Workbench, folder: Path) -> None:
    found = texts(bench, recipe_of(folder, 0.8), "japan", max_new_tokens=2)
    assert [w.name for w in writers(recipe_of(folder))] == ["base", "expert cities", "expert rivers", "merged"]
    assert list(found) == ["base", "expert cities", "expert rivers", "merged"]
    assert found["expert rivers"].text == found["merged"].text == "tokyo of"
    assert found["expert cities"].text != "tokyo of"
    assert {w.ended for w in found.values()} == {"length"} and all(w.tokens == 2 for w in found.values())
    ended = texts(bench, recipe_of(folder), "paris", models=["expert cities"], max_new_tokens=9)
    assert (ended["expert cities"].text, ended["expert cities"].ended) == ("is", "end")
    chat = texts(bench, recipe_of(folder), "japan", models=["expert rivers"], max_new_tokens=1, chat=True)
    assert chat["expert rivers"].text == "tokyo"
    each = texts(bench, recipe_of(folder, method="tall_masks", parameters={}), "japan", max_new_tokens=2)
    assert each["merged rivers"].text == "tokyo of"


def test_the_same_seed_gives_the_same_text(bench: Workbench, folder: Path) -> None:
    options = {"temperature": 1.5, "max_new_tokens": 24}
    one, again = (texts(bench, recipe_of(folder), "france is", slot=s, seed=3, **options) for s in "ab")
    assert [w.text for w in one.values()] == [w.text for w in again.values()]
    other = texts(bench, recipe_of(folder), "france is", seed=4, **options)
    assert [w.text for w in other.values()] != [w.text for w in one.values()]
    alike = texts(bench, recipe_of(folder, 0.0), "france is", seed=3, **options)
    assert alike["merged"].text == alike["base"].text  # the same weights, the same noise


def test_newer_requests_stop_it(bench: Workbench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.generations.EVERY_SECONDS", 0.0001)
    slot = bench.slot("a")
    first = generations(bench, slot, recipe_of(folder), "japan", models=["merged"])
    next(first)
    second = generations(bench, slot, recipe_of(folder), "france", models=["merged"])
    next(second)
    with pytest.raises(Cancelled):
        next(first)
    bench.live(slot, recipe_of(folder)).merge(recipe_of(folder, 0.3), cache=bench.store)
    with pytest.raises(Cancelled, match="the merge was changed"):
        next(second)
    scoring = slot.newest()
    third = generations(bench, slot, recipe_of(folder), "japan", models=["merged"])
    next(third)
    assert scoring.cancelled  # it would have gone on with weights that are not its own
    kept = slot.newest()
    next(generations(bench, slot, recipe_of(folder), "japan", models=["merged"]))
    assert not kept.cancelled
    stop_generations(slot)


def test_what_cannot_be_asked_is_said(bench: Workbench, folder: Path) -> None:
    recipe = recipe_of(folder)
    with pytest.raises(InputError, match="prompt: must hold some text"):
        texts(bench, recipe, " ")
    with pytest.raises(ParameterError, match="2 problems"):
        texts(bench, recipe, "japan", temperature=-1, max_new_tokens=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'merged'"):
        texts(bench, recipe, "japan", models=["merge"])
    with pytest.raises(InputError, match="must fit the model's 64 positions; got 70 tokens"):
        texts(bench, recipe, "the " * 70)
    assert texts(bench, recipe, "the " * 62, models=["base"])["base"].ended == "room"


def test_which_models_write() -> None:
    assert kind_of_writer({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}) == "generation"
    assert kind_of_writer({"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]}) is None
    assert kind_of_writer({"model_type": "llama"}) == "generation"
    assert kind_of_writer({"model_type": "t5"}) == "seq2seq_generation"
    assert kind_of_writer({"model_type": "bert"}) is None
    assert kind_of_writer({"model_type": "vit"}) is None and NO_WRITER.endswith(".")


def test_the_place_shows_what_is_written_and_what_is_wrong(bench: Workbench, folder: Path) -> None:
    with gr.Blocks():
        place = PromptPlace(bench)
    slot, given = bench.slot("place"), {"max_new_tokens": 2, "temperature": 0, "seed": None, "chat": False}
    note, _, names = place.show(slot)
    assert note == "" and names["value"] == ["base", "expert cities", "expert rivers", "merged"]
    *_, last = place.run(slot, "japan", ["merged", "expert rivers", "nobody"], given)
    assert last[1].count("<section") == 2 and last[1].count("tokyo of") == 2 and "aria-busy=&quot;" not in last[1]
    for prompt, values, words in (("", given, "must hold some text"), ("a", {**given, "chat": "x"}, "true or false")):
        *_, said = place.run(slot, prompt, None, values)
        assert words in said[0] and 'role="alert"' in said[0]
    going = place.run(slot, "japan", ["merged"], {**given, "max_new_tokens": 1000})
    next(going)
    place.waiting()
    place.leave(slot)
    assert "<script>" not in columns([Writing("expert", "<script>", "<b>hi</b>", 3)], stopped=True)


def test_models_that_write_nothing_say_so(tmp_path: Path) -> None:
    zoo_folder = make_models(tmp_path / "encoders")
    bench = make_bench(zoo_folder, tmp_path / "exports")
    with gr.Blocks():
        place = PromptPlace(bench)
    assert "write no text" in place.show(bench.slot("a"))[0]
    *_, said = place.run(bench.slot("a"), "hello", None, {})
    assert "write no text" in said[0]
