"""The most disputed weights exactly, one weight's vote, and its merged value to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tiles import SHAPES, drawn, source_of

from explorer.compute.matrix_view import Grid, MatrixView
from explorer.compute.source import StateDictSource
from explorer.errors import CheckpointError, ParameterError
from explorer.merging import METHODS, merge_tensor, prepare
from explorer.recipe import Recipe, TaskEntry
from explorer.single_weights import strongest, weight_at
from explorer.store import Store


def recipe_of(tasks: tuple[str, ...], method: str = "task_arithmetic", **changes: object) -> Recipe:
    """A recipe over tasks of a source in memory; its paths are never opened."""
    return Recipe("base", tuple(TaskEntry(t, t) for t in tasks), method, **changes)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 8), st.integers(0, 99), st.integers(1, 30), st.booleans())
def test_the_strongest_are_the_strongest(shape: tuple[int, ...], tasks: int, seed: int, most: int, trims: bool) -> None:
    # Multiples of 1/8 tie often: equal ones must come in reading order.
    deltas = drawn(shape, tasks, seed)
    thresholds = (0.25,) * tasks if trims else None
    found = strongest(MatrixView(source_of(deltas), "w", tuple(range(tasks)), thresholds), most)
    seen = np.where(np.abs(deltas) >= 0.25, deltas, 0) if trims else deltas
    up, down = (np.maximum(s * seen, 0).sum(0).reshape(-1) for s in (1, -1))
    minority = np.minimum(up, down)
    order = np.lexsort((np.arange(minority.size), -minority))[:most]
    order = order[minority[order] > 0]
    assert found.table["flat"].tolist() == order.tolist()
    np.testing.assert_allclose(found.table["minority"].astype(float), minority[order], rtol=1e-6)
    np.testing.assert_allclose(found.table["up"].astype(float), up[order], rtol=1e-6)
    cols = Grid.of(shape).cols
    assert [(r, c) for r, c in zip(found.table["row"], found.table["col"], strict=True)] == [
        divmod(int(f), cols) for f in order
    ]


def test_small_steps_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    view = MatrixView(source_of(drawn((60, 70), 4, 3)), "w", (0, 1, 2, 3))
    whole = strongest(view).table
    monkeypatch.setattr("explorer.tiles._STEP_ELEMENTS", 64)
    assert strongest(view).table.equals(whole)


def test_the_tasks_of_a_side_are_named_strongest_first() -> None:
    deltas = np.array([[1.0], [-3.0], [2.0], [0.0]], dtype=np.float32)
    row = strongest(MatrixView(source_of(deltas), "w", (0, 1, 2, 3))).table.iloc[0]
    assert (row["tasks_up"], row["tasks_down"], row["minority"]) == ("t2, t0", "t1", 3.0)


def test_one_weight_with_trimming_vote_and_place() -> None:
    deltas = np.zeros((3, 4, 5), dtype=np.float32)
    deltas[:, 2, 3] = [0.5, -0.25, -0.125]
    view = MatrixView(source_of(deltas), "w", (0, 1, 2), (0.25,) * 3)
    found = weight_at(view, 2, 3, recipe=recipe_of(("t0", "t1", "t2")))
    assert found.table["delta"].tolist() == [0.5, -0.25, -0.125]
    assert found.table["kept"].tolist() == [1, 1, 0]
    assert found.table["wants"].tolist() == ["up", "down", "no change"]
    assert found.table["vote"].tolist() == ["with", "against", ""]
    at = found.provenance
    assert (at["flat"], at["index"], at["elected"], at["base"]) == (13, [2, 3], "up", 0.0)


@pytest.mark.parametrize(("values", "elected"), [((1, -1), "tie"), ((0, 0), "none"), ((1, -2), "down")])
def test_the_elected_sign(values: tuple[float, ...], elected: str) -> None:
    view = MatrixView(source_of(np.array(values, dtype=np.float32)), "w", (0, 1))
    found = weight_at(view, 0, 0, recipe=recipe_of(("t0", "t1")))
    assert found.provenance["elected"] == elected
    assert found.provenance["index"] == []


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "weight_average", "dare", "tsv_m", "tall_masks", "emr"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_the_merged_value_is_the_merge_bit_for_bit(method: str, dtype: str | None) -> None:
    if method not in METHODS:
        method = next(n for n in METHODS.names() if n.startswith(method.split("_")[0]))
    generator = torch.Generator().manual_seed(4)
    base = {n: torch.randn(s, generator=generator).bfloat16() for n, s in (("a", (37, 23)), ("b", (11,)))}
    tasks = {
        f"t{i}": {n: (v.float() + 0.02 * torch.randn(v.shape, generator=generator)).bfloat16() for n, v in base.items()}
        for i in range(3)
    }
    source, recipe = StateDictSource(base, tasks), recipe_of(tuple(tasks), method, dtype=dtype, seed=7)
    prepared = prepare(METHODS.get(method), source, recipe.values(), seed=7)
    for name, row, col in (("a", 5, 9), ("a", 36, 22), ("b", 1, 2)):
        merged = merge_tensor(prepared, source, name, torch.float16 if dtype else None)
        flat = row * Grid.of(source.shape(name)).cols + col
        several = merged if isinstance(merged, list) else [merged] * 3
        found = weight_at(MatrixView(source, name, (0, 1, 2)), row, col, recipe=recipe, cache=Store())
        assert found.provenance["why_not"] == ""
        assert found.table["merged"].tolist() == [float(m.reshape(-1)[flat]) for m in several]


def test_what_cannot_be_merged_is_said_and_the_rest_is_shown() -> None:
    view = MatrixView(source_of(drawn((3, 3), 2, 1)), "w", (0, 1))
    found = weight_at(view, 1, 1, recipe=recipe_of(("t0", "t1"), "fisher"))
    assert "fisher" in found.provenance["why_not"]
    assert found.table["merged"].isna().all() and len(found.table) == 2


@pytest.mark.parametrize(("row", "col"), [(-1, 0), (3, 0), (0, 4), (2, 3)])
def test_a_place_without_a_weight_is_refused(row: int, col: int) -> None:
    view = MatrixView(source_of(drawn((10,), 2, 0)), "w", (0, 1))  # wrapped into 3 rows of 4, two places empty
    with pytest.raises(ParameterError, match=f"a column below 4, and hold a weight; got row {row}, column {col}"):
        weight_at(view, row, col, recipe=recipe_of(("t0", "t1")))


def test_a_change_that_is_no_number_is_refused() -> None:
    view = MatrixView(source_of(np.array([[np.nan], [1.0]], dtype=np.float32)), "w", (0, 1))
    with pytest.raises(CheckpointError, match="must differ from the base by finite numbers"):
        weight_at(view, 0, 0, recipe=recipe_of(("t0", "t1")))


def test_an_adapters_change_is_taken_as_it_is() -> None:
    class Adapted(StateDictSource):
        def holds_delta(self, index: int, name: str) -> bool:
            return index == 1

        def unchanged(self, index: int, name: str) -> bool:
            return index == 2

    base = {"w": torch.full((2, 2), 4.0)}
    tasks = {"full": {"w": base["w"] + 1}, "adapter": {"w": torch.full((2, 2), -0.5)}, "other": base}
    found = weight_at(MatrixView(Adapted(base, tasks), "w", (0, 1, 2)), 0, 0, recipe=recipe_of(tuple(tasks)))
    assert found.table["delta"].tolist() == [1.0, -0.5, 0.0]
    assert found.table["fine_tuned"].tolist() == [5.0, 3.5, 4.0]


def test_results_survive_saving(tmp_path: Path) -> None:
    view = MatrixView(source_of(drawn((5, 5), 3, 1)), "w", (0, 1, 2))
    for made in (strongest(view), weight_at(view, 1, 1, recipe=recipe_of(("t0", "t1", "t2")))):
        made.save(tmp_path / "result.json")
        assert type(made).load(tmp_path / "result.json").table.shape == made.table.shape
