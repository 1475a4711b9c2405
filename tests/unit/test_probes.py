"""Heads from label texts, and linear probes on a model's features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from kind_examples.text import ANIMALS, word_rows, write_model, write_rows
from safetensors.torch import load_file
from workbench_zoo import make_bench

from explorer.errors import DataError
from explorer.evaluation import Loaded, evaluate, fit_probe, label_text_head, load_task, write_probe
from explorer.evaluation.probes import text_features
from explorer.library import evaluate_model
from explorer.recipe import Recipe
from explorer.streaming import stream

SAMPLES = Path(__file__).resolve().parents[2] / "sample_checkpoints"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes")
    write_model(folder / "base")
    write_model(folder / "animals", seed=1)
    return folder


def test_a_head_of_label_texts_is_the_samples_own() -> None:
    task = SAMPLES / "tasks" / "movies"
    texts = json.loads((task / "task.json").read_text(encoding="utf-8"))["label_texts"]
    found = label_text_head(SAMPLES / "base", texts)
    torch.testing.assert_close(found, load_file(task / "head.safetensors")["weight"], rtol=0, atol=1e-5)


def test_templates_and_what_is_wrong_with_label_texts(zoo: Path) -> None:
    found = label_text_head(zoo / "base", ["cat", "dog"], template="the {} is here", pooling="cls")
    plain = text_features(zoo / "base", ["the cat is here", "the dog is here"], pooling="cls")
    assert torch.equal(found, plain) and found.shape == (2, 16)
    with pytest.raises(DataError, match=r"(?s)label text must not be empty.*template: must hold \{\} where"):
        label_text_head(zoo / "base", ["cat", " "], template="a")
    with pytest.raises(DataError, match="there must be at least one"):
        label_text_head(zoo / "base", [])


def test_label_texts_stand_in_for_a_head_file(zoo: Path, tmp_path: Path) -> None:
    said = {"kind": "text_classification", "labels": list(ANIMALS), "max_length": 16}
    folder = write_rows(tmp_path / "tasks" / "animals", word_rows(ANIMALS), label_texts=list(ANIMALS), **said)
    tasks = {"animals": str(zoo / "animals")}
    recipe = Recipe.from_dict({"base": str(zoo / "base"), "tasks": tasks, "method": "task_arithmetic"})
    bench = make_bench(zoo, tmp_path / "out", start=recipe, tasks_folders=[tmp_path / "tasks"])
    (task,) = bench.evaluation_tasks(recipe)
    assert torch.equal(task.head, label_text_head(zoo / "base", ANIMALS, max_length=16))
    slot = bench.slot("a")
    live = list(stream(bench, slot, recipe, slot.newest()))[-1].scores.table
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = evaluate_model(tmp_path / "recipe.yaml", tasks_folder=tmp_path / "tasks", device="cpu")
    assert live[live["model"] == "merged"]["score"].tolist() == again.table["score"].tolist()[:1]
    assert again.provenance["tasks"]["animals"]["head"] == "made of label texts by the base"
    with pytest.raises(DataError, match="animals: needs a head, or a recipe whose base makes one of the label texts"):
        evaluate_model(zoo / "animals", tasks_folder=tmp_path / "tasks", device="cpu")
    write_rows(folder, word_rows(ANIMALS), label_texts=["cat"], **said)
    with pytest.raises(DataError, match=r"label_texts must hold one text per label, 4; got \['cat'\]"):
        load_task(folder)


@pytest.mark.parametrize("labels", [ANIMALS, ANIMALS[:2]])
def test_a_probe_is_scikit_learns_and_scores_as_a_head(zoo: Path, tmp_path: Path, labels: tuple[str, ...]) -> None:
    from sklearn.linear_model import LogisticRegression

    rows = word_rows(labels)
    probe = fit_probe(zoo / "animals", rows, labels, max_length=16)
    assert probe.said == "linear probe fitted on 60 training rows, on the expert's features"
    features = text_features(zoo / "animals", [r["text"] for r in rows], max_length=16).numpy()
    right = [r["label"] for r in rows]
    expected = LogisticRegression(C=100.0, fit_intercept=False, max_iter=1000).fit(features, right).predict(features)
    assert ((features @ probe.weight.numpy().T).argmax(1) == expected).all()
    said = {"kind": "text_classification", "labels": list(labels), "max_length": 16}
    folder = write_rows(tmp_path / "t", rows, **said)
    write_probe(probe, folder)
    task = load_task(folder)
    assert task.head_source == probe.said and not task.lacks_head
    result = evaluate(Loaded(zoo / "animals"), [task], zoo / "animals")
    assert result.table["score"][0] == np.mean(expected == right) > 0.9
    assert result.provenance["tasks"]["t"]["head"] == probe.said


def test_a_probe_needs_rows_of_every_label(zoo: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)row 2: text must be a string.*must hold every label; got none of owl, fox"
    ):
        fit_probe(zoo / "animals", [{"text": "cat", "label": 0}, {"label": 1}], ANIMALS)
