"""Fine-tunes with heads of their own: trained on the spot, merged, scored live, exported and scored again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from kind_examples.text import ANIMALS, COLOURS, SIZES, save_model, word_rows, write_model, write_rows
from safetensors.torch import load_file
from workbench_zoo import make_bench, write_recipe

from explorer.checkpoints import open_checkpoint
from explorer.errors import CheckpointError, DataError, InputError
from explorer.evaluation import head_labels, load_task, own_head, with_head_of, write_head
from explorer.inspection import inspect_models
from explorer.library import evaluate_model, run_recipe
from explorer.recipe import Recipe
from explorer.streaming import stream

LABELS = {"sizes": SIZES, "colours": COLOURS, "animals": ANIMALS}


def trained(base: Path, folder: Path, labels: tuple[str, ...]) -> Path:
    """A fine-tune of the base that tells the label words apart, and its task folder beside it."""
    import transformers
    from transformers import AutoTokenizer

    named = dict(enumerate(labels))
    rows = word_rows(labels)
    with torch.random.fork_rng():
        torch.manual_seed(len(labels))
        model = transformers.BertForSequenceClassification.from_pretrained(
            base, num_labels=len(labels), id2label=named, label2id={v: k for k, v in named.items()}
        )
        batch = AutoTokenizer.from_pretrained(base)([r["text"] for r in rows], padding=True, return_tensors="pt")
        right = torch.tensor([r["label"] for r in rows])
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(60):
            loss = model(**batch, labels=right).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    save_model(folder, model.eval())
    kind = {"kind": "sequence_classification", "labels": list(labels), "max_length": 16}
    write_rows(folder.parent / "tasks" / folder.name, rows, **kind)
    return folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` is a bare encoder, `masked` the same one below a head for masked words."""
    folder = tmp_path_factory.mktemp("heads")
    write_model(folder / "base", "BertModel")
    write_model(folder / "masked", "BertForMaskedLM", like=folder / "base")
    for name, labels in LABELS.items():
        trained(folder / "base", folder / name, labels)
    return folder


def recipe_of(zoo: Path, base: str = "base", scale: float = 0.5) -> Recipe:
    tasks = {t: {"checkpoint": str(zoo / t)} for t in LABELS}
    plain = {"base": str(zoo / base), "tasks": tasks, "method": "task_arithmetic", "parameters": {"scale": scale}}
    return Recipe.from_dict(plain)


def live_scores(zoo: Path, recipe: Recipe, tmp_path: Path) -> dict[str, dict[str, float]]:
    bench = make_bench(zoo, tmp_path / "exports", start=recipe)
    slot = bench.slot("a")
    table = list(stream(bench, slot, recipe, slot.newest()))[-1].scores.table
    return {m: dict(zip(g["task"], g["score"], strict=True)) for m, g in table.groupby("model")}


def scores_of(model: Path, tasks: Path, names: list[str] | None = None) -> dict[str, float]:
    table = evaluate_model(model, tasks=names, tasks_folder=tasks, device="cpu").table
    table = table[table["model"] == "merged"]
    return dict(zip(table["task"], table["score"], strict=True))


def with_heads(zoo: Path, folder: Path) -> Path:
    """The zoo's tasks with their heads kept beside the data."""
    for name in LABELS:
        shutil.copytree(zoo / "tasks" / name, folder / name)
        write_head(with_head_of(open_checkpoint(zoo / name), load_task(folder / name)), folder / name)
    return folder


@pytest.mark.parametrize("base", ["base", "masked"])
def test_live_export_and_folders_give_the_same_scores(zoo: Path, tmp_path: Path, base: str) -> None:
    recipe = recipe_of(zoo, base)
    live = live_scores(zoo, recipe, tmp_path)
    assert live["expert"] == dict.fromkeys(LABELS, 1.0)
    assert all(live["base"][t] < live["merged"][t] for t in LABELS), "merging must bring something back"
    kept = with_heads(zoo, tmp_path / "tasks")
    export = run_recipe(recipe, tmp_path / "out")
    assert scores_of(export.path, kept) == live["merged"]
    with pytest.raises(InputError, match=r"animals: needs its head beside the data to score a merge; got none"):
        scores_of(export.path, zoo / "tasks")
    assert scores_of(zoo / base, kept) == live["base"]
    for name in LABELS:
        assert scores_of(zoo / name, zoo / "tasks", [name]) == {name: 1.0}
    assert scores_of(write_recipe(tmp_path / "recipe.yaml", recipe), zoo / "tasks") == live["merged"]


def test_each_task_has_its_own_head_and_the_backbone_is_shared(zoo: Path, tmp_path: Path) -> None:
    """A merge at scale 1 of one task is the fine-tune, whose own forward pass is transformers'."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    alone = Recipe.from_dict(
        {"base": str(zoo / "base"), "tasks": {"colours": str(zoo / "colours")}, "method": "task_arithmetic",
         "parameters": {"scale": 1.0}}
    )  # fmt: skip
    bench = make_bench(zoo, tmp_path / "exports", start=alone)
    (task,) = bench.evaluation_tasks(alone)
    live = bench.live(bench.slot("a"), alone)
    live.merge(alone, cache=bench.store)
    module, evaluator = live.module_for(task), bench.evaluator(alone)
    model = BertForSequenceClassification.from_pretrained(zoo / "colours").eval()
    batch = evaluator.plan("colours").blocks[0][0]
    texts = [task.rows[i]["text"] for i in batch.indices]
    with torch.inference_mode():
        expected = model(**AutoTokenizer.from_pretrained(zoo / "base")(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(evaluator.batch_scores("colours", module, batch), expected, rtol=0, atol=1e-5)


def test_heads_and_prefixes_stop_no_merge_and_are_said(zoo: Path) -> None:
    found = inspect_models(zoo / "base", {t: zoo / t for t in LABELS})
    assert found.problems == () and found.mergeable == found.tensors
    said = "\n".join(found.notes)
    assert "task colours: its tensors' names have 'bert.' in front, which the base's lack" in said
    assert "task animals: classifier.* are layers on top of the backbone" in said
    found = inspect_models(zoo / "masked", {t: zoo / t for t in LABELS})
    assert found.problems == ()
    assert "task animals: bert.pooler.*, classifier.*, cls.* are layers" in "\n".join(found.notes)


def test_heads_of_one_shape_and_other_labels_are_said(zoo: Path, tmp_path: Path) -> None:
    moods = trained(zoo / "base", tmp_path / "moods", ("red", "dog", "owl"))
    found = inspect_models(zoo / "colours", {"colours": zoo / "colours", "moods": moods})
    assert found.problems == ()
    (note,) = found.notes
    assert note.startswith("classifier.*: merged like other tensors, being of one shape")
    assert "labels differ (colours: red, green, blue; moods: red, dog, owl)" in note


def test_a_head_that_does_not_fit_is_refused_in_words(zoo: Path, tmp_path: Path) -> None:
    task = load_task(zoo / "tasks" / "colours")
    with pytest.raises(CheckpointError, match=r"classifier\.weight must fit the 3 labels of colours: \(3, 16\); got"):
        own_head(zoo / "animals", task)
    with pytest.raises(CheckpointError, match=r"must hold the layers on top that sequence classification needs; got"):
        own_head(zoo / "masked", task)
    turned = write_rows(
        tmp_path / "t", word_rows(COLOURS), kind="sequence_classification", labels=["green", "red", "blue"]
    )
    with pytest.raises(CheckpointError, match=r"must stand in the order of the model's head, red, green, blue; got"):
        own_head(zoo / "colours", load_task(turned))


def test_a_written_head_is_the_fine_tunes_and_is_named(zoo: Path, tmp_path: Path) -> None:
    folder = with_heads(zoo, tmp_path) / "colours"
    held, whole = load_file(folder / "head.safetensors"), load_file(zoo / "colours" / "model.safetensors")
    assert sorted(held) == [
        "bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight",
    ]  # fmt: skip
    assert all(torch.equal(t, whole[n]) for n, t in held.items())
    assert json.loads((folder / "task.json").read_text())["head"] == "head.safetensors"
    assert not load_task(folder).lacks_head
    assert sorted(p.name for p in folder.iterdir()) == ["head.safetensors", "task.json", "test.jsonl"]
    with pytest.raises(DataError, match="colours: must have a head to be kept; got none"):
        write_head(load_task(zoo / "tasks" / "colours"), folder)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"id2label": {str(i): f"l{i}" for i in range(11)}}, tuple(f"l{i}" for i in range(11))),
        ({"id2label": {"0": "a", "2": "b"}}, None),
        ({"id2label": {"0": 3}}, None),
        ({"id2label": {}}, None),
        ({}, None),
    ],
)
def test_labels_of_a_head_stand_in_its_order(
    zoo: Path, tmp_path: Path, config: dict[str, Any], labels: tuple[str, ...] | None
) -> None:
    shutil.copy(zoo / "base" / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert head_labels(tmp_path) == labels == head_labels(open_checkpoint(tmp_path))
