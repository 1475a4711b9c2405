"""What goes out and what comes in beside the export: four texts, the plan, and the import, without a browser."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.cli import main
from explorer.incoming import read_incoming
from explorer.recipe import Recipe
from explorer.recipe_texts import mergekit_yaml, python_snippet
from explorer.session import change, undo
from explorer.workbench import Workbench
from viz.panels import export_plan
from viz.panels.export import ExportPlace
from viz.panels.recipe_in import read_upload

OURS, MERGEKIT, COMMAND, PYTHON, PLAN, ROUNDING = range(6)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo with 'quotes'"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "my exports")


@pytest.fixture
def place(bench: Workbench) -> ExportPlace:
    with gr.Blocks():
        return ExportPlace(bench)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_every_text_makes_the_same_model_as_it_stands(
    bench: Workbench, place: ExportPlace, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = bench.slot("tab")
    tasks = {t: {"checkpoint": str(zoo / t), "scale": s} for t, s in zip(TASKS, (0.3, 0.61), strict=True)}
    slot.session = change(slot.session, recipe_of(zoo, tasks=tasks, method="ties", dtype="bfloat16", seed=4))
    place.look(slot)
    shown = place.aim(slot, "by page", False)
    page = weights(bench.export(slot.session.recipe, "by page").path)
    assert Recipe.from_yaml(shown[OURS]) == slot.session.recipe
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(place.aim(slot, "by command", False)[OURS])
    command = shlex.split(place.aim(slot, "by command", False)[COMMAND])
    assert command[:4] == ["python", "-m", "explorer", "merge"] and command[-1] == str(bench.exports / "by command")
    assert main(command[3:]) == 0 and weights(bench.exports / "by command") == page
    assert place.aim(slot, "by command", True)[COMMAND].endswith("--overwrite")
    (bench.exports / "by page" / "model.safetensors").unlink()
    exec(place.aim(slot, "by page", True)[PYTHON], {})
    assert weights(bench.exports / "by page") == page
    assert place.aim(slot, "../x", False)[COMMAND].endswith("OUT_DIR")


def test_texts_follow_the_setting_and_digests_come_once_they_are_known(
    bench: Workbench, place: ExportPlace, zoo: Path
) -> None:
    slot = bench.slot("tab")
    first = place.shown(slot)
    assert len(first) == len(place.outputs) and "digest" not in first[OURS] and first[PLAN] == ""
    bench.resident(slot.session.recipe)
    place.look(slot)
    slot.session = change(slot.session, recipe_of(zoo, parameters={"scale": 0.123}))
    shown = place.shown(slot, "left")
    assert all("0.123" in shown[i] for i in (OURS, MERGEKIT, PYTHON)) and shown[ROUNDING] == "left"
    assert shown[OURS].count("digest") == 1 + len(TASKS) and "Free disk" in shown[PLAN]
    assert len(place.show(slot)) == len(place.set_by_code) and place.show(slot)[0]["value"] == "as the base"


def test_mergekit_yaml_says_what_it_cannot(zoo: Path) -> None:
    recipe = recipe_of(zoo, method="ties", dtype="float32", parameters={"density": 0.3})
    text = mergekit_yaml(recipe)
    assert text.startswith("# mergekit will do something else here:\n# mergekit trims in each tensor")
    again = read_incoming(text).recipe
    assert again is not None and again.method == "ties" and again.values()["density"] == dict.fromkeys(TASKS, 0.3)
    tensor = {"scope": "tensor", "divisor": "weights", "zero_sign": "positive", "trim_count": "exact"}
    fitting = recipe_of(zoo, method="task_arithmetic", dtype="float32")
    assert mergekit_yaml(fitting).startswith("# mergekit computes the same")
    assert "trims in each" not in mergekit_yaml(recipe.with_parameters(**tensor))
    assert mergekit_yaml(recipe_of(zoo, method="tall_masks")).splitlines() == [
        "# mergekit cannot say this recipe:", "# mergekit has no method like TALL masks (tall_masks).",
    ]  # fmt: skip
    assert "density must be in" in mergekit_yaml(recipe_of(zoo, method="ties", parameters={"density": 3}))
    odd = replace(fitting, base="a'\\\n\"b")
    made: dict[str, Any] = {}
    exec(python_snippet(odd, "out").split("export =")[0], made)
    assert made["recipe"] == odd


def test_the_plan_stands_there_before_and_says_what_is_in_the_way(
    bench: Workbench, place: ExportPlace, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    plan_merge = export_plan.plan_merge
    monkeypatch.setattr(export_plan, "plan_merge", lambda *a, **k: asked.append(a) or plan_merge(*a, **k))
    read = lambda stamp, offset, view, who: pytest.fail(f"{who} was read") if len(view) else None  # noqa: E731
    monkeypatch.setattr("explorer.checkpoints.handle.read_into", read)
    slot = bench.slot("tab")
    place.look(slot)
    plan = place.plans.known(slot)
    assert all(f'<th scope="row">{t}</th>' in plan for t in ("Output", "To read", "To write", "Peak memory", "Time"))
    assert "a cautious guess" in plan and "problem" not in plan and len(asked) == 1
    tasks = {t: {"checkpoint": str(zoo / t), "scale": 0.9} for t in TASKS}
    slot.session = change(slot.session, recipe_of(zoo, tasks=tasks))
    place.look(slot)
    assert len(asked) == 1, "another coefficient changes no size"
    half = replace(slot.session.recipe, dtype="float16")
    slot.session = change(slot.session, half)
    place.look(slot)
    assert len(asked) == 2 and place.plans.known(slot) != plan
    monkeypatch.undo()
    list(place.run(slot, "there", False))
    assert "as measured here" in place.aim(slot, "other", False)[PLAN]
    assert "must be a new or empty folder" in place.aim(slot, "there", False)[PLAN]
    assert "must be a new or empty folder" not in place.aim(slot, "there", True)[PLAN]
    assert "plain folder name" in place.aim(slot, "../there", True)[PLAN]


def test_an_import_sets_the_session_or_changes_nothing(bench: Workbench, place: ExportPlace, zoo: Path) -> None:
    slot, incoming = bench.slot("tab"), place.incoming
    before = slot.session
    text = f"base: {zoo}/base\ntasks: {{<b>x: /elsewhere/colours}}\nmethod: ties\nseed: 7\n"
    done = incoming.run(slot, text, "mine.yaml")
    note, stand_in, command = incoming.say(slot, done)
    assert slot.session is before and 'role="alert"' in note and "line 2: /elsewhere/colours" in note
    assert "&lt;b&gt;x" in note and "<b>" not in note and stand_in["visible"] and not command["visible"]
    done = incoming.run(slot, text, "mine.yaml", stand_in=True)
    note, stand_in, _ = incoming.say(slot, done)
    assert slot.session.recipe.seed == 7 and slot.session.recipe.tasks[0].checkpoint == str(zoo / "colours")
    assert "Imported TIES-Merging of 1 fine-tune, seed 7" in note and not stand_in["visible"]
    assert undo(slot.session).recipe == before.recipe
    slices = f"merge_method: passthrough\nslices:\n- sources: [{{model: {zoo}/colours, layer_range: [0, 1]}}]\n"
    note, _, command = incoming.say(slot, incoming.run(slot, slices, "my recipe.yml"))
    assert "Nothing changed" in note and command["value"].startswith("python -m explorer merge 'my recipe.yml' ")
    assert slot.session.recipe.seed == 7 and "empty text" in incoming.run(slot, None, "").problem


def test_only_small_text_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfbase: x")
    assert read_upload(tmp_path / "a.yaml") == ("base: x", "a.yaml")
    (tmp_path / "b.yml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.yaml").write_bytes(b"x" * 1_000_001)
    (tmp_path / "d.txt").write_text("base: x")
    for name, said in (("b.yml", "text file"), ("c.yaml", "1,000,001"), ("d.txt", ".yaml or .yml"), ("e.yml", "text")):
        with pytest.raises(Exception, match=said):
            read_upload(tmp_path / name)
