"""Every metric against a short independent restatement in numpy, at every level, on generated tensors."""

from __future__ import annotations

import json
from itertools import combinations, product
from math import nan, sqrt

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.compute.source import StateDictSource
from explorer.interference import survey

SHAPES = {
    "embeddings.word_embeddings.weight": (3, 4),
    "encoder.layer.0.attention.self.query.weight": (4, 5),
    "encoder.layer.0.attention.self.key.weight": (7,),
    "encoder.layer.1.attention.self.query.weight": (2, 3),
    "encoder.layer.1.output.dense.bias": (0,),
    "logit_scale": (),
}
GRID = np.arange(1, 41) / 20


@st.composite
def models(draw: st.DrawFn, max_tasks: int = 6) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Base [n] and deltas [T, n] per tensor: quarters, so that float32 holds every difference and sum exactly."""
    count = draw(st.integers(1, max_tasks))
    entries = draw(st.sampled_from([[0], [0, 0, 0, 1, -1, 2], [-3, -2, -1, 1, 2, 3], [0, 1], [-4, -1, 0, 0, 1, 2, 5]]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base, deltas = {}, {}
    for name, shape in SHAPES.items():
        size = int(np.prod(shape, dtype=int))
        base[name] = random.integers(-9, 9, size) / 4
        deltas[name] = random.choice(entries, (count, size)) / 4
    return base, deltas


def source_of(base: dict[str, np.ndarray], deltas: dict[str, np.ndarray]) -> StateDictSource:
    count = len(next(iter(deltas.values())))
    tensors = {n: torch.tensor(v, dtype=torch.float32).reshape(SHAPES[n]) for n, v in base.items()}
    tasks = {
        f"t{t}": {n: torch.tensor(base[n] + deltas[n][t], dtype=torch.float32).reshape(SHAPES[n]) for n in base}
        for t in range(count)
    }
    return StateDictSource(tensors, tasks)


def members(scope: tuple, tensors: pd.DataFrame) -> list[str]:
    """Tensors that a scope says it sums over, read from the tensor rows' own scope columns."""
    level, layer, _, kind, tensor = scope
    if level in ("layer", "cell"):
        tensors = tensors[tensors.layer == layer]
    if level in ("kind", "cell"):
        tensors = tensors[tensors["kind"] == kind]
    return [tensor] if level == "tensor" else sorted(tensors.tensor)


def share(part: float, whole: float) -> float:
    return part / whole if whole else nan


def check_rows(table: pd.DataFrame, base: dict, deltas: dict, restate: object, columns: list[str]) -> None:
    """Each row equals `restate(row, base of the scope, deltas of the scope)` on the concatenated tensors."""
    tensors = table[table.level == "tensor"].drop_duplicates("tensor")
    for scope, rows in table.groupby(["level", "layer", "layer_index", "kind", "tensor"], sort=False):
        names = members(scope, tensors)
        theta, tau = np.concatenate([base[n] for n in names]), np.concatenate([deltas[n] for n in names], 1)
        expected = np.array([restate(row, theta, tau) for row in rows.itertuples()], dtype=float)
        np.testing.assert_allclose(rows[columns].to_numpy(float), expected, rtol=1e-12, atol=1e-12, err_msg=str(scope))


def index(task: str) -> int:
    return int(task[1:])


@given(models())
@settings(max_examples=25, deadline=None)
def test_sign_conflict(model: tuple) -> None:
    def restate(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        a, b = tau[index(row.task_a)], tau[index(row.task_b)]
        both, union = np.sum((a != 0) & (b != 0)), np.sum((a != 0) | (b != 0))
        crossed = np.sum(a > 0) * np.sum(b < 0) + np.sum(a < 0) * np.sum(b > 0)
        single = np.sum((a != 0) ^ (b != 0))
        null = share(crossed, np.sum(a != 0) * np.sum(b != 0))
        return [both, share(np.sum(a * b < 0), both), null, share(both, union), share(single, union)]

    table = survey(source_of(*model), ["sign_conflict"])["sign_conflict"].table
    check_rows(table, *model, restate, ["n_both", "conflict", "null", "overlap", "one_sided"])


@given(models())
@settings(max_examples=25, deadline=None)
def test_minority_mass(model: tuple) -> None:
    def restate(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        elected = np.where(tau.sum(0) >= 0, 1, -1)
        mass, changed = np.abs(tau).sum(), (tau != 0).sum(0)
        minority = np.abs(tau)[np.sign(tau) == -elected].sum()
        mixed = np.sum((tau > 0).any(0) & (tau < 0).any(0))
        plus = [np.mean(t[t != 0] > 0) for t in tau if t.any()]
        expected = 0.0
        for m in changed[changed > 1]:
            expected += np.mean([1 - np.prod(p) - np.prod(1 - np.array(p)) for p in combinations(plus, m)])
        twice = np.sum(changed > 1)
        cancelled = share(mass - np.abs(tau.sum(0)).sum(), mass)
        any_ = [share(mixed, twice), share(expected, twice)]
        return [share(minority, mass), *any_, cancelled, twice, tau.shape[1]]

    table = survey(source_of(*model), ["minority_mass"])["minority_mass"].table
    columns = ["minority_mass", "any_conflict", "any_null", "cancellation", "n_positions", "n"]
    check_rows(table, *model, restate, columns)


@given(models())
@settings(max_examples=25, deadline=None)
def test_sign_agreement(model: tuple) -> None:
    def fair(m: int) -> float:
        return float(np.mean([abs(sum(coins)) / m for coins in product((-1, 1), repeat=m)]))

    def restate(_: pd.Series, __: np.ndarray, tau: np.ndarray) -> list[float]:
        signs = np.sign(tau)[:, (tau != 0).sum(0) > 1]
        margin, voters = np.abs(signs.sum(0)), np.abs(signs).sum(0)
        n = signs.shape[1]
        shares = [share(sum(v), n) for v in (margin / voters, [fair(int(m)) for m in voters], margin == voters)]
        return [*shares, n, tau.shape[1]]

    table = survey(source_of(*model), ["sign_agreement"])["sign_agreement"].table
    check_rows(table, *model, restate, ["agreement", "null", "unanimous", "n_positions", "n"])


@given(models())
@settings(max_examples=25, deadline=None)
def test_cosine(model: tuple) -> None:
    def restate(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        a, b = tau[index(row.task_a)], tau[index(row.task_b)]
        size = np.linalg.norm(a) * np.linalg.norm(b)
        spread = sqrt(np.sum(a**2 * b**2))
        return [share(a @ b, size), a @ b, np.linalg.norm(a), np.linalg.norm(b), 0, share(spread, size)]

    table = survey(source_of(*model), ["cosine"])["cosine"].table
    check_rows(table, *model, restate, ["cosine", "dot", "norm_a", "norm_b", "null", "null_sd"])


@given(models())
@settings(max_examples=25, deadline=None)
def test_norm_profile(model: tuple) -> None:
    whole = np.concatenate(list(model[1].values()), 1)

    def restate(row: pd.Series, theta: np.ndarray, tau: np.ndarray) -> list[float]:
        mine, everywhere = tau[index(row.task)], whole[index(row.task)]
        norm, changed = np.linalg.norm(mine), np.sum(mine != 0)
        spread = [share(mine @ mine, everywhere @ everywhere), share(changed, np.sum(everywhere != 0))]
        return [norm, share(norm, np.linalg.norm(theta)), mine.size, changed, share(changed, mine.size), *spread]

    table = survey(source_of(*model), ["norm_profile"])["norm_profile"].table
    columns = ["norm", "relative_norm", "n", "n_changed", "changed", "share", "null"]
    check_rows(table, *model, restate, columns)


def masks(tau: np.ndarray, threshold: float) -> np.ndarray:
    """TALL masks in float32, as the definition says."""
    small = tau.astype(np.float32)
    together = small.sum(0, dtype=np.float64).astype(np.float32)
    return np.abs(small) > np.float32(threshold) * np.abs(together - small)


@pytest.mark.parametrize("denominator", ["all", "changed"])
@given(model=models())
@settings(max_examples=8, deadline=None)
def test_masks(denominator: str, model: tuple) -> None:
    def counted(tau: np.ndarray) -> np.ndarray:
        return tau if denominator == "all" else tau[:, (tau != 0).any(0)]

    def overlap(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        m = masks(counted(tau), row.threshold)
        a, b, n = m[index(row.task_a)], m[index(row.task_b)], m.shape[1]
        da, db = share(a.sum(), n), share(b.sum(), n)
        return [da, db, share((a & b).sum(), (a | b).sum()), share(da * db, da + db - da * db)]

    def agreement(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        m = masks(counted(tau), row.threshold)
        return [share(np.sum(m.sum(0) == row.k), m.shape[1])]

    found = survey(source_of(*model), ["mask_overlap", "mask_agreement"], denominator=denominator)
    some = lambda r: r.table[r.table.threshold.isin(GRID[[0, 7, 19, 39]])]  # noqa: E731
    tasks = len(next(iter(model[1].values())))
    assert len(found["mask_agreement"].at("model")) == 40 * (tasks + 1)
    check_rows(some(found["mask_overlap"]), *model, overlap, ["density_a", "density_b", "iou", "independent"])
    check_rows(some(found["mask_agreement"]), *model, agreement, ["share"])


@pytest.mark.parametrize("denominator", ["all", "changed"])
@given(model=models(), choice=st.integers(0, 63))
@settings(max_examples=8, deadline=None)
def test_mask_patterns(denominator: str, model: tuple, choice: int) -> None:
    count = len(next(iter(model[1].values())))
    names = [f"t{t}" for t in range(count)]
    chosen = [t for t in range(count) if choice >> t & 1]

    def restate(row: pd.Series, _: np.ndarray, tau: np.ndarray) -> list[float]:
        counted = tau if denominator == "all" else tau[:, (tau != 0).any(0)]
        inside = np.array([names[t] in json.loads(row.pattern) for t in chosen])
        m = masks(counted, row.threshold)[chosen]
        density = m.mean(1) if m.shape[1] else np.full(len(chosen), nan)
        exact = np.sum((m == inside[:, None]).all(0))
        return [inside.sum(), share(exact, m.shape[1]), np.prod(np.where(inside, density, 1 - density))]

    asked = {"mask_patterns": {"chosen": {name: int(t in chosen) for t, name in enumerate(names)}}}
    source = source_of(*model)
    table = survey(source, ["mask_patterns"], parameters=asked, denominator=denominator)["mask_patterns"].table
    assert len(table[table.level == "model"]) == 40 << len(chosen)
    some = table[table.threshold.isin(GRID[[0, 7, 19, 39]])]
    check_rows(some, *model, restate, ["k", "share", "independent"])


@given(models())
@settings(max_examples=15, deadline=None)
def test_chunks_of_any_size_give_the_same_numbers_except_seeded_nulls(model: tuple) -> None:
    whole = survey(source_of(*model))
    split = survey(source_of(*model), chunk_elements=3)
    seeded = {
        "minority_mass": ["null"],
        "mask_overlap": ["null", "lift"],
        "mask_agreement": ["null"],
        "mask_patterns": ["null"],
    }
    seeded |= {"conflict_map": ["null", "lift"], "top_k_overlap": ["null", "lift"]}
    for name, result in whole.items():
        hide = seeded.get(name, [])
        pd.testing.assert_frame_equal(result.table.drop(columns=hide), split[name].table.drop(columns=hide), rtol=1e-13)


@given(models())
@settings(max_examples=15, deadline=None)
def test_trimming_keeps_the_largest_entries_of_each_task_and_ties(model: tuple) -> None:
    base, deltas = model
    found = survey(source_of(base, deltas), ["minority_mass"], trim_density=0.25)["minority_mass"]
    whole = np.concatenate([deltas[n] for n in sorted(deltas)], 1)
    kept = whole.shape[1] // 4 + 1
    cut = np.sort(np.abs(whole), 1)[:, -kept][:, None]
    trimmed = np.where(np.abs(whole) >= cut, whole, 0)
    row = found.at("model").iloc[0]
    assert list(found.provenance["trim_thresholds"].values()) == cut[:, 0].tolist()
    assert row.n_positions == np.sum((trimmed != 0).sum(0) > 1) and row.n == whole.shape[1]
    mass = np.abs(trimmed).sum()
    expected = share(mass - np.abs(trimmed.sum(0)).sum(), mass)
    np.testing.assert_allclose(row.cancellation, expected, rtol=1e-12, atol=1e-12)
