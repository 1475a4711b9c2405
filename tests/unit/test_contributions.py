"""Contributions: a numpy restatement, levels, what plain sums must give, edges, and all ways to the same sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from workbench_zoo import make_bench, make_models, recipe_of

from explorer.checkpoints.groups import group_of
from explorer.compute import readiness
from explorer.compute.arena import Arena
from explorer.compute.source import StateDictSource
from explorer.contributions import contributions
from explorer.errors import Cancelled
from explorer.executor import CancelToken, ThreadExecutor
from explorer.merging import (
    CONTRIBUTIONS,
    METHODS,
    contribution_sums,
    contribution_table,
    merge_tensor,
    prepare,
    reference_sums,
)
from explorer.results import Result

NAMES = ("ant", "mole", "zebra")
SHAPES = {"embed.weight": (11, 6), "layers.0.mlp.up_proj.weight": (70, 40), "layers.1.mlp.up_proj.weight": (9,)}
SHAPES |= {"empty": (0, 2), "layers.1.self_attn.q_proj.weight": (40, 30)}


def models(dtype: torch.dtype = torch.bfloat16) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A base and three fine-tunes of unequal sizes; nobody changes the embedding."""
    generator = torch.Generator().manual_seed(6)
    base = {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    tasks = {}
    for size, name in enumerate(NAMES, 1):
        moved = {n: t.float() + 0.1 * size * torch.randn(t.shape, generator=generator) for n, t in base.items()}
        tasks[name] = {n: base[n].clone() if n.startswith("embed") else t.to(dtype) for n, t in moved.items()}
    return base, tasks


def measured(method: str = "task_arithmetic", dtype: torch.dtype | None = None, **values: Any) -> Result:
    return table_of(StateDictSource(*models()), method, dtype, **values)


def table_of(source: Any, method: str, dtype: torch.dtype | None = None, **values: Any) -> Result:
    rows = rows_of(source, method, dtype, **values)
    told = {"output": METHODS.get(method).output}
    return contribution_table(source, contribution_sums(source, rows), reference_sums(source), told)


def rows_of(source: Any, method: str, dtype: torch.dtype | None = None, **values: Any) -> list[dict[str, Tensor]]:
    """Merged tensors as stored: one mapping, or one per task."""
    made = {n: merge_tensor(prepare(method, source, values), source, n, dtype) for n in source.names}
    if METHODS.get(method).output == "single":
        return [made]  # type: ignore[list-item]
    return [{n: t[i] for n, t in made.items()} for i in range(len(source.tasks))]


def restated(
    base: dict[str, Tensor], tasks: dict[str, Any], row: dict[str, Tensor], names: list[str]
) -> dict[str, np.ndarray]:
    """The formulas on whole float64 vectors; the mixture by least squares on the vectors themselves."""

    def flat(state: dict[str, Tensor], dtype: torch.dtype | None = None) -> np.ndarray:
        return np.concatenate([state[n].to(dtype or state[n].dtype).double().numpy().ravel() for n in names])

    m = flat(row) - flat(base, row[names[0]].dtype)
    taus = np.stack([flat(t) - flat(base) for t in tasks.values()])
    norms = np.linalg.norm(taus, axis=1)
    factors = np.linalg.lstsq(taus.T, m, rcond=None)[0]
    mean = taus.mean(0)
    return {
        "coefficient": factors,
        "share": factors * (taus @ m) / (m @ m),
        "share_average": taus @ mean / len(taus) / (mean @ mean),
        "dropped": (taus**2 * (m == 0)).sum(1) / norms**2,
        "outvoted": (taus**2 * (taus * m < 0)).sum(1) / norms**2,
        "outvoted_average": (taus**2 * (taus * mean < 0)).sum(1) / norms**2,
        "cosine": taus @ m / norms / np.linalg.norm(m),
        "departure": np.linalg.norm(m - taus, axis=1) / norms,
        "departure_average": np.linalg.norm(mean - taus, axis=1) / norms,
        "update_norm": np.full(len(taus), np.linalg.norm(m)),
        "norm": norms,
    }


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare", "slerp", "consensus"])
@pytest.mark.parametrize("dtype", [torch.float16, None], ids=str)
def test_the_formulas_at_every_level(method: str, dtype: torch.dtype | None) -> None:
    base, tasks = models()
    tasks = dict(list(tasks.items())[: METHODS.get(method).max_tasks or 3])
    source = StateDictSource(base, tasks)
    found = table_of(source, method, dtype)
    (row,) = rows_of(source, method, dtype)
    scopes = {("model", ""): list(SHAPES), ("layer", "layer 1"): [n for n in SHAPES if "layers.1" in n]}
    scopes["kind", "mlp in"] = [n for n in SHAPES if group_of(n).kind == "mlp in"]
    for (level, name), names in scopes.items():
        own = found.at(level, **({} if level == "model" else {level: name}))
        expected = restated(base, tasks, row, names)
        for column, values in expected.items():
            np.testing.assert_allclose(own[column], values, rtol=2e-6, atol=1e-7, err_msg=f"{level} {column}")
        np.testing.assert_allclose(own["kept"], 1 - own["dropped"] - own["outvoted"], atol=1e-12)
        np.testing.assert_allclose(own["explained"], own["share"].sum(), rtol=1e-12)
        assert (own["n"] == sum(base[n].numel() for n in names)).all()


def test_a_plain_sum_is_taken_apart_exactly_and_a_muted_task_has_no_share() -> None:
    base, tasks = models(torch.float32)
    found = table_of(StateDictSource(base, tasks), "task_arithmetic", scale={"ant": 0.5, "mole": 0.0, "zebra": -0.2})
    own = found.at("model")
    np.testing.assert_allclose(own["coefficient"], [0.5, 0, -0.2], atol=1e-6)
    np.testing.assert_allclose(own["explained"], 1, atol=1e-6)
    assert abs(own["share"][1]) < 1e-6 and own["cosine"][2] < 0 < own["share"][2]
    average = table_of(StateDictSource(base, tasks), "weight_average").at("model")
    for name in ("share", "dropped", "outvoted", "cosine", "departure"):
        np.testing.assert_allclose(average[name], average[f"{name}_average"], rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_a_trim_leaves_out_is_dropped_and_what_loses_the_vote_is_outvoted() -> None:
    base = {"w": torch.zeros(4)}
    tasks = {"a": {"w": torch.tensor([3.0, 1.0, 0.0, 1.0])}, "b": {"w": torch.tensor([0.0, 0.0, 2.0, -2.0])}}
    source = StateDictSource(base, tasks)
    merged = {"w": torch.tensor([3.0, 0.0, 2.0, -1.0])}
    own = contribution_table(source, contribution_sums(source, [merged]), reference_sums(source), {}).at("model")
    np.testing.assert_allclose(own["dropped"], [1 / 11, 0])
    np.testing.assert_allclose(own["outvoted"], [1 / 11, 0])
    np.testing.assert_allclose(own["outvoted_average"], [1 / 11, 0])


def test_one_model_per_task_is_compared_with_its_own_task() -> None:
    base, tasks = models()
    source = StateDictSource(base, tasks)
    own = table_of(source, "tall_masks").at("model")
    for index, row in enumerate(rows_of(source, "tall_masks")):
        expected = restated(base, tasks, row, list(SHAPES))
        for column in ("dropped", "outvoted", "cosine", "departure", "update_norm"):
            assert own[column][index] == pytest.approx(expected[column][index], rel=1e-6), column
    np.testing.assert_allclose(own["share"], own["cosine"] ** 2)
    np.testing.assert_allclose(own["share_average"], own["cosine_average"] ** 2)
    assert (own["explained"] == own["share"]).all()


def test_zeros_have_no_share_and_equal_tasks_share_alike() -> None:
    base, tasks = models()
    twins = {"one": tasks["ant"], "same": tasks["ant"], "nothing": base}
    own = table_of(StateDictSource(base, twins), "task_arithmetic").at("model")
    assert own["share"][0] == pytest.approx(own["share"][1]) and own["share"][0] == pytest.approx(0.5, abs=0.01)
    assert own.loc[2, ["share", "dropped", "outvoted", "kept", "cosine", "departure"]].isna().all()
    still = table_of(StateDictSource(base, tasks), "task_arithmetic", scale=0).at("model")
    assert (still["dropped"] == 1).all() and (still["departure"] == 1).all() and (still["update_norm"] == 0).all()
    assert still[["share", "cosine", "explained"]].isna().all(axis=None)
    alone = table_of(StateDictSource(base, {"ant": tasks["ant"]}), "task_arithmetic", scale=1).at("model").iloc[0]
    assert (alone["share"], alone["departure"], alone["kept"]) == pytest.approx((1, 0, 1), abs=1e-7)
    untouched = measured().at("layer", layer="embeddings")
    assert len(untouched) == 3 and untouched["share"].isna().all() and (untouched["norm"] == 0).all()


@pytest.mark.parametrize("base_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["ties", "tall_masks"])
def test_loops_torch_and_threads_give_the_same_numbers(
    method: str, base_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = StateDictSource(*models(base_dtype))
    arena = Arena(source)
    rows = rows_of(source, method, torch.bfloat16)
    sums, average = contribution_sums(arena, rows), reference_sums(arena)
    again = contribution_sums(arena, rows, executor=ThreadExecutor(3))
    assert np.array_equal(sums.found, again.found) and np.array_equal(sums.squares, again.squares)
    assert np.array_equal(average.gram, reference_sums(arena, executor=ThreadExecutor(3)).gram)
    monkeypatch.setattr(readiness, "ready", lambda weights=0: False)
    plain, other = contribution_sums(source, rows), reference_sums(source)
    for one, two in ((sums.found, plain.found), (sums.squares, plain.squares), (average.gram, other.gram)):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(average.lost, other.lost, rtol=1e-9)
    assert np.array_equal(average.gram, average.gram.transpose(0, 2, 1))


def test_rounding_the_base_alone_is_no_update() -> None:
    base, tasks = models(torch.float32)
    source = StateDictSource(base, tasks)
    own = table_of(source, "task_arithmetic", torch.bfloat16, scale=0).at("model")
    assert (own["update_norm"] == 0).all()


# ---------------------------------------------------------------- for the page


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


def test_the_page_gets_it_right_after_the_merge_and_once(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path)
    slot, recipe = bench.slot("tab"), recipe_of(zoo, method="ties")
    found = contributions(bench, slot, recipe, slot.newest())
    assert slot.live is not None and slot.live.key == slot.live.key_of(recipe) and found.merge_seconds > 0
    assert found.table.columns == CONTRIBUTIONS and found.table.kind == "contributions"
    assert "coefficient" in found.table.provenance["controls"] and "density" in found.table.provenance["controls"]
    again = contributions(bench, slot, recipe, slot.newest())
    assert again.table is found.table and again.merge_seconds == 0
    other = contributions(bench, slot, recipe_of(zoo, method="tall_masks"), slot.newest())
    assert other.table.provenance["output"] == "per_task" and not other.table.table.equals(found.table.table)
    expected = table_of(slot.live.arena, "ties")
    for name in ("share", "dropped", "departure"):
        np.testing.assert_allclose(found.table.at("layer")[name], expected.at("layer")[name])
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        contributions(bench, slot, recipe, token)
