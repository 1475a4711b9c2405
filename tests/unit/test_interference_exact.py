"""Length in the largest entries, alignment with the merged subspace, agreement of signs: on cases known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from explorer.compute.source import StateDictSource
from explorer.errors import ParameterError
from explorer.executor import ThreadExecutor
from explorer.interference import survey
from explorer.interference.norm_at_density import norm_at_density
from explorer.interference.sign_agreement import sign_agreement_ratio
from explorer.interference.subspace_alignment import rank_for_residual, subspace_alignment_ratio


def source_of(rows: np.ndarray) -> StateDictSource:
    """Task vectors [T, n] on a base of zeros, in two tensors."""
    values, cut = torch.from_numpy(rows.astype(np.float32)), rows.shape[1] // 3
    tasks = {f"t{i}": {"a": r[:cut].clone(), "b": r[cut:].clone()} for i, r in enumerate(values)}
    return StateDictSource({n: torch.zeros_like(v) for n, v in tasks["t0"].items()}, tasks)


def test_norm_at_density_against_a_full_sort() -> None:
    rows = np.random.default_rng(0).standard_t(3, (3, 301)).astype(np.float32)
    densities = [0.01, 0.2, 0.5, 1.0]
    got = norm_at_density(source_of(rows), densities, executor=ThreadExecutor(2)).numpy()
    for row, found in zip(rows.astype(float), got, strict=True):
        largest = np.sort(np.abs(row))[::-1]
        want = [np.linalg.norm(largest[: min(int(d * 301) + 1, 301)]) / np.linalg.norm(row) for d in densities]
        np.testing.assert_allclose(found, want, rtol=1e-12)
    assert (got[:, -1] == 1).all()


def test_norm_at_density_of_ties_and_of_nothing() -> None:
    rows = np.array([[1.0] * 10, [0.0] * 10, [0.0] * 9 + [2.0]])
    got = norm_at_density(source_of(rows), [0.1, 0.5])
    assert got[0].tolist() == [1.0, 1.0]  # all tied: none can be left out before another
    assert torch.isnan(got[1]).all() and got[2].tolist() == [1.0, 1.0]
    assert norm_at_density(source_of(rows), []).shape == (3, 0)
    with pytest.raises(ParameterError, match=r"(?s)2 problems.*got 0\..*got 20\. Use 0.2 for 20 %"):
        norm_at_density(source_of(rows), [0.0, 0.5, 20.0])


def test_an_update_inside_the_merged_subspace_is_fully_aligned() -> None:
    merged = torch.zeros(6, 5)
    merged[0, 0], merged[1, 1] = 3.0, 0.1
    inside, outside, half = torch.zeros(3, 6, 5)
    inside[0] = 1.0
    outside[2:] = 1.0
    half[0, 3] = half[5, 3] = 1.0
    got = subspace_alignment_ratio(torch.stack([inside, outside, half, torch.zeros(6, 5)]), merged, rank=1)
    torch.testing.assert_close(got[:3], torch.tensor([1.0, 0.0, 0.5**0.5], dtype=torch.float64))
    assert torch.isnan(got[3])
    assert float(subspace_alignment_ratio(inside[None], merged, rank=0)) == 0.0
    with pytest.raises(ValueError, match=r"needs deltas \[T, m, n\]"):
        subspace_alignment_ratio(inside, merged)


def test_rank_for_a_residual() -> None:
    matrix = torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0]))  # residuals: 1, 0.6, 0
    assert [rank_for_residual(matrix, r) for r in (1.0, 0.7, 0.6, 0.5, 0.0)] == [0, 1, 1, 2, 2]
    assert rank_for_residual(torch.zeros(3, 3), 0.05) == 0
    torch.testing.assert_close(subspace_alignment_ratio(matrix[None], matrix), torch.ones(1, dtype=torch.float64))


def test_a_random_update_shows_the_null_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(1)
    merged = torch.randn(64, 50, generator=generator)
    got = subspace_alignment_ratio(torch.randn(200, 64, 50, generator=generator), merged, rank=16)
    standard_error = float(got.square().std()) / 200**0.5
    assert abs(float(got.square().mean()) - 16 / 64) < 4 * standard_error


def test_agreement_of_signs_by_hand() -> None:
    rows = torch.tensor([[1.0, 1, 1, 0, 0], [2, -1, 3, 0, 5], [3, 2, 0, 0, 0]])
    torch.testing.assert_close(sign_agreement_ratio(rows), torch.tensor([1, 1 / 3, 1, 1, 1]))
    row = survey(source_of(rows.numpy()), ["sign_agreement"])["sign_agreement"].at("model").iloc[0]
    assert row["agreement"] == pytest.approx((1 + 1 / 3 + 1) / 3) and row["null"] == 0.5
    assert row["unanimous"] == pytest.approx(2 / 3) and (row["n_positions"], row["n"]) == (3, 5)


def test_random_signs_show_the_null_of_agreement() -> None:
    rows = np.random.default_rng(3).normal(size=(5, 20000))
    row = survey(source_of(rows), ["sign_agreement"])["sign_agreement"].at("model").iloc[0]
    assert row["null"] == pytest.approx(3 / 8)  # E|2B − 5| / 5
    assert abs(row["agreement"] - row["null"]) < 4 * 0.25 / 20000**0.5
