"""Adapters through the page's workbench: preview = export, experts, and the model card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_zoo import exact, pair, save_adapter
from evaluation_zoo import weights
from safetensors.torch import load_file
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.adapted import put_on
from explorer.errors import CheckpointError
from explorer.evaluation import load_module
from explorer.executor import CancelToken
from explorer.recipe import Recipe
from explorer.streaming import stream
from explorer.workbench import Workbench

QUERY = "encoder.layer.0.attention.self.query"
DENSE = "encoder.layer.1.output.dense"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dense fine-tune and one adapter, named after evaluation tasks."""
    folder = make_models(tmp_path_factory.mktemp("zoo"))
    pairs = {f"bert.{QUERY}": pair(1, 16, 16), f"bert.{DENSE}": pair(2, 16, 32)}
    save_adapter(folder / "lora", pairs)
    return folder


def recipe(zoo: Path, method: str = "task_arithmetic", **values: object) -> Recipe:
    tasks = {TASKS[0]: {"checkpoint": str(zoo / TASKS[0])}, TASKS[1]: {"checkpoint": str(zoo / "lora")}}
    return recipe_of(zoo, tasks=tasks, method=method, parameters=values)


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


@pytest.mark.parametrize(("method", "values"), [("task_arithmetic", {"scale": 0.7}), ("ties", {"density": 0.3})])
def test_preview_is_export(bench: Workbench, zoo: Path, method: str, values: dict[str, object]) -> None:
    asked = recipe(zoo, method, **values)
    slot = bench.slot("tab")
    live = bench.live(slot, asked)
    live.merge(asked, cache=bench.store)
    export = bench.export(asked, "merged")
    stored = load_file(export.path / "model.safetensors")
    shown = live.weights()
    assert set(shown) <= set(stored) and f"{QUERY}.weight" in shown
    for name, tensor in shown.items():
        assert torch.equal(tensor.view(torch.int32), stored[name].view(torch.int32)), name


def test_scores_stream_with_an_adapter_as_expert(bench: Workbench, zoo: Path) -> None:
    slot = bench.slot("tab")
    last = list(stream(bench, slot, recipe(zoo), CancelToken()))[-1]
    assert last.finished and set(last.scores.table["model"]) >= {"merged", "base", "expert"}
    assert set(last.scores.table["task"]) == set(TASKS)


def test_the_expert_is_base_plus_update(zoo: Path) -> None:
    task = put_on(open_checkpoint(zoo / "base"), open_checkpoint(zoo / "lora"))
    module = load_module(task)
    got = module.state_dict()[f"{QUERY}.weight"].double().numpy()
    want = weights(1)[f"{QUERY}.weight"].double().numpy() + exact(pair(1, 16, 16))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    assert torch.equal(module.state_dict()[f"{QUERY}.bias"], weights(1)[f"{QUERY}.bias"])


def test_an_adapter_alone_cannot_be_evaluated(zoo: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_module(zoo / "lora")
    assert str(caught.value) == (
        f"{zoo / 'lora'}: must be a whole model to be evaluated; got a PEFT adapter. "
        "Write a recipe with somebody/tiny as base and the adapter as a task."
    )


def test_a_survey_counts_what_the_adapter_leaves_alone_as_unchanged(bench: Workbench, zoo: Path) -> None:
    rows = bench.survey(recipe(zoo), metrics=["norm_profile"])["norm_profile"]
    tensors = rows.at("tensor")
    lora = tensors[tensors["task"] == TASKS[1]].set_index("tensor")
    assert lora.loc[f"{QUERY}.weight"]["norm"] == pytest.approx(np.linalg.norm(exact(pair(1, 16, 16))), rel=1e-6)
    assert (lora.drop([f"{QUERY}.weight", f"{DENSE}.weight"])["norm"] == 0).all()


def test_uploads_take_an_adapter(bench: Workbench, zoo: Path) -> None:
    files = [zoo / "lora" / "adapter_model.safetensors", zoo / "lora" / "adapter_config.json"]
    assert open_checkpoint(bench.receive("tab", files)).format == "PEFT adapter, r=3, alpha=12"
