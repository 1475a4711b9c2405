"""Adapters into a new adapter: concatenation equals the dense merge, and the stated error is the measured one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_zoo import Pair, exact, pair, save_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from explorer.adapters import merge_adapters
from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.align import align
from explorer.checkpoints.source import CheckpointSource
from explorer.cli import main
from explorer.compute.low_rank import squared_errors, truncate
from explorer.compute.source import Chunk, deltas, numel
from explorer.errors import InputError, OutputError
from explorer.exporting import run_recipe
from explorer.recipe import Recipe

SHAPES = {"layers.0.q.weight": (12, 20), "layers.0.v.weight": (8, 8), "embed.weight": (30, 6), "norm.weight": (5,)}
PAIRS: dict[str, dict[str, Pair]] = {
    "a": {"layers.0.q": pair(1, 12, 20), "layers.0.v": pair(2, 8, 8), "embed": pair(3, 6, 30)},
    "b": {"layers.0.q": pair(4, 12, 20, rank=2), "embed": pair(5, 6, 30, rank=2)},
}
SCALES = {"a": 0.7, "b": -0.4}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter of rank 3 and one of rank 2 that is rank-stabilised; both hold an embedding."""
    folder = tmp_path_factory.mktemp("adapters")
    generator = torch.Generator().manual_seed(0)
    state = {f"model.{n}": torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    (folder / "base").mkdir()
    save_file(state, folder / "base" / "model.safetensors")
    norm = {"base_model.model.norm.weight": torch.arange(5.0)}
    save_adapter(folder / "a", PAIRS["a"], embeddings=("embed",), extra=norm, modules_to_save=["norm"])
    save_adapter(folder / "b", PAIRS["b"], embeddings=("embed",), r=2, lora_alpha=6, use_rslora=True)
    return folder


def recipe_of(zoo: Path, method: str = "task_arithmetic", **parameters: Any) -> Recipe:
    tasks = {t: {"checkpoint": str(zoo / t)} for t in PAIRS}
    values = parameters or {"scale": SCALES}
    per_task = {k: v for k, v in values.items() if isinstance(v, dict)}
    for task, entry in tasks.items():
        entry.update({k: v[task] for k, v in per_task.items()})
    common = {k: v for k, v in values.items() if k not in per_task}
    return Recipe.from_dict({"base": str(zoo / "base"), "tasks": tasks, "method": method, "parameters": common})


def updates(zoo: Path, adapter: Path) -> dict[str, Tensor]:
    """ΔW of an adapter on the base, by tensor, through our own reader."""
    alignment = align(open_checkpoint(zoo / "base"), {"x": open_checkpoint(adapter)})
    source = CheckpointSource(alignment.base, alignment.tasks, alignment.require())
    return {n: deltas(source, Chunk(n, 0, numel(source, n)))[0].view(source.shape(n)) for n in source.names}


def wanted(name: str) -> np.ndarray:
    """Σ λ s B A in float64 numpy."""
    module = name.removesuffix(".weight").removeprefix("model.")
    scale = {"a": 12 / 3, "b": 6 / np.sqrt(2)}
    total = sum(SCALES[t] * exact(p[module], scale[t]) for t, p in PAIRS.items() if module in p)
    assert isinstance(total, np.ndarray)
    return total.T if module == "embed" else total


MATRICES = ["model.embed.weight", "model.layers.0.q.weight", "model.layers.0.v.weight"]


def test_concatenation_is_the_dense_merge(zoo: Path, tmp_path: Path) -> None:
    made = merge_adapters(recipe_of(zoo), tmp_path / "new")
    dense = load_file(run_recipe(recipe_of(zoo), tmp_path / "dense").path / "model.safetensors")
    base = load_file(zoo / "base" / "model.safetensors")
    got = updates(zoo, tmp_path / "new")
    for name in MATRICES:
        np.testing.assert_allclose(got[name].numpy(), wanted(name), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(base[name] + got[name], dense[name], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(base["model.norm.weight"] + got["model.norm.weight"], dense["model.norm.weight"])
    assert [(n, r) for n, r, _ in made.errors] == list(zip(MATRICES, [5, 5, 3], strict=True))
    assert 0 < made.total_error < 1e-6


def test_the_new_adapter_says_what_it_is(zoo: Path, tmp_path: Path) -> None:
    made = merge_adapters(recipe_of(zoo), tmp_path / "new")
    config = json.loads((made.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (5, 5, False)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"layers.0.v": 3}
    assert config["target_modules"] == ["embed", "layers.0.q", "layers.0.v"]
    assert config["modules_to_save"] == ["norm"] and config["base_model_name_or_path"] == "somebody/tiny"
    stored = load_file(made.path / "adapter_model.safetensors")
    assert stored["base_model.model.embed.lora_embedding_A"].shape == (5, 30)
    assert stored["base_model.model.layers.0.q.lora_B.weight"].shape == (12, 5)
    assert open_checkpoint(made.path).format == "PEFT adapter, r=3 to 5, alpha=5"
    assert Recipe.load(made.path / "explorer_recipe.yaml") == recipe_of(zoo)


def measured(zoo: Path, folder: Path, name: str) -> float:
    got = updates(zoo, folder)[name].double().numpy()
    return float(np.linalg.norm(got - wanted(name)) / np.linalg.norm(wanted(name)))


def test_stated_errors_are_the_measured_ones(zoo: Path, tmp_path: Path) -> None:
    made = merge_adapters(recipe_of(zoo), tmp_path / "new", combine="svd", rank=2)
    squares = 0.0
    for name, rank, error in made.errors:
        singular = np.linalg.svd(wanted(name), compute_uv=False)
        best = float(np.sqrt((singular[2:] ** 2).sum() / (singular**2).sum()))
        assert rank == 2 and error == pytest.approx(best, rel=1e-5)
        assert measured(zoo, made.path, name) == pytest.approx(error, rel=1e-5)
        squares += float((singular[2:] ** 2).sum())
    size = sum(float((wanted(n) ** 2).sum()) for n in MATRICES)
    assert made.total_error == pytest.approx(np.sqrt(squares / size), rel=1e-5)
    card = (made.path / "README.md").read_text()
    assert f"**{made.total_error:.3g}** in total" in card and "OUT --combine svd --rank 2`" in card
    assert f"| {MATRICES[0]} | 2 | {made.errors[0][2]:.3g} |" in card


def test_any_method_can_be_cut_to_a_rank(zoo: Path, tmp_path: Path) -> None:
    made = merge_adapters(recipe_of(zoo, "ties", density=0.5), tmp_path / "new", combine="svd", rank=64)
    assert [r for _, r, _ in made.errors] == [6, 12, 8]  # never more than the shorter side
    assert made.total_error < 1e-6
    dense = load_file(run_recipe(recipe_of(zoo, "ties", density=0.5), tmp_path / "dense").path / "model.safetensors")
    base = load_file(zoo / "base" / "model.safetensors")
    for name, update in updates(zoo, made.path).items():
        torch.testing.assert_close(base[name] + update, dense[name], rtol=1e-5, atol=1e-5)


def test_average_of_adapters(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_of(zoo, "weight_average", weight={"a": 3.0, "b": 1.0})
    made = merge_adapters(recipe, tmp_path / "new")
    base = load_file(zoo / "base" / "model.safetensors")
    dense = load_file(run_recipe(recipe, tmp_path / "dense").path / "model.safetensors")
    for name, update in updates(zoo, made.path).items():
        torch.testing.assert_close(base[name] + update, dense[name], rtol=1e-5, atol=1e-6)


def test_default_rank_is_the_largest_of_the_adapters(zoo: Path, tmp_path: Path) -> None:
    made = merge_adapters(recipe_of(zoo), tmp_path / "new", combine="svd")
    assert {r for _, r, _ in made.errors} == {3}


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "combine": ({}, {"combine": "cat"}, "combine must be one of concatenate, svd; got 'cat'."),
    "rank": ({}, {"combine": "svd", "rank": 0}, "rank must be at least 1; got 0. For example --rank 16."),
    "rank of all": ({}, {"rank": 4}, "rank belongs to --combine svd; concatenation keeps every rank; got 4."),
    "method": (
        {"method": "ties", "density": 0.5},
        {},
        "merge-adapters: the method must be linear in the task vectors (task_arithmetic or weight_average, normalized) "
        "to be concatenated; got ties. Choose one of them, or --combine svd.",
    ),
    "per task": ({"method": "tall_masks", "density": 0.5}, {"combine": "svd"}, "must give one model to become one"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_leave_nothing(zoo: Path, tmp_path: Path, what: str) -> None:
    given, options, message = REFUSED[what]
    with pytest.raises(InputError) as caught:
        merge_adapters(recipe_of(zoo, **given), tmp_path / "new", **options)
    assert message in str(caught.value) and not (tmp_path / "new").exists()


def test_whole_models_are_refused(zoo: Path, tmp_path: Path) -> None:
    plain = recipe_of(zoo).to_dict()
    plain["tasks"]["b"]["checkpoint"] = str(zoo / "base")
    with pytest.raises(InputError) as caught:
        merge_adapters(Recipe.from_dict(plain), tmp_path / "new")
    assert str(caught.value) == (
        "merge-adapters: every task must be a PEFT adapter to become one adapter; got whole models for b. "
        "Leave them out, or use `merge`, which writes a whole model."
    )


def test_the_command_prints_the_errors(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_of(zoo).to_yaml(), encoding="utf-8")
    asked = ["merge-adapters", str(path), str(tmp_path / "new"), "--combine", "svd", "--rank", "2"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert len(re.findall(r"rank 2  relative error 0\.\d+", text)) == 3 and "relative error in total 0." in text
    assert main(asked) == 1 and "must be a new or empty folder" in capsys.readouterr().err
    assert main([*asked, "--overwrite"]) == 0
    with pytest.raises(OutputError):
        merge_adapters(path, tmp_path / "new")


def test_truncation_is_the_best_of_its_rank() -> None:
    matrix = torch.randn(7, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for given in (matrix, matrix.T):
        for rank in (1, 3, 20):
            left, right = truncate(given, rank)
            singular = torch.linalg.svdvals(given)
            assert left.shape[1] == min(rank, 7)
            assert squared_errors(given, left, right)[0] == pytest.approx(
                float((singular[rank:] ** 2).sum()), abs=1e-12
            )


def test_peft_reads_the_new_adapter_alike(zoo: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is no requirement; where it is, it reads the adapter too")

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v = torch.nn.Linear(20, 12, bias=False), torch.nn.Linear(8, 8, bias=False)

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Layer()])
            self.embed, self.norm = torch.nn.Embedding(30, 6), torch.nn.RMSNorm(5)

    made = merge_adapters(recipe_of(zoo), tmp_path / "new")
    model = peft.PeftModel.from_pretrained(Tiny(), str(made.path))
    layer = model.base_model.model.layers[0].q
    got = layer.get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(got, wanted("model.layers.0.q.weight"), rtol=1e-4, atol=1e-6)
