"""Chance levels of the metrics of sizes and supports, by simulation; known answers; agreement with exact passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_interference_metrics import gaussian, model, survey_of

from explorer.compute.source import StateDictSource
from explorer.interference import collect, survey
from explorer.interference._magnitudes import BINS, EDGES, gaussian_part_for, histogram
from explorer.interference.norm_at_density import norm_at_density


def source_of(*vectors: torch.Tensor) -> StateDictSource:
    tasks = {f"t{i}": {"w": v} for i, v in enumerate(vectors)}
    return StateDictSource({"w": torch.zeros_like(vectors[0])}, tasks)


def test_a_normal_vector_keeps_what_the_null_says() -> None:
    (dense,) = gaussian(1)
    sparse = dense * (torch.rand(dense.shape, generator=torch.Generator().manual_seed(4)) < 0.3)
    table = survey_of(dense, sparse, metrics=["redundancy"])["redundancy"].at("model")
    # the share of energy at a rank has a deviation of some 1e-3 in 60,000 normal entries
    assert (table.kept - table.null).abs().max() < 4e-3
    assert (table.density_90 - table.null_90).abs().max() < 4e-3
    assert table.bin_error.max() < 4e-3 and table.density_90_error.max() < 1e-3
    assert gaussian_part_for(0.9) == pytest.approx(0.3262, abs=1e-4)


def test_any_density_comes_from_the_same_sums_and_agrees_with_an_exact_pass() -> None:
    source = source_of(*[v**3 for v in gaussian(2, 50_000)])
    found = collect(source, ["redundancy"])
    for density in (0.003, 0.2, 0.77):
        rows = found.finish("redundancy", density=density).at("tensor")
        exact = norm_at_density(source, [density])[:, 0].numpy()
        assert (np.abs(rows.kept - exact) <= rows.bin_error + 1e-12).all() and rows.bin_error.max() < 4e-3


def test_few_changed_weights_make_the_effective_density_smaller_than_asked() -> None:
    tau = torch.zeros(1000)
    tau[:100] = torch.arange(1.0, 101)
    rows = survey_of(tau, metrics=["redundancy"])["redundancy"].at("tensor")
    assert rows.effective_density.tolist() == rows.changed.tolist() == [0.1]
    assert rows.kept.tolist() == rows.null.tolist() == rows.of_changed.tolist() == [1]
    rows = survey_of(tau, metrics=["redundancy"], denominator="changed")["redundancy"].at("tensor")
    assert rows.of_changed.tolist() == [0.21] and rows.effective_density.tolist() == [0.021]  # int(density x n) + 1


def test_bins_are_an_eighth_of_an_octave_in_both_precisions_and_lose_no_entry() -> None:
    inner = torch.tensor(EDGES[1:-1])
    for row in (inner, inner.float(), torch.nextafter(inner.float(), torch.tensor(0.0))):
        counts, energy = histogram(row)
        below = row.double() < inner
        expected = np.bincount(np.arange(1, BINS) - below.numpy(), minlength=BINS)
        assert counts.tolist() == expected.tolist()
        assert float(energy.sum()) == pytest.approx(float((row.double() ** 2).sum()), rel=1e-12)
    counts, _ = histogram(torch.tensor([0.0, -0.0, 1e-42, -1e-30, 3e38]))
    assert counts[0] == 2 and counts[-1] == 1 and counts.sum() == 3


def test_unrelated_supports_overlap_as_their_densities_say() -> None:
    found = survey_of(*gaussian(2), metrics=["top_k_overlap"], trim_density=0.2)
    row = model(found["top_k_overlap"])
    assert row["null"] == pytest.approx(0.2 / 1.8, abs=1e-4)
    assert row["lift"] == pytest.approx(1, abs=0.02)  # 8,000 shared weights: one deviation is 0.01
    assert row["independent"] == pytest.approx(row["null"], abs=1e-6)
    alike = model(survey_of(*gaussian(1) * 2, metrics=["top_k_overlap"], trim_density=0.2)["top_k_overlap"])
    assert alike["overlap"] == 1 and alike["lift"] == pytest.approx(9, abs=0.01)


def test_frozen_tensors_are_no_overlap_above_chance() -> None:
    tasks = {f"t{i}": {"moved": v, "frozen": torch.zeros(300_000)} for i, v in enumerate(gaussian(2, 100_000))}
    source = StateDictSource({n: torch.zeros_like(v) for n, v in tasks["t0"].items()}, tasks)
    row = model(survey(source, ["top_k_overlap"], trim_density=0.1)["top_k_overlap"])
    assert row["lift"] == pytest.approx(1, abs=0.02) and row["overlap"] > 4 * row["independent"]


def test_the_null_of_the_conflict_map_is_the_mean_over_permutations() -> None:
    first, second = (v.exp() for v in gaussian(2, 300))
    row = model(survey_of(first, -second, metrics=["conflict_map"])["conflict_map"])
    generator = torch.Generator().manual_seed(2)
    permuted = torch.stack([second[torch.randperm(300, generator=generator)] for _ in range(3000)])
    simulated = (permuted @ first / (first.norm() * second.norm())).double()
    assert row["null"] == pytest.approx(simulated.mean().item(), abs=4 * simulated.std().item() / 3000**0.5)
    assert row["null"] != row["conflict"] == pytest.approx(float(first @ second / (first.norm() * second.norm())))


def test_normal_tasks_have_the_known_conflict_and_equal_ones_the_most() -> None:
    row = model(survey_of(*gaussian(2), metrics=["conflict_map"])["conflict_map"])
    assert row["null"] == pytest.approx(2 / np.pi, abs=3e-3) and row["lift"] == pytest.approx(1, abs=5e-3)
    alike = model(survey_of(*gaussian(1) * 2, metrics=["conflict_map"])["conflict_map"])
    assert alike["conflict"] == pytest.approx(1) and alike["lift"] == pytest.approx(np.pi / 2, abs=5e-3)
    zero = model(survey_of(torch.zeros(5), torch.ones(5), metrics=["conflict_map"])["conflict_map"])
    assert np.isnan([zero["conflict"], zero["null"], zero["lift"]]).all()


def test_the_energy_of_a_sum_has_its_null_deviation_under_random_signs() -> None:
    generator = torch.Generator().manual_seed(6)
    sizes = torch.randn(4, 200, generator=generator).abs()
    signs = torch.randint(0, 2, (2000, 4, 200), generator=generator) * 2 - 1
    energies = ((signs * sizes).sum(1) ** 2).sum(1) / (sizes**2).sum()
    row = model(survey_of(*sizes, metrics=["sum_energy"])["sum_energy"])
    assert energies.mean().item() == pytest.approx(1, abs=4 * row["null_sd"] / 2000**0.5)
    assert energies.std().item() == pytest.approx(row["null_sd"], rel=0.08)  # a deviation has an error of 1.6 %
    assert row["energy"] > 1 + 10 * row["null_sd"] and row["norm_sum"] == pytest.approx(sizes.sum(0).norm().item())


def test_the_energy_of_a_sum_counts_equal_and_opposite_tasks() -> None:
    (tau,) = gaussian(1, 1000)
    energy = lambda *v: model(survey_of(*v, metrics=["sum_energy"])["sum_energy"])["energy"]  # noqa: E731
    assert energy(tau) == 1 and energy(tau, tau, tau) == pytest.approx(3) and energy(tau, -tau) == 0
    assert np.isnan(energy(torch.zeros(3), torch.zeros(3)))
