"""Known answers of the interference metrics: duplicates, flips, disjoint supports, Gaussian nulls, exact levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.interference import survey
from explorer.interference._levels import THRESHOLDS, mask_levels
from explorer.interference._sums import gram, row_sums
from explorer.results import Result


def survey_of(*vectors: Tensor, metrics: list[str] | None = None, **options: object) -> dict[str, Result]:
    """Metrics of task vectors over a zero base, so that the differences are exact."""
    tasks = {f"t{i}": {"w": v} for i, v in enumerate(vectors)}
    return survey(StateDictSource({"w": torch.zeros_like(vectors[0])}, tasks), metrics, **options)  # type: ignore[arg-type]


def gaussian(count: int, n: int = 200_000, seed: int = 0) -> list[Tensor]:
    """Independent normal vectors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator) for _ in range(count)]


def model(result: Result, **where: object) -> dict:
    """The only model row with these values."""
    rows = result.at("model", **where)
    assert len(rows) == 1
    return rows.iloc[0].to_dict()


def test_two_equal_tasks_share_everything() -> None:
    (tau,) = gaussian(1, 1000)
    found = survey_of(tau, tau)
    assert model(found["sign_conflict"])["conflict"] == 0
    assert model(found["cosine"])["cosine"] == pytest.approx(1, abs=1e-15)
    assert model(found["minority_mass"])["minority_mass"] == 0
    for _, row in found["mask_overlap"].at("model").iterrows():
        full = row.threshold < 1
        assert row.density_a == row.density_b == (1 if full else 0)
        assert row.iou == 1 if full else np.isnan(row.iou)
    agreement = found["mask_agreement"].at("model")
    assert (agreement[agreement.threshold < 1].set_index(["k"]).share.loc[2] == 1).all()
    assert (agreement[agreement.threshold >= 1].set_index(["k"]).share.loc[0] == 1).all()


def test_two_opposite_tasks_undo_each_other() -> None:
    (tau,) = gaussian(1, 1000)
    found = survey_of(tau, -tau)
    assert model(found["sign_conflict"])["conflict"] == 1
    assert model(found["cosine"])["cosine"] == pytest.approx(-1, abs=1e-15)
    row = model(found["minority_mass"])
    assert row["minority_mass"] == 0.5 and row["cancellation"] == 1 and row["any_conflict"] == 1
    assert row["null"] == pytest.approx(0.25, abs=0.05)  # a fair coin per weight decides whether all of it cancels


def test_disjoint_tasks_do_not_interfere() -> None:
    first, second = torch.tensor([1.0, -2, 0, 0, 0]), torch.tensor([0.0, 0, 3, 4, 0])
    found = survey_of(first, second)
    row = model(found["sign_conflict"])
    assert row["n_both"] == 0 and np.isnan(row["conflict"]) and row["overlap"] == 0 and row["one_sided"] == 1
    assert model(found["minority_mass"])["minority_mass"] == 0
    assert np.isnan(model(found["minority_mass"])["any_conflict"])
    for threshold in THRESHOLDS:
        assert model(found["mask_overlap"], threshold=threshold)["iou"] == 0
        shares = found["mask_agreement"].at("model", threshold=threshold).share.tolist()
        assert shares == pytest.approx([0.2, 0.8, 0])
    changed = survey_of(first, second, metrics=["mask_agreement"], denominator="changed")["mask_agreement"]
    assert changed.at("model", threshold=THRESHOLDS[7]).share.tolist() == [0, 1, 0]


def test_one_task_gives_no_pairs_and_its_support_as_mask() -> None:
    found = survey_of(torch.tensor([1.0, 0, -1e-8, 5]))
    assert not len(found["sign_conflict"].table) and not len(found["cosine"].table)
    assert not len(found["mask_overlap"].table)
    assert model(found["minority_mass"])["minority_mass"] == model(found["minority_mass"])["null"] == 0
    assert (found["mask_agreement"].at("model", k=1).share == 0.75).all()


def test_zero_task_vectors_are_not_defined_rather_than_wrong() -> None:
    found = survey_of(torch.zeros(5), torch.zeros(5))
    assert np.isnan(model(found["cosine"])["cosine"]) and np.isnan(model(found["minority_mass"])["minority_mass"])
    profile = found["norm_profile"].at("model").iloc[0]
    assert profile.norm == 0 and profile.changed == 0 and np.isnan(profile.share) and np.isnan(profile.relative_norm)
    assert model(found["minority_mass"])["n"] == 5
    assert (found["mask_agreement"].at("model", k=0).share == 1).all()


@pytest.mark.parametrize(("count", "published"), [(2, 0.146), (4, 0.249), (8, 0.322)])
def test_gaussian_tasks_show_the_known_chance_levels(count: int, published: float) -> None:
    expected = (1 - count**-0.5) / 2  # E|Σ τ| = √T E|τ|; the published figures are simulated
    assert expected == pytest.approx(published, abs=1.5e-3)
    row = model(survey_of(*gaussian(count), metrics=["minority_mass"])["minority_mass"])
    assert row["minority_mass"] == pytest.approx(expected, abs=1.5e-3)
    assert row["null"] == pytest.approx(expected, abs=1.5e-3)
    assert row["null"] != row["minority_mass"]
    assert row["any_conflict"] == pytest.approx(1 - 2 ** (1 - count), abs=3e-3)
    assert row["any_null"] == pytest.approx(1 - 2 ** (1 - count), abs=1e-4)


def test_random_signs_are_fair_independent_and_differ_between_tasks() -> None:
    ones = torch.ones(200_000)
    null = model(survey_of(ones, ones, ones, metrics=["minority_mass"])["minority_mass"])["null"]
    # three fair signs: the minority is one of three with chance 3/4
    assert null == pytest.approx(0.25, abs=2e-3)


def test_gaussian_masks_show_the_known_chance_densities() -> None:
    found = survey_of(*gaussian(4), metrics=["mask_overlap", "mask_agreement"])
    pair = {"task_a": "t0", "task_b": "t1"}
    for threshold in (0.2, 0.6, 1.0):
        # |τ_t| / |sum of three others| is Cauchy with scale 1/√3: 0.788, 0.488, 0.333
        density = 1 - 2 / np.pi * np.arctan(threshold * np.sqrt(3))
        row = model(found["mask_overlap"], threshold=threshold, **pair)
        assert row["density_a"] == pytest.approx(density, abs=5e-3)
        assert row["null"] == pytest.approx(row["iou"], abs=6e-3) and row["lift"] == pytest.approx(1, abs=0.02)
    universal = model(found["mask_agreement"], threshold=0.2, k=4)
    # An independent simulation of four million positions gives 0.4085.
    assert universal["share"] == pytest.approx(0.4085, abs=6e-3)
    assert universal["null"] == pytest.approx(universal["share"], abs=6e-3)


def test_shared_weights_lift_the_overlap_above_its_null() -> None:
    where = torch.rand(100_000, generator=torch.Generator().manual_seed(5)) < 0.1
    first, second = (v * where for v in gaussian(2, 100_000))
    row = model(survey_of(first, second, metrics=["mask_overlap"])["mask_overlap"], threshold=0.4)
    assert row["lift"] > 3 and row["null"] < 0.2


def test_trimming_lowers_chance_conflict_of_agreeing_tasks() -> None:
    shared, *noise = gaussian(3, 50_000)
    vectors = [shared * (shared.abs() > 1.5) * 5 + n for n in noise]
    full = model(survey_of(*vectors, metrics=["sign_conflict"])["sign_conflict"])
    trimmed = model(survey_of(*vectors, metrics=["sign_conflict"], trim_density=0.1)["sign_conflict"])
    assert trimmed["conflict"] < 0.05 < 0.3 < full["conflict"]
    assert full["null"] == pytest.approx(0.5, abs=0.01)


def test_density_of_changed_weights_keeps_fewer_than_density_of_all() -> None:
    tau = torch.zeros(1000)
    tau[:100] = torch.arange(1.0, 101)
    kept = {}
    for denominator in ("all", "changed"):
        found = survey_of(tau, tau, metrics=["sign_conflict"], trim_density=0.05, denominator=denominator)
        kept[denominator] = model(found["sign_conflict"])["n_both"]
    assert kept == {"all": 51, "changed": 6}  # int(density x counted) + 1


def test_unrelated_cosines_lie_within_their_null_deviation() -> None:
    pairs = survey_of(*gaussian(6, 20_000), metrics=["cosine"])["cosine"].at("model")
    assert np.std(pairs.cosine / pairs.null_sd) == pytest.approx(1, abs=0.6)
    assert pairs.null_sd.iloc[0] == pytest.approx(1 / np.sqrt(20_000), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "half", "wide", "integers"])
def test_levels_equal_the_comparison_at_every_threshold(kind: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    deltas = torch.randn(5, 4000, generator=generator, dtype=dtype)
    if kind == "half":
        deltas = (deltas * 1e-4).half().to(dtype)
    if kind == "wide":
        deltas = deltas * 10.0 ** torch.randint(-12, 12, deltas.shape, generator=generator)
    if kind == "integers":
        deltas = torch.randint(-4, 5, deltas.shape, generator=generator).to(dtype)
    deltas = deltas.to(dtype)
    together = deltas.double().sum(0).to(dtype) if dtype == torch.float32 else sum(deltas)
    expected = sum((deltas.abs() > float(t) * (together - deltas).abs()).to(torch.uint8) for t in THRESHOLDS)
    assert torch.equal(mask_levels(deltas), expected)


def test_sums_are_exact_symmetric_and_do_not_depend_on_threads() -> None:
    rows = torch.randn(3, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(gram(rows).numpy(), (rows @ rows.T).numpy(), rtol=1e-12, atol=1e-12)
    assert torch.equal(gram(rows), gram(rows).T)
    long, before = torch.randn(1, 1 << 18, generator=torch.Generator().manual_seed(2)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = row_sums(long)
        torch.set_num_threads(2)
        assert torch.equal(one, row_sums(long))
    finally:
        torch.set_num_threads(before)
    assert row_sums(torch.zeros(2, 0)).tolist() == [0, 0]
