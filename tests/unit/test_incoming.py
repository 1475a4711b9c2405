"""A recipe that comes in as text: every problem with its line, mergekit's twin with its differences, models at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from workbench_zoo import make_bench, make_models, recipe_of

from explorer.errors import RecipeError
from explorer.importing import Import, import_recipe, take_import
from explorer.incoming import MERGEKIT, OURS, read_incoming
from explorer.models_at_hand import CONTENT, NAME, OTHER
from explorer.recipe import Recipe
from explorer.recipe_texts import recipe_yaml
from explorer.session import undo
from explorer.workbench import Workbench

WRONG = """\
base: @base
tasks:
  colours: {checkpoint: @colours, scale: 9}
  numbers:
    checkpoint: /elsewhere/numbers
    densty: 3
method: ties
parameters:
  density: 20
sed: 3
add_ons:
- lines: {alpha: x}
dtype: float3
"""
TIES = """\
merge_method: ties
base_model: @base
models:
- {model: @colours, parameters: {weight: 0.5, density: 0.4}}
- {model: org/numbers, parameters: {weight: 0.25, densty: 0.3}}
parameters: {lambda: 1.2}
tokenizer_source: base
dtype: float16
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


def brought(bench: Workbench, text: str, zoo: Path, **options: bool) -> Import:
    return import_recipe(bench, bench.start, text.replace("@", f"{zoo}/"), out_dir="exports/out", **options)


def test_every_problem_of_ours_comes_at_once_with_its_line(bench: Workbench, zoo: Path) -> None:
    done = brought(bench, WRONG, zoo)
    assert (done.kind, done.recipe) == (OURS, None)
    lines = [line.strip("- ") for line in done.problem.splitlines()[1:]]
    starts = ("line 3: ties, task colours: scale", "line 5: /elsewhere/numbers: must lie inside an allowed folder",
              "line 6: ties: takes only declared parameters", "line 9: ties: density must be in (0, 1]",
              "line 10: recipe: has only known keys; got 'sed'. Did you mean 'seed'", "line 12: lines: alpha",
              "line 13: recipe: dtype must be one of")  # fmt: skip
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 7
    assert done.offers["numbers"].path == str(zoo / "numbers") and done.offers["numbers"].why == NAME


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be the text of a recipe"),
        ("- 3", "must be one mapping with base, tasks and method"),
        ("base: {", "must be YAML"),
        ("base: a\n---\nbase: b", "got 2 documents"),
        ("base: 3", "3 problems"),
        ("base: b\nbase: c\ntasks: {a: c}\nmethod: ties", "base: must stand once"),
        ("base: b\ntasks: {a: c}\nmethod: tise", "Did you mean 'ties'"),
        ("merge_method: ties\nmodels: 3", "line 2: models: must be a list"),
        ("x" * 1_000_001, "got 1,000,001 characters"),
    ],
)
def test_what_is_no_recipe_is_said(bench: Workbench, zoo: Path, text: str, said: str) -> None:
    done = brought(bench, text, zoo)
    assert done.recipe is None and said in done.problem, done.problem


def test_ours_comes_back_as_it_went_out(bench: Workbench, zoo: Path) -> None:
    tasks = {"colours": {"checkpoint": str(zoo / "colours"), "scale": {"*.bias": 0.1, "*": 0.4}, "density": 0.3}}
    tasks["numbers"] = {"checkpoint": str(zoo / "numbers"), "scale": 0.7, "density": 0.2}
    more = {"parameters": {"rescale": "density"}, "add_ons": [{"lines": {"alpha": 0.2}}], "seed": 5}
    sent = recipe_of(zoo, tasks=tasks, method="dare", dtype="bfloat16", policy="keep_base", **more)
    models = bench.models(sent)
    assert all(c.digest for c in (models.base, *models.tasks.values()))
    text = recipe_yaml(sent, models)
    done = brought(bench, text, zoo)
    assert (done.problem, done.notes, done.command) == ("", (), "") and done.recipe == sent
    assert recipe_yaml(done.recipe, bench.models(done.recipe)) == text and Recipe.from_yaml(text) == sent
    assert "seed: 5" in text and models.base.digest in text and "explorer: " in text
    other = brought(bench, text.replace(models.base.digest, "f" * 32), zoo)
    assert other.recipe == sent and other.notes[0].startswith("The base is not the one")
    slot = bench.slot("tab")
    slot.session = take_import(slot.session, sent)
    assert slot.session.recipe == sent and undo(slot.session).recipe == bench.start


def test_models_elsewhere_are_found_by_content_then_by_name(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    models = bench.models(bench.start)
    assert models.base.digest and models.tasks["numbers"].digest
    text = recipe_yaml(bench.start, models).replace(str(zoo), "/elsewhere")
    renamed = text.replace("/elsewhere/numbers", "/elsewhere/renamed")
    asked = brought(bench, renamed.replace(models.tasks["colours"].digest, "f" * 32), zoo)
    assert asked.recipe is None and {t: o.why for t, o in asked.offers.items()} == {
        None: CONTENT, "colours": OTHER, "numbers": CONTENT,
    }  # fmt: skip
    assert asked.problem.count("must lie inside an allowed folder") == 3
    taken = brought(bench, renamed, zoo, taking_offers=True)
    assert taken.recipe == bench.start and "in place of /elsewhere/renamed (the same content)" in taken.notes[2]
    shutil.copytree(zoo / "colours", tmp_path / "secret" / "nowhere")
    hidden = text.replace("/elsewhere/numbers", str(tmp_path / "secret" / "nowhere")).split("made_with")[0]
    left = brought(bench, hidden, zoo, taking_offers=True)
    assert left.recipe is None and "secret/nowhere: must lie inside" in left.problem and not left.offers


def test_the_twin_of_a_mergekit_recipe_with_its_differences(bench: Workbench, zoo: Path) -> None:
    asked = brought(bench, TIES, zoo)
    assert (
        asked.kind == MERGEKIT
        and asked.recipe is None
        and asked.problem.startswith("line 5: ")
        and "org/numbers" in asked.problem
    )
    done = brought(bench, TIES, zoo, taking_offers=True)
    assert done.recipe and done.recipe.method == "ties" and done.recipe.dtype == "float16"
    assert done.recipe.values()["weight"] == {"colours": 0.5, "numbers": 0.25}
    assert done.recipe.values()["scale"] == {"colours": 1.2, "numbers": 1.2}
    said = " ".join(done.notes)
    assert "unknown to ties" in said and "mergekit trims each tensor" in said and "The tokenizer is the base's" in said
    assert done.command == "python -m explorer merge recipe exports/out"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("merge_method: passthrough\nslices:\n- sources: [{model: @colours, layer_range: [0, 1]}]\n", "passthrough"),
        (TIES.replace("org/", "@") + "---\n" + TIES.replace("org/", "@") + "name: first\n", "2 merges"),
    ],
)
def test_what_has_no_twin_gets_its_command(bench: Workbench, zoo: Path, text: str, why: str) -> None:
    done = brought(bench, text, zoo)
    assert (done.recipe, done.problem) == (None, "") and why in done.notes[-1] and "no twin" in done.notes[-1]
    assert done.command.startswith("python -m explorer merge")


def test_too_many_tasks_and_missing_statistics_are_refused(bench: Workbench, zoo: Path) -> None:
    for method, said in (("slerp", None), ("arcee_fusion", "line 2"), ("fisher", "Fisher statistics")):
        text = f"base: @base\ntasks: {{colours: @colours, numbers: @numbers}}\nmethod: {method}\n"
        done = brought(bench, text, zoo)
        assert (done.recipe is not None) is (said is None) and (said or "") in done.problem
    with pytest.raises(RecipeError, match="line 1: /nowhere"):
        read_incoming("base: /nowhere").saying((("base",), "/nowhere: must be there")).check()
