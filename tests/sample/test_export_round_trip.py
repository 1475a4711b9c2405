"""An exported folder gives the accuracies that the page showed, opens with transformers, and can be made again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sample_tasks import fewer_examples
from transformers import AutoModel, AutoTokenizer
from workbench_zoo import TASKS, make_bench, make_models, recipe_of, write_recipe

from explorer.cli import main
from explorer.gathering import gather
from explorer.merging import METHODS
from explorer.recipe import Recipe, TaskEntry
from explorer.samples import FOLDER, sample_recipe
from explorer.streaming import current_scores, stream
from explorer.workbench import Workbench

METHOD_NAMES = METHODS.names()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with tasks of their names, and what methods need that are given statistics."""
    folder = make_models(tmp_path_factory.mktemp("zoo"))
    gather(recipe_of(folder), folder / "measured", tasks_folder=folder / "tasks", split="test", examples=8)
    return folder


def entry(zoo: Path, task: str) -> dict[str, str]:
    return {"checkpoint": str(zoo / task), "statistics": str(zoo / "measured" / f"{task}.statistics.safetensors")}


def shown(bench: Workbench, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """What the page shows for a recipe once it is finished: task -> (accuracy, n)."""
    slot = bench.slot("tab")
    *_, last = stream(bench, slot, recipe, slot.newest())
    assert last.finished
    rows = last.scores.table[last.scores.table["model"] == "merged"]
    return {r.task: (r.score, r.n) for r in rows.itertuples()}


def evaluated(model: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[float, float]]:
    capsys.readouterr()
    assert main(["evaluate", str(model), "--tasks-folder", str(tasks), "--device", "cpu", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["table"]
    rows = [dict(zip(table["columns"], r, strict=True)) for r in table["data"]]
    return {r["task"]: (r["score"], r["n"]) for r in rows if r["model"] == "merged"}


@pytest.mark.parametrize(("method", "dtype"), [*((m, None) for m in METHOD_NAMES), ("ties", "float16")])
def test_page_folder_and_recipe_score_the_same(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, dtype: str | None
) -> None:
    names = TASKS[: METHODS.get(method).max_tasks or len(TASKS)]
    recipe = recipe_of(zoo, method=method, dtype=dtype, tasks={t: entry(zoo, t) for t in names})
    page = shown(make_bench(zoo, tmp_path / "exports"), recipe)
    file = write_recipe(tmp_path / "recipe.yaml", recipe)
    assert main(["merge", str(file), str(tmp_path / "out")]) == 0
    assert set(page) == set(names)
    assert evaluated(tmp_path / "out", zoo / "tasks", capsys) == page
    assert evaluated(file, zoo / "tasks", capsys) == page


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_transformers_opens_the_folder(zoo: Path, tmp_path: Path, dtype: str | None) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    out = bench.export(recipe_of(zoo, dtype=dtype), "merged").path
    wanted = getattr(torch, dtype or "float32")
    assert json.loads((out / "config.json").read_text("utf-8"))["dtype"] == (dtype or "float32")
    model = AutoModel.from_pretrained(out, add_pooling_layer=False)
    stored = load_file(out / "model.safetensors")
    state = model.state_dict()
    assert set(state) >= set(stored) and model.dtype == wanted
    assert all(torch.equal(state[n], t) for n, t in stored.items())
    words = AutoTokenizer.from_pretrained(out)("red one two")["input_ids"]
    assert words == AutoTokenizer.from_pretrained(zoo / "base")("red one two")["input_ids"] and len(words) >= 3


def front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    text = (folder / "README.md").read_text("utf-8")
    _, front, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("relative", [True, False])
def test_the_card_is_sound_and_names_no_path_of_this_machine(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    monkeypatch.chdir(zoo.parent)
    recipe = recipe_of(Path(zoo.name) if relative else zoo, parameters={"scale": 0.4})
    bench = make_bench(zoo, tmp_path / "exports", start=recipe)
    shown(bench, recipe)
    scores = current_scores(bench, bench.slot("tab"), recipe)
    assert scores is not None
    out = bench.export(recipe, "merged", scores=scores).path
    front, body = front_matter(out)
    assert front["base_model_relation"] == "merge" and front["library_name"] == "transformers"
    prefix = f"{zoo.name}/" if relative else ""
    assert front["base_model"] == [f"{prefix}{n}" for n in ("base", *TASKS)]
    assert str(zoo.parent) not in (out / "README.md").read_text("utf-8")
    assert "| colours | " in body and "| numbers | " in body and "scale: 0.4" in body
    digests = [c.digest for c in (bench.models(recipe).base, *bench.models(recipe).tasks.values())]
    assert all(d in body for d in digests)


@pytest.mark.parametrize("path", ["../x/base", "~/x/base", "C:\\models\\base", "\\\\host\\share\\base", "/a/b/base/"])
def test_other_paths_that_mean_nothing_elsewhere(path: str) -> None:
    from explorer.card import _shareable

    assert _shareable(path) == "base"
    assert _shareable("org/name") == "org/name"


def test_a_per_task_card_says_which_task_and_only_its_score(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    recipe = recipe_of(zoo, method="tall_masks")
    shown(bench, recipe)
    done = bench.export(recipe, "merged", scores=current_scores(bench, bench.slot("tab"), recipe))
    assert [f.name for f in done.folders] == list(TASKS)
    assert done.total_bytes == sum(f.stat().st_size for f in done.path.rglob("*") if f.is_file())
    for folder, other in zip(done.folders, reversed(TASKS), strict=True):
        _, body = front_matter(folder)
        assert f"This folder is the model for the task **{folder.name}**." in body
        assert f"| {folder.name} | " in body and f"| {other} | " not in body
    assert Recipe.load(done.path / "explorer_recipe.yaml") == recipe


def test_scores_that_are_not_complete_are_no_scores(zoo: Path, tmp_path: Path) -> None:
    bench, recipe = make_bench(zoo, tmp_path / "exports"), recipe_of(zoo)
    slot = bench.slot("tab")
    assert current_scores(bench, slot, recipe) is None
    updates = stream(bench, slot, recipe, slot.newest())
    next(updates)
    assert current_scores(bench, slot, recipe) is None
    list(updates)
    assert current_scores(bench, slot, recipe) is not None
    assert current_scores(bench, slot, recipe_of(zoo, parameters={"scale": 0.9})) is None


@pytest.mark.parametrize("method", ["ties", "tall_masks"])
def test_the_recipe_inside_makes_the_same_bytes_again(zoo: Path, tmp_path: Path, method: str) -> None:
    scales = {t: {"checkpoint": str(zoo / t), "scale": 0.2 + i / 10} for i, t in enumerate(TASKS)}
    recipe = recipe_of(zoo, method=method, tasks=scales, parameters={"density": 0.35}, dtype="float16", seed=5)
    file = write_recipe(tmp_path / "recipe.yaml", recipe)
    assert main(["merge", str(file), str(tmp_path / "one")]) == 0
    inside = tmp_path / "one" / "explorer_recipe.yaml"
    assert Recipe.load(inside) == recipe and inside.read_text("utf-8") == recipe.to_yaml()
    assert main(["merge", str(inside), str(tmp_path / "two")]) == 0
    files = [{str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()}
             for f in (tmp_path / "one", tmp_path / "two")]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) >= 5


def test_the_dtype_of_the_config_is_that_of_most_numbers(zoo: Path, tmp_path: Path) -> None:
    folder = make_models(tmp_path / "mixed")
    config = json.loads((folder / "base" / "config.json").read_text("utf-8"))
    (folder / "base" / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    out = make_bench(folder, tmp_path / "exports").export(recipe_of(folder, dtype="float16"), "m").path
    written = json.loads((out / "config.json").read_text("utf-8"))
    assert (written["dtype"], written["torch_dtype"]) == ("float16", "float16")


@pytest.mark.slow
def test_on_the_bundled_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = sample_recipe()
    pair = tuple(TaskEntry(t.name, t.checkpoint, {"scale": s}) for t, s in zip(sample.tasks, (0.4, 0.7), strict=False))
    recipe = Recipe(sample.base, pair, "ties", {"density": 0.3})
    tasks = fewer_examples(tmp_path / "tasks")
    bench = Workbench(recipe, roots=[FOLDER], tasks_folders=[tasks], exports=tmp_path / "exports", device="cpu")
    page = shown(bench, recipe)
    out = bench.export(recipe, "merged").path
    assert evaluated(out, tasks, capsys) == page
    model = AutoModel.from_pretrained(out, add_pooling_layer=False)
    assert sum(p.numel() for p in model.parameters()) == bench.models(recipe).base.parameter_count
