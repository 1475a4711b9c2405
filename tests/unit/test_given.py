"""Statistics files: read as they are, refused with everything that is wrong, and seen by every cache key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.checkpoints import find_checkpoints, open_checkpoint
from explorer.checkpoints.given import open_given
from explorer.compute.arena import Arena, arena_bytes
from explorer.compute.source import StateDictSource
from explorer.errors import CheckpointError, PathError, RecipeError
from explorer.exporting import run_recipe
from explorer.library import merge_state_dicts
from explorer.opening import open_models
from explorer.recipe import Recipe
from explorer.streaming import stream
from viz.panels.methods import left_out

QUERY = "encoder.layer.0.attention.self.query.weight"
AGAIN = "Run `python -m explorer gather RECIPE OUT_DIR` again."


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return make_models(tmp_path / "zoo")


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    return path


def sound(zoo: Path, task: str = "colours") -> dict[str, Tensor]:
    state = {n: open_checkpoint(zoo / task).read(n) for n in open_checkpoint(zoo / task)}
    return {**{f"fisher/{n}": t.square() for n, t in state.items()}, f"gram/{QUERY}": torch.eye(16)}


def with_files(zoo: Path, **changes: Any) -> Recipe:
    """The zoo's recipe with a sound statistics file for every task."""
    files = {t: write(zoo / f"{t}.statistics.safetensors", sound(zoo, t)) for t in TASKS}
    tasks = {t: {"checkpoint": str(zoo / t), "statistics": str(files[t])} for t in TASKS}
    return recipe_of(zoo, tasks=tasks, **changes)


def refused(zoo: Path, tensors: dict[str, Tensor], **metadata: str) -> str:
    """What is said of a recipe whose first task has these statistics, without the task's name and the advice."""
    made = with_files(zoo)
    write(zoo / "colours.statistics.safetensors", tensors, **metadata)
    with pytest.raises(CheckpointError) as caught:
        open_models(made)
    return str(caught.value).replace(f" {AGAIN}", "")


def test_a_recipe_with_statistics_round_trips(zoo: Path) -> None:
    made = with_files(zoo)
    assert made.tasks[0].statistics == str(zoo / "colours.statistics.safetensors")
    again = Recipe.from_yaml(made.to_yaml())
    assert again == made and again.digest == made.digest != recipe_of(zoo).digest
    assert again.values() == {}, "a path is no parameter"


@pytest.mark.parametrize("value", [3, "", ["a"]])
def test_a_path_must_be_text(value: object) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({"base": "b", "method": "m", "tasks": {"a": {"checkpoint": "c", "statistics": value}}})
    must = "recipe: statistics of task a must be the path of a file"
    assert str(caught.value) == f"{must}; got {value!r}. Write `statistics: path`, or leave the line out."


def test_every_value_and_shape_is_checked_and_all_problems_come_at_once(zoo: Path) -> None:
    good = sound(zoo)
    bias = "fisher/encoder.layer.0.output.dense.bias"
    text = refused(zoo, {**good, bias: torch.tensor([-2.0, *[float("nan")] * 15]), f"gram/{QUERY}": torch.rand(16, 16)})
    head, first, second = text.splitlines()
    assert head == "statistics: 2 problems"
    assert first == f"  - statistics of colours: {bias} must hold finite numbers; got 15 NaN or infinite."
    assert second.startswith(f"  - statistics of colours: gram/{QUERY} must be symmetric; got entries that differ from")
    text = refused(zoo, {**good, bias: torch.full((16,), -2.0)})
    assert text == f"statistics of colours: {bias} must not be below 0; got -2."
    text = refused(zoo, {**good, bias: torch.zeros(4), f"gram/{QUERY}": torch.eye(3)})
    first, second = text.splitlines()[1:]
    assert first == f"  - statistics of colours: {bias} must have the tensor's shape (16,); got (4,)."
    want = f"gram/{QUERY} must be 16 × 16, one row per input; got (3, 3)."
    assert second == f"  - statistics of colours: {want}"
    name = bias.removeprefix("fisher/")
    text = refused(zoo, {**good, f"gram/{name}": torch.eye(16)})
    want = f"gram/{name} must belong to a matrix, not to a tensor of shape (16,); got (16, 16)."
    assert text == f"statistics of colours: {want}"
    text = refused(zoo, {"fisher/else": torch.ones(2)})
    want = "statistics must be of the tensors that are merged; got none of them in colours.statistics.safetensors."
    assert text == f"statistics of colours: {want}"


def test_statistics_of_another_model_are_refused(zoo: Path) -> None:
    right = open_checkpoint(zoo / "colours").digest
    made = with_files(zoo)
    write(zoo / "colours.statistics.safetensors", sound(zoo), checkpoint=right)
    assert open_models(made).given["colours"].checkpoint_digest == right
    text = refused(zoo, sound(zoo), checkpoint=open_checkpoint(zoo / "numbers").digest)
    must = "statistics of colours: statistics must be measured on this task's own checkpoint"
    assert text == f"{must}; got those of another one in colours.statistics.safetensors."


def test_files_that_hold_something_else_are_refused(zoo: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_given(zoo / "colours" / "model.safetensors")
    assert "must hold only fisher/NAME and gram/NAME; got embeddings.LayerNorm.bias," in str(caught.value)
    with pytest.raises(CheckpointError, match=r"statistics must be one \.safetensors file; got a folder"):
        open_given(zoo / "colours")


def test_a_missing_file_is_named_with_every_other_problem(zoo: Path) -> None:
    tasks = {"colours": {"checkpoint": str(zoo / "gone"), "statistics": str(zoo / "nowhere.safetensors")}}
    with pytest.raises(CheckpointError) as caught:
        open_models(recipe_of(zoo, tasks=tasks))
    assert str(zoo / "gone") in str(caught.value) and str(zoo / "nowhere.safetensors") in str(caught.value)


def test_files_outside_the_allowed_folders_are_refused(zoo: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.safetensors", sound(zoo))
    tasks = {"colours": {"checkpoint": str(zoo / "colours"), "statistics": str(outside)}}
    with pytest.raises(PathError, match=r"outside\.safetensors: must lie inside an allowed folder"):
        make_bench(zoo, tmp_path / "exports").models(recipe_of(zoo, tasks=tasks))


def test_files_and_resident_copy_hold_the_same(zoo: Path) -> None:
    source = open_models(with_files(zoo)).source
    arena = Arena(source)
    for kind in ("fisher", "gram"):
        for name in source.names:
            for task in range(2):
                one, other = source.given(kind, task, name), arena.given(kind, task, name)
                assert (one is None) == (other is None)
                assert one is None or (other is not None and torch.equal(one, other))
                assert source.given_bytes(kind, task, name) == arena.given_bytes(kind, task, name)
    assert source.given("gram", 0, QUERY) is not None
    padding = 64 * (len(source.names) + 1) * 3
    assert 0 <= arena.resident_bytes - arena_bytes(source) <= padding
    bare = arena_bytes(open_models(recipe_of(zoo)).source)
    assert arena_bytes(source) - bare == sum(t.nbytes for task in TASKS for t in sound(zoo, task).values())


def test_another_content_is_another_source(zoo: Path) -> None:
    made = with_files(zoo)
    before = open_models(made).source.digest
    assert before == open_models(made).source.digest != open_models(recipe_of(zoo)).source.digest
    write(zoo / "numbers.statistics.safetensors", sound(zoo, "colours"))
    assert open_models(made).source.digest != before


def test_the_page_offers_what_the_models_have(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    assert bench.measured(recipe_of(zoo)) == frozenset()
    made = with_files(zoo)
    assert bench.measured(made) == {"fisher", "gram"}
    fisher_only = {k: v for k, v in sound(zoo).items() if k.startswith("fisher/")}
    write(zoo / "colours.statistics.safetensors", fisher_only)
    assert bench.measured(made) == {"fisher"}
    write(zoo / "colours.statistics.safetensors", {"fisher/else": torch.ones(1)})
    assert bench.measured(made) == frozenset(), "a file that cannot be used is no reason to fail"
    want = "Fisher merging and RegMean need statistics that these models do not have; run `python -m explorer gather"
    assert want in left_out(bench.methods(), 2, measured=bench.measured(recipe_of(zoo)))


def test_a_merge_does_not_replace_its_own_statistics(zoo: Path) -> None:
    folder = zoo / "measured"
    folder.mkdir()
    file = write(folder / "colours.statistics.safetensors", sound(zoo))
    tasks = {"colours": {"checkpoint": str(zoo / "colours"), "statistics": str(file)}}
    with pytest.raises(RecipeError, match="the output must not replace a model of its own recipe"):
        run_recipe(recipe_of(zoo, tasks=tasks, method="fisher"), folder, overwrite=True)
    assert file.exists()


def test_a_method_without_its_statistics_shows_a_sentence_and_no_crash(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    slot = bench.slot("tab")
    with pytest.raises(RecipeError, match="fisher: every task must have Fisher statistics; got none for colours, num"):
        list(stream(bench, slot, recipe_of(zoo, method="fisher"), slot.newest()))
    *_, last = stream(bench, slot, with_files(zoo, method="fisher"), slot.newest())
    assert last.finished and set(last.scores.tasks) == set(TASKS)


def test_statistics_are_no_checkpoints(zoo: Path) -> None:
    before = find_checkpoints(zoo)
    with_files(zoo)
    assert find_checkpoints(zoo) == before


def test_the_library_checks_what_it_is_given() -> None:
    base, task = {"w": torch.zeros(2, 3)}, {"w": torch.ones(2, 3)}
    bad = {"a": {"fisher/w": torch.ones(3), "gram/w": torch.tensor([[1.0, 2, 0], [0, 1, 0], [0, 0, 1]])}}
    with pytest.raises(CheckpointError) as caught:
        merge_state_dicts(base, {"a": task}, "fisher", statistics=bad)
    first, second = str(caught.value).splitlines()[1:]
    assert first == f"  - statistics of a: fisher/w must have the tensor's shape (2, 3); got (3,). {AGAIN}"
    assert "gram/w must be symmetric" in second


def test_what_was_measured_is_looked_up_in_the_methods_order() -> None:
    """Kernels see tasks in name order; each must get its own statistics."""
    base = {"w": torch.zeros(4)}
    rows = {"b": {"w": torch.full((4,), 2.0)}, "a": {"w": torch.ones(4)}}
    given = {"b": {"fisher/w": torch.ones(4)}, "a": {"fisher/w": torch.zeros(4)}}
    from explorer.merging import merge_tensor, prepare

    source = StateDictSource(base, rows, given=given)
    out = merge_tensor(prepare("fisher", source, {"floor": 0.0}), source, "w")
    assert isinstance(out, Tensor) and out.tolist() == [2.0] * 4
