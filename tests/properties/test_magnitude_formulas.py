"""Metrics of sizes, supports and sums against short independent restatements, at every level, for 1 to 20 tasks."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from test_interference_formulas import SHAPES, check_rows, index, members, models, share

from explorer.compute.source import StateDictSource
from explorer.interference import survey

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])
CASES = settings(max_examples=15, deadline=None)


def source_of(base: dict, deltas: dict, dtype: torch.dtype) -> StateDictSource:
    """Models in that dtype, which holds quarters of this size exactly."""
    shaped = lambda name, values: torch.tensor(values).reshape(SHAPES[name]).to(dtype)  # noqa: E731
    tasks = {f"t{t}": {n: shaped(n, base[n] + deltas[n][t]) for n in base} for t in range(len(deltas["logit_scale"]))}
    return StateDictSource({n: shaped(n, values) for n, values in base.items()}, tasks)


@st.composite
def wide(draw: st.DrawFn) -> tuple[dict, dict]:
    """A zero base and deltas over many octaves, with zeros, ties and, now and then, a task that changed nothing."""
    count, scale = draw(st.integers(1, 20)), draw(st.sampled_from([1e-12, 1e-3, 1.0, 1e4]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    deltas = {}
    for name, shape in SHAPES.items():
        size = (count, int(np.prod(shape, dtype=int)))
        values = (random.standard_normal(size) * 2.0 ** random.integers(-3, 4, size) * scale).astype(np.float32)
        deltas[name] = np.where(
            random.random(size) < draw(st.sampled_from([0, 0.5, 1])), 0, values.astype(np.float32).astype(float)
        )
    return {name: np.zeros(np.prod(shape, dtype=int)) for name, shape in SHAPES.items()}, deltas


@pytest.mark.parametrize("denominator", ["all", "changed"])
@given(model=wide(), dtype=DTYPES, density=st.sampled_from([0.01, 0.2, 0.37, 1.0]))
@settings(max_examples=8, deadline=None)
def test_redundancy(denominator: str, model: tuple, dtype: torch.dtype, density: float) -> None:
    base, deltas = model
    if dtype == torch.bfloat16:
        deltas = {n: torch.tensor(v).bfloat16().double().numpy() for n, v in deltas.items()}
    found = survey(
        source_of(base, deltas, dtype), ["redundancy"], denominator=denominator,
        parameters={"redundancy": {"density": density}},
    )["redundancy"].table  # fmt: skip
    assert set(found[found.level == "tensor"].density) == {density} <= set(found[found.level == "model"].density)
    found = found[found.density.isin([density, 0.002, 0.5])]
    tensors = found[found.level == "tensor"].drop_duplicates("tensor")
    for scope, rows in found.groupby(["level", "layer", "layer_index", "kind", "tensor"], sort=False):
        tau = np.concatenate([deltas[n] for n in members(scope, tensors)], 1)
        for row in rows.itertuples():
            _check_redundancy(row, tau, denominator)


def _check_redundancy(row: pd.Series, tau: np.ndarray, denominator: str) -> None:
    squares = np.sort(tau[index(row.task)] ** 2)[::-1]
    n, changed = squares.size, np.sum(squares > 0)
    counted = n if denominator == "all" else np.sum((tau != 0).any(0))
    kept = min(int(row.density * counted) + 1, counted, changed)
    exact = [share(kept, n), share(kept, changed), share(changed, n)]
    np.testing.assert_allclose([row.effective_density, row.of_changed, row.changed], exact, rtol=1e-12)
    if not changed:
        assert np.isnan([row.kept, row.null, row.bin_error, row.density_90]).all()
        return
    assert abs(row.kept - sqrt(squares[:kept].sum() / squares.sum())) <= row.bin_error + 1e-12
    # the energy of normal entries beyond z is the tail of a chi-squared variable with three degrees of freedom
    assert row.null == pytest.approx(sqrt(chi2.sf(chi2.isf(kept / changed, 1), 3)), abs=1e-9)
    needed = 1 + np.searchsorted(np.cumsum(squares), 0.81 * squares.sum() * (1 - 1e-9))
    assert abs(row.density_90 - needed / n) <= row.density_90_error + 1e-12
    assert row.null_90 == pytest.approx(changed / n * chi2.sf(chi2.isf(0.81, 3), 1), abs=1e-9)


@given(models(max_tasks=20), DTYPES, st.sampled_from([1.0, 0.3]))
@CASES
def test_top_k_overlap(model: tuple, dtype: torch.dtype, trim: float) -> None:
    whole = np.abs(np.concatenate([model[1][n] for n in sorted(model[1])], 1))
    kept = min(int(trim * whole.shape[1]) + 1, whole.shape[1])
    cut = np.sort(whole, 1)[:, -kept][:, None] if trim < 1 else 0

    def restate(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        sets = (np.abs(tau) >= cut) & (tau != 0)
        a, b = sets[index(row.task_a)], sets[index(row.task_b)]
        da, db = share(a.sum(), a.size), share(b.sum(), b.size)
        return [(a & b).sum(), da, db, share((a & b).sum(), (a | b).sum()), share(da * db, da + db - da * db)]

    table = survey(source_of(*model, dtype), ["top_k_overlap"], trim_density=trim)["top_k_overlap"].table
    check_rows(table, *model, restate, ["n_both", "density_a", "density_b", "overlap", "independent"])
    for row in table[table.level == "model"].itertuples():
        sets = [((np.abs(v) >= cut) & (v != 0))[[index(row.task_a), index(row.task_b)]] for v in model[1].values()]
        met = sum(a.sum() * b.mean() for a, b in sets if a.size)
        null = share(met, sum(s.sum() for s in sets) - met)
        np.testing.assert_allclose(row.null, null, rtol=1e-12)
        np.testing.assert_allclose(row.lift, share(row.overlap, null), rtol=1e-12)


@given(models(max_tasks=20), DTYPES)
@CASES
def test_sum_energy(model: tuple, dtype: torch.dtype) -> None:
    def restate(_: pd.Series, __: np.ndarray, tau: np.ndarray) -> list[float]:
        together, squared = tau.sum(0), np.sum(tau**2)
        # Σ_{a<b} a² b² is half of (Σ a²)² − Σ a⁴, weight by weight
        crossed = (np.sum(tau**2, 0) ** 2 - np.sum(tau**4, 0)).sum() / 2
        return [share(together @ together, squared), share(squared, squared), share(2 * sqrt(crossed), squared),
                np.linalg.norm(together)]  # fmt: skip

    table = survey(source_of(*model, dtype), ["sum_energy"])["sum_energy"].table
    check_rows(table, *model, restate, ["energy", "null", "null_sd", "norm_sum"])


@given(models(max_tasks=20), DTYPES)
@CASES
def test_conflict_map(model: tuple, dtype: torch.dtype) -> None:

    def restate(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        a, b = np.abs(tau[index(row.task_a)]), np.abs(tau[index(row.task_b)])
        return [share(a @ b, np.linalg.norm(a) * np.linalg.norm(b)), a @ b]

    table = survey(source_of(*model, dtype), ["conflict_map"])["conflict_map"].table
    check_rows(table, *model, restate, ["conflict", "mass"])
    for row in table[table.level == "model"].itertuples():
        sizes = [np.abs(v[[index(row.task_a), index(row.task_b)]]) for v in model[1].values() if v.size]
        expected = sum(a.sum() * b.mean() for a, b in sizes)
        norms = sqrt(sum((a**2).sum() for a, _ in sizes)) * sqrt(sum((b**2).sum() for _, b in sizes))
        np.testing.assert_allclose(row.null, share(expected, norms), rtol=1e-12)
        np.testing.assert_allclose(row.lift, share(row.conflict, row.null) if row.null > 0 else np.nan, rtol=1e-12)


@given(models(max_tasks=20))
@CASES
def test_roles_of_weights_by_the_number_of_masks(model: tuple) -> None:
    tasks = len(model[1]["logit_scale"])
    table = survey(source_of(*model, torch.float32), ["mask_agreement"])["mask_agreement"].table
    word = {0: "catastrophic", 1: "selfish"} | ({tasks: "universal"} if tasks > 1 else {})
    assert table.role.tolist() == [word.get(k, "shared") for k in table.k]
    sums = table.groupby(["level", "layer", "kind", "tensor", "threshold"]).share.sum(min_count=1).dropna()
    np.testing.assert_allclose(sums, 1, rtol=1e-12)


@given(wide())
@settings(max_examples=8, deadline=None)
def test_split_equals_whole_except_where_places_are_permuted_within_a_chunk(model: tuple) -> None:
    names = ["redundancy", "top_k_overlap", "sum_energy", "conflict_map"]
    whole = survey(source_of(*model, torch.float32), names)
    split = survey(source_of(*model, torch.float32), names, chunk_elements=3)
    for name, result in whole.items():
        hide = ["null", "lift"] if name in ("conflict_map", "top_k_overlap") else []
        pd.testing.assert_frame_equal(result.table.drop(columns=hide), split[name].table.drop(columns=hide), rtol=1e-12)
