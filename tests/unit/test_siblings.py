"""Siblings or not, in tables and words; and a permuted checkpoint that computes what it did and merges again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evaluation_zoo import weights
from safetensors.torch import load_file
from torch import Tensor
from workbench_zoo import TASKS, make_models, recipe_of, save, tuned, write_recipe

from explorer.checkpoints.permutations import feed_forward_units
from explorer.cli import main
from explorer.compute.matching import permuted, sizes
from explorer.errors import AlignmentError, OutputError, RecipeError
from explorer.evaluation import load_module
from explorer.exporting import run_recipe
from explorer.recipe import Recipe
from explorer.siblings import PERMUTATION_FILE, compare_siblings, permute_checkpoint, verdict

Captured = pytest.CaptureFixture[str]


def shuffled(state: dict[str, Tensor], layers: int = 2) -> dict[str, Tensor]:
    """The same function with the hidden units of the first layers in another order."""
    spec = feed_forward_units({n: tuple(t.shape) for n, t in state.items()}).spec
    generator = torch.Generator().manual_seed(4)
    orders = {p: torch.randperm(n, generator=generator) for p, n in sizes(spec, state).items()}
    kept = dict.fromkeys(orders) | dict(list(orders.items())[:layers])
    orders = {p: o if o is not None else torch.arange(len(orders[p])) for p, o in kept.items()}
    return {**state, **{n: t.contiguous() for n, t in permuted(state, spec, orders).items()}}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_models(tmp_path_factory.mktemp("zoo"))
    save(folder / "moved", shuffled(tuned(weights(1), 20)))
    save(folder / "half", shuffled(tuned(weights(1), 21), layers=1))
    save(folder / "stranger", weights(99))
    return folder


def test_fine_tunes_of_one_base_are_siblings(zoo: Path) -> None:
    result = compare_siblings(zoo / "base", {t: zoo / t for t in TASKS})
    pairs = result.table[result.table["part"] == "all"]
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == [("base", TASKS[0]), ("base", TASKS[1]), TASKS]
    assert (pairs["units"] == 64).all() and (pairs["null"] == 2 / 64).all()
    assert (pairs["in_place"] == 1).all() and (pairs["gain"] == 0).all()
    assert (pairs["distance_before"] == pairs["distance_after"]).all() and (pairs["distance_before"] < 0.5).all()
    assert result.provenance["verdict"].startswith("Siblings: in every pair at least 100.0%")
    parts = result.table[(result.table["a"] == "base") & (result.table["part"] != "all")]
    assert list(parts["part"].unique()) == ["encoder.layer.0", "encoder.layer.1"]


def test_moved_units_are_found_and_said(zoo: Path) -> None:
    result = compare_siblings(zoo / "base", {"moved": zoo / "moved", "colours": zoo / "colours"}, pairs=False)
    assert list(result.table["b"].unique()) == ["moved", "colours"]  # no pair of tasks
    row = result.table.iloc[0]
    assert row["in_place"] < 0.2 and row["distance_after"] < 0.5 < row["distance_before"] and row["gain"] > 0
    said = result.provenance["verdict"]
    assert said.startswith("Not siblings: base and moved (") and "python -m explorer permute" in said
    assert "may still fail" not in said
    assert verdict(compare_siblings(zoo / "base", {"half": zoo / "half"}).table).startswith("Partly siblings: only 5")


def test_a_stranger_is_no_sibling_even_in_the_best_order(zoo: Path) -> None:
    said = verdict(compare_siblings(zoo / "base", {"stranger": zoo / "stranger"}).table)
    assert said.startswith("Not siblings: base and stranger") and "of the distance stays" in said


def test_the_distance_of_all_parts_is_pooled(zoo: Path) -> None:
    row = compare_siblings(zoo / "base", {"moved": zoo / "moved"}).table.iloc[0]
    base, moved = (load_file(zoo / n / "model.safetensors") for n in ("base", "moved"))
    names = feed_forward_units({n: tuple(t.shape) for n, t in base.items()}).spec.axes
    apart = sum(float((base[n] - moved[n]).double().square().sum()) for n in names)
    length = sum(float(base[n].double().square().sum()) for n in names)
    assert row["distance_before"] == pytest.approx((apart / length) ** 0.5)


def test_a_permuted_checkpoint_computes_the_same_and_merges_like_a_sibling(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "aligned"
    table = permute_checkpoint(zoo / "base", zoo / "moved", out).table
    assert table.iloc[0]["in_place"] < 0.2
    before, after = load_file(zoo / "moved" / "model.safetensors"), load_file(out / "model.safetensors")
    assert set(before) == set(after) and all(before[n].shape == after[n].shape for n in before)
    want = tuned(weights(1), 20)
    assert all(torch.equal(after[n], want[n]) for n in want)
    tokens = {"input_ids": torch.tensor([[2, 4, 5, 3]])}
    with torch.no_grad():
        outputs = [load_module(p)(**tokens).last_hidden_state for p in (zoo / "moved", out)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    record = json.loads((out / PERMUTATION_FILE).read_text("utf-8"))
    assert sorted(record["permutations"]["encoder.layer.1"]) == list(range(32))
    assert compare_siblings(zoo / "base", {"aligned": out}).provenance["verdict"].startswith("Siblings")
    recipe = recipe_of(zoo, tasks={"aligned": str(out), "colours": str(zoo / "colours")})
    assert run_recipe(recipe, tmp_path / "merged").total_bytes > 0


def test_what_cannot_be_done_is_said_and_nothing_is_written(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must not replace a model that is read"):
        permute_checkpoint(zoo / "base", zoo / "moved", zoo / "moved", overwrite=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("x")
    with pytest.raises(OutputError):
        permute_checkpoint(zoo / "base", zoo / "moved", tmp_path / "taken")
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["mine.txt"]
    save(tmp_path / "plain", {"scale": torch.ones(3)})
    with pytest.raises(AlignmentError, match="must have hidden units whose order is free"):
        compare_siblings(tmp_path / "plain", {"colours": zoo / "colours"})
    state = weights(1)
    state["encoder.layer.0.output.dense.weight"] = torch.ones(16, 30)
    del state["encoder.layer.1.output.dense.weight"]
    save(tmp_path / "other", state)
    with pytest.raises(AlignmentError, match=r"(?s)2 problems.*got \[16, 30\].*got none"):
        compare_siblings(zoo / "base", {"other": tmp_path / "other"})


def test_a_chain_of_linear_layers_works_too(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {"0.weight": torch.randn(9, 4, generator=generator), "2.weight": torch.randn(3, 9, generator=generator)}
    save(tmp_path / "base", state)
    order = torch.randperm(9, generator=generator)
    save(
        tmp_path / "moved", {"0.weight": state["0.weight"][order], "2.weight": state["2.weight"][:, order].contiguous()}
    )
    permute_checkpoint(tmp_path / "base", tmp_path / "moved", tmp_path / "out")
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(back[n], state[n]) for n in state)


def test_commands(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", recipe_of(zoo))
    assert main(["siblings", str(recipe)]) == 0
    text = capsys.readouterr().out
    assert "in_place" in text and "Siblings: in every pair" in text and "where units moved" not in text
    moved = recipe_of(zoo, tasks={"moved": str(zoo / "moved")})
    assert main(["siblings", str(write_recipe(tmp_path / "m.yaml", moved)), "--base-only", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "siblings" and found["provenance"]["verdict"].startswith("Not siblings")
    assert main(["permute", str(zoo / "base"), str(zoo / "moved"), str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "where units moved" in text and "hidden units moved)" in text
    assert main(["permute", str(zoo / "base"), str(zoo / "moved"), str(tmp_path / "out")]) == 1
    assert main(["permute", str(zoo / "base"), str(zoo / "moved"), str(tmp_path / "out"), "--overwrite"]) == 0
    assert main(["siblings", str(tmp_path / "none.yaml")]) == 2
    assert Recipe.load(recipe).task_names == TASKS
