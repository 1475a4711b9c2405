"""The sample zoo is what its manifest says: every byte, every licence, every measured accuracy."""

from __future__ import annotations

import hashlib
import json

import pytest

from explorer.checkpoints import open_checkpoint
from explorer.evaluation import find_tasks, load_task
from explorer.library import evaluate_model
from explorer.samples import FOLDER, sample_recipe

MANIFEST = json.loads((FOLDER / "MANIFEST.json").read_text(encoding="utf-8"))


def test_every_file_is_the_one_that_was_measured() -> None:
    wrong = [n for n, d in MANIFEST["sha256"].items() if hashlib.sha256((FOLDER / n).read_bytes()).hexdigest() != d]
    assert wrong == []


def test_every_model_and_data_file_is_listed() -> None:
    folders = ["base", *MANIFEST["tasks"], *(f"tasks/{n}" for n in MANIFEST["tasks"])]
    held = {p.relative_to(FOLDER).as_posix() for f in folders for p in (FOLDER / f).iterdir()}
    assert held == set(MANIFEST["sha256"])


def test_each_task_states_source_and_licence() -> None:
    for name, task in MANIFEST["tasks"].items():
        assert task["source"] and task["licence"] and isinstance(task["licence_stated_by_source"], bool), name


def test_the_start_recipe_holds_every_task() -> None:
    assert sample_recipe().task_names == tuple(sorted(MANIFEST["tasks"]))


def test_splits_do_not_share_rows_that_a_model_saw() -> None:
    for name, folder in find_tasks(FOLDER / "tasks").items():
        lines = {s: (folder / f"{s}.jsonl").read_text(encoding="utf-8").splitlines() for s in ("train", "tune", "test")}
        seen = set(lines["train"])
        assert len(lines["tune"]) >= 190 and sum(row in seen for row in lines["tune"]) <= 5, name


def test_fine_tunes_share_the_embeddings_byte_for_byte() -> None:
    shard = "model-00001-of-00002.safetensors"
    digests = {MANIFEST["sha256"][f"{n}/{shard}"] for n in ("base", *MANIFEST["tasks"])}
    encoders = {MANIFEST["sha256"][f"{n}/model-00002-of-00002.safetensors"] for n in ("base", *MANIFEST["tasks"])}
    assert len(digests) == 1 and len(encoders) == 1 + len(MANIFEST["tasks"])


def test_checkpoints_open_and_align() -> None:
    base = open_checkpoint(FOLDER / "base")
    assert base.parameter_count == 8_446_080 and base.dtypes == {"float16": 8_446_080}
    assert all(open_checkpoint(FOLDER / n).tensors.keys() == base.tensors.keys() for n in MANIFEST["tasks"])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MANIFEST["tasks"]))
def test_experts_score_what_the_manifest_says(name: str) -> None:
    table = evaluate_model(FOLDER / name, tasks=[name], tasks_folder=FOLDER / "tasks").table.query("model == 'merged'")
    n = load_task(find_tasks(FOLDER / "tasks")[name]).n
    # Another processor may round the last bit of a score otherwise; a tie may then fall the other way.
    assert abs(table["score"].iloc[0] - MANIFEST["tasks"][name]["measured"]["expert"]) <= 2 / n
