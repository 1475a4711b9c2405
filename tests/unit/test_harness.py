"""lm-evaluation-harness on live weights, where it is installed; a clear sentence where it is not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from kind_examples import language as zoo
from test_language_kinds import random_gpt2, scored

from explorer.cli import main
from explorer.errors import InputError, UnknownNameError
from explorer.evaluation import load_tokenizer
from explorer.harness import Harness, require_installed
from explorer.harness_command import language_model
from explorer.recipe import Recipe

installed = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
YAML = """
task: cities
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]
metadata: {{version: 3.0}}
"""


def test_without_the_harness_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"optional install; got none. Run: pip install"):
        require_installed()


def test_the_command_says_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["evaluate", "nowhere", "--harness", "arc_easy"]) == 2
    assert "optional install" in capsys.readouterr().err
    assert main(["evaluate", "nowhere", "--limit", "3"]) == 2
    assert "--limit goes with --harness" in capsys.readouterr().err


@pytest.mark.slow
@installed
def test_the_harness_gives_what_our_kind_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    built = zoo.multiple_choice(tmp_path / "made")
    rows = [{**row, "choices": [*row["choices"], "ö" * n + " of"]} for n, row in enumerate(zoo.QUESTIONS, start=1)]
    zoo.write_rows(built.task, "multiple_choice", rows)
    folder = tmp_path / "definitions"
    folder.mkdir()
    (folder / "cities.yaml").write_text(YAML.format(file=built.task / "test.jsonl"), encoding="utf-8")
    for module in (zoo.llama(), random_gpt2()):
        harness = Harness(module, load_tokenizer(built.model).call, folder=folder)
        found = harness.run(["cities"])
        theirs = dict(zip(found.table["metric"], found.table["value"], strict=True))
        ours = {m: scored(built, module, metric=m).score for m in ("acc", "acc_norm", "acc_bytes")}
        assert theirs == pytest.approx(ours)
        assert found.table["n"].tolist() == [8.0] * 3 and found.table["limit"].isna().all()
        limited = harness.run(["cities"], limit=2).table
        assert limited["n"].tolist() == limited["limit"].tolist() == [2.0] * 3 and set(limited["n_total"]) == {8.0}
        assert set(limited["version"]) == {"3.0"} and set(limited["higher_is_better"]) == {1.0}
        json.dumps(found.to_json())
        with pytest.raises(UnknownNameError, match="Did you mean 'cities'"):
            harness.run(["citys"])


def test_a_recipe_is_merged_in_memory(tmp_path: Path) -> None:
    for name, follows in (("base", {}), ("cities", zoo.FOLLOWS)):
        zoo.write_model(tmp_path / name, zoo.llama(follows), bos=True)
    plain = {"base": str(tmp_path / "base"), "tasks": {"cities": {"checkpoint": str(tmp_path / "cities")}}}
    recipe = Recipe.from_dict({**plain, "method": "task_arithmetic", "parameters": {"scale": 1.0}})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    for model, sure in ((tmp_path / "recipe.yaml", True), (tmp_path / "base", False)):
        module, call = language_model(model, torch.device("cpu"))
        with torch.inference_mode():
            found = module(torch.tensor([call("italy")["input_ids"]])).logits[0, -1].softmax(-1)[zoo.PLACE["rome"]]
        assert bool(found > 0.5) is sure
