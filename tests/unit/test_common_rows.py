"""Policy common_rows: embeddings and heads with more or fewer rows merge the rows that base and task have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from evaluation_zoo import weights
from safetensors.torch import load_file
from workbench_zoo import TASKS, make_bench, make_models, recipe_of, save

import explorer
from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.align import POLICIES, align
from explorer.checkpoints.rows import differs_in_rows
from explorer.checkpoints.source import CheckpointSource
from explorer.compute.arena import Arena
from explorer.errors import AlignmentError, InputError
from explorer.inspection import inspect_open
from explorer.opening import open_models
from explorer.recipe import POLICIES as RECIPE_POLICIES
from viz.panels.models import POLICIES as PAGE_POLICIES

EMBEDDING = "embeddings.word_embeddings.weight"
CHOICE = (
    "Policy common_rows merges the rows that both have; policy keep_base keeps the base's values there; policy refuse "
    "merges nothing."
)
State = dict[str, torch.Tensor]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """colours has 3 rows more than the base, numbers 2 fewer."""
    folder = make_models(tmp_path / "zoo")
    for task, rows in zip(TASKS, (3, -2), strict=True):
        state = load_file(folder / task / "model.safetensors")
        table = state[EMBEDDING]
        new = torch.full((max(rows, 0), table.shape[1]), 7.0)
        save(folder / task, {**state, EMBEDDING: torch.cat([table[: len(table) + min(rows, 0)], new]).contiguous()})
    return folder


def states(zoo: Path) -> tuple[State, dict[str, State]]:
    base, *tasks = (load_file(zoo / n / "model.safetensors") for n in ("base", *TASKS))
    return base, dict(zip(TASKS, tasks, strict=True))


def test_common_rows_are_merged_and_the_others_are_the_bases(zoo: Path, tmp_path: Path) -> None:
    base, tasks = states(zoo)
    recipe = recipe_of(zoo, policy="common_rows", parameters={"scale": 0.5})
    export = explorer.run_recipe(recipe, tmp_path / "out")
    merged = load_file(export.path / "model.safetensors")
    rows = len(base[EMBEDDING])
    first, second = (tasks[t][EMBEDDING] for t in TASKS)
    expected = base[EMBEDDING].clone()
    expected += 0.5 * (first[:rows] - base[EMBEDDING])
    expected[: rows - 2] += 0.5 * (second - base[EMBEDDING][: rows - 2])
    assert merged[EMBEDDING].shape == base[EMBEDDING].shape
    assert torch.allclose(merged[EMBEDDING], expected, atol=1e-6)
    other = "encoder.layer.0.attention.self.query.weight"
    change = sum(t[other] - base[other] for t in tasks.values())
    assert torch.allclose(merged[other], base[other] + 0.5 * change, atol=1e-6)
    card = (export.path / "README.md").read_text(encoding="utf-8")
    assert f"- task colours: tensor {EMBEDDING} should have the base's {rows} rows; got {rows + 3}. " in card
    assert "Its last 3 rows are dropped." in card and "policy: common_rows" in card
    assert "The base's last 2 rows count as unchanged by it." in card


@pytest.mark.parametrize("method", ["ties", "weight_average", "dare", "tall_masks"])
def test_preview_export_and_memory_give_the_same_bits(zoo: Path, tmp_path: Path, method: str) -> None:
    recipe = recipe_of(zoo, policy="common_rows", method=method)
    models = open_models(recipe)
    assert EMBEDDING in models.names
    source, arena = models.source, Arena(models.source)
    for index, name in ((i, n) for i in range(len(TASKS)) for n in models.names):
        size = models.base.info(name).numel
        whole = source.task(index, name, 0, size)
        parts = [source.task(index, name, a, min(a + 7, size)) for a in range(0, size, 7)]
        assert whole.numel() == size and torch.equal(whole, torch.cat(parts))
        assert torch.equal(whole, arena.task(index, name, 0, size))
    base, tasks = states(zoo)
    merged = explorer.merge_state_dicts(base, tasks, method, policy="common_rows")
    folders = explorer.run_recipe(recipe, tmp_path / "out").folders
    results = [merged] if len(folders) == 1 else [merged[t] for t in TASKS]
    for folder, mine in zip(folders, results, strict=True):
        written = load_file(folder / "model.safetensors")
        assert all(torch.equal(mine[n], written[n]) for n in written)


def test_rows_that_a_task_lacks_differ_by_exactly_nothing_whatever_its_dtype(zoo: Path) -> None:
    base, tasks = states(zoo)
    save(zoo / "numbers", {n: t.to(torch.bfloat16) for n, t in tasks["numbers"].items()})
    source = open_models(recipe_of(zoo, policy="common_rows")).source
    width = base[EMBEDDING].shape[1]
    end = base[EMBEDDING].numel()
    missing = source.task(1, EMBEDDING, end - 2 * width, end)
    assert torch.equal(missing, base[EMBEDDING][-2:].reshape(-1))
    assert {source.task(1, EMBEDDING, a, a + 1).dtype for a in (0, end - 1)} == {torch.float32}
    assert source.task(1, EMBEDDING, 0, 0).dtype == torch.float32


def test_other_policies_say_that_there_is_a_choice(zoo: Path) -> None:
    with pytest.raises(AlignmentError) as caught:
        open_models(recipe_of(zoo))
    rows = len(weights(1)[EMBEDDING])
    line = f"task colours: tensor {EMBEDDING} must have the base's shape [{rows}, 16]; got [{rows + 3}, 16]. {CHOICE}"
    assert line in str(caught.value)
    assert EMBEDDING not in open_models(recipe_of(zoo, policy="keep_base")).names


def test_the_page_says_what_is_left_out(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_of(zoo, policy="common_rows")
    found = inspect_open(open_models(recipe))
    assert found.problems == () and found.mergeable == found.tensors and len(found.notes) == 2
    assert found.to_json()["notes"] == list(found.notes)
    kept = inspect_open(open_models(recipe_of(zoo, policy="keep_base")))
    assert kept.notes == () and kept.mergeable == found.mergeable - 1 and len(kept.problems) == 2
    bench = make_bench(zoo, tmp_path / "exports", start=recipe)
    assert bench.inspect(recipe).notes == found.notes


def test_one_list_of_policies() -> None:
    assert POLICIES == RECIPE_POLICIES == tuple(value for _, value in PAGE_POLICIES)


@pytest.mark.parametrize(
    ("name", "base", "task", "expected"),
    [
        ("model.embed_tokens.weight", (10, 4), (12, 4), True),
        ("model.embed_tokens.weight", (10, 4), (8, 4), True),
        ("shared.weight", (10, 4), (12, 4), True),
        ("lm_head.weight", (10, 4), (12, 4), True),
        ("lm_head.bias", (10,), (12,), True),
        ("cls.predictions.bias", (10,), (12,), True),
        ("model.embed_tokens.weight", (10, 4), (10, 4), False),
        ("model.embed_tokens.weight", (10, 4), (12, 5), False),
        ("model.embed_tokens.weight", (10, 4), (40,), False),
        ("model.embed_tokens.weight", (10, 4), (0, 4), False),
        ("vit.embeddings.cls_token", (1, 1, 4), (2, 1, 4), False),
        ("vit.embeddings.patch_embeddings.projection.weight", (4, 3, 2, 2), (5, 3, 2, 2), False),
        ("embeddings.LayerNorm.weight", (4,), (5,), False),
        ("encoder.layer.0.output.dense.weight", (4, 4), (5, 4), False),
        ("encoder.layer.0.output.dense.bias", (4,), (5,), False),
    ],
)
def test_which_tensors_qualify(name: str, base: tuple[int, ...], task: tuple[int, ...], expected: bool) -> None:
    assert differs_in_rows(name, base, task) is expected


def test_other_misfits_keep_the_bases_values(zoo: Path, tmp_path: Path) -> None:
    _, tasks = states(zoo)
    name = "encoder.layer.0.attention.self.query.bias"
    save(zoo / "colours", {**tasks["colours"], name: torch.zeros(17)})
    recipe = recipe_of(zoo, policy="common_rows")
    models = open_models(recipe)
    assert name not in models.names and EMBEDDING in models.names
    assert [p for p in inspect_open(models).problems if name not in p] == []
    with pytest.raises(AlignmentError, match=f"task: |colours: {name} must be a float tensor of the base's shape"):
        CheckpointSource(models.base, models.tasks, [name])


def test_another_architecture_is_still_refused(tmp_path: Path) -> None:
    base = open_checkpoint(save(tmp_path / "base", {"a": torch.ones(99, 9), "lm_head.weight": torch.ones(10, 2)}))
    task = open_checkpoint(save(tmp_path / "task", {"b": torch.ones(99, 9), "lm_head.weight": torch.ones(12, 2)}))
    with pytest.raises(AlignmentError, match="must be of the base's architecture"):
        align(base, {"t": task}).require("common_rows")


def test_a_large_table_alone_makes_no_other_architecture(tmp_path: Path) -> None:
    base = open_checkpoint(save(tmp_path / "base", {"a": torch.ones(2), "lm_head.weight": torch.ones(100, 2)}))
    task = open_checkpoint(save(tmp_path / "task", {"a": torch.zeros(2), "lm_head.weight": torch.ones(101, 2)}))
    alignment = align(base, {"t": task})
    assert alignment.require("common_rows") == ("a", "lm_head.weight") and alignment.require("keep_base") == ("a",)
    assert alignment.reports["t"].shared_fraction == 1.0 and alignment.reports["t"].common_rows == ("lm_head.weight",)


def test_state_dicts_refuse_an_unknown_policy() -> None:
    with pytest.raises(InputError) as caught:
        explorer.merge_state_dicts({"a": torch.ones(2)}, {"t": {"a": torch.ones(2)}}, policy="common_row")
    assert str(caught.value) == (
        "merge: policy must be one of refuse, keep_base, common_rows; got 'common_row'. Did you mean 'common_rows'?"
    )
