"""Singular values and vectors from Gram matrices and from sketches, against numpy's full decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from explorer.compute import singular
from explorer.compute.singular import decompose


def matrix_of(rows: int, columns: int, rank: int, seed: int) -> Tensor:
    """A random matrix of at most the given rank, with singular values over two decades."""
    draw = np.random.default_rng(seed)
    left, right = draw.normal(size=(rows, rank)), draw.normal(size=(rank, columns))
    return torch.tensor(left * np.logspace(0, -2, rank) @ right)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_equals_the_full_decomposition(rows: int, columns: int, rank: int, seed: int) -> None:
    matrix = matrix_of(rows, columns, min(rank, rows, columns), seed)
    found = decompose(matrix, 0)
    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)
    expected = expected[expected > singular.FLOOR * (expected[0] if rank else 1)]
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-7)
    assert found.exact and found.squared_norm == pytest.approx(float(matrix.square().sum()))
    many = len(found.values)
    left, right = found.left(many), found.right(many)
    np.testing.assert_allclose(left * found.values @ right.T, matrix, atol=1e-6 * max(1.0, float(matrix.abs().max())))
    np.testing.assert_allclose(left.T @ left, np.eye(many), atol=1e-4)
    np.testing.assert_allclose(right.T @ right, np.eye(many), atol=1e-4)
    assert found.left(1).shape == (rows, min(1, many)) and found.right(99).shape == (columns, many)


def test_a_zero_and_an_empty_matrix_have_no_directions() -> None:
    for shape in ((3, 4), (0, 4), (4, 0), (0, 0)):
        found = decompose(torch.zeros(shape), 0)
        assert len(found.values) == 0 and found.exact and found.squared_norm == 0
        assert found.left(2).shape == (shape[0], 0) and found.right(2).shape == (shape[1], 0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0], ids=["flat", "slow", "steep"])
def test_a_sketch_keeps_its_bound(monkeypatch: pytest.MonkeyPatch, decay: float, transposed: bool) -> None:
    monkeypatch.setattr(singular, "EXACT_SIDE", 100)
    draw = torch.Generator().manual_seed(3)
    left, right = (torch.linalg.qr(torch.randn(n, 300, generator=draw).double())[0] for n in (300, 500))
    values = torch.arange(1, 301).double() ** -decay
    matrix = left * values @ right.T
    found = decompose(matrix.T if transposed else matrix, 7)
    kept = len(found.values)
    assert kept == singular.SKETCH and (found.values <= values[:kept] * (1 + 1e-9)).all()
    missing = (values[:kept].square() - found.values.square()).cumsum(0)
    assert (missing <= found.unseen * found.squared_norm * (1 + 1e-9)).all()
    # in truth far better than the bound, where the spectrum falls at all
    assert found.values[0] == pytest.approx(1.0, rel=1e-6 if decay else 1e-9)
    if decay == 2:
        np.testing.assert_allclose(found.values[:64], values[:64], rtol=1e-3)
        assert found.unseen < 1e-6
    again = decompose(matrix.T if transposed else matrix, 7)
    assert torch.equal(found.values, again.values) and torch.equal(found.left(5), again.left(5))
    turned = found.left(5).T @ found.left(5)
    np.testing.assert_allclose(turned, np.eye(5), atol=1e-9)


def test_a_sketch_of_a_matrix_of_low_rank_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singular, "EXACT_SIDE", 100)
    matrix = matrix_of(250, 300, 20, 1)
    found = decompose(matrix, 0)
    assert found.exact and len(found.values) == 20
    np.testing.assert_allclose(found.values, np.linalg.svd(matrix.numpy(), compute_uv=False)[:20], rtol=1e-6)
    np.testing.assert_allclose(found.left(20) * found.values @ found.right(20).T, matrix, atol=1e-6)
