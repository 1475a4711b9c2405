"""Laws of the methods that see whole tensors and matrices, and what they do where published code fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, prepare
from explorer.merging._matrices import nearest_orthogonal, singular

EQUAL_SCALES = ["tsv_merge", "tsv_compress", "iso_c", "iso_cts", "wudi", "wudi_closed_form", "knots", "reversible"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def merged(method: str, deltas: Tensor, *, base: Tensor | None = None, name: str = "w", **parameters: Any) -> Tensor:
    """The merged task vector, [*shape] or [T, *shape], in float64."""
    start = torch.zeros_like(deltas[0]) if base is None else base
    source = StateDictSource({name: start}, {t: {name: start + d} for t, d in zip("abcdefgh", deltas, strict=False)})
    out = merge_tensor(prepare(method, source, parameters), source, name)
    return (torch.stack(out) if isinstance(out, list) else out) - start


def near(got: Tensor, want: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((got - want).abs().max() <= tolerance)


def low_rank(count: int, rows: int, columns: int, rank: int) -> Tensor:
    return draw(count, rows, rank, seed=1) @ draw(count, rank, columns, seed=2)


@pytest.mark.parametrize("method", EQUAL_SCALES)
@pytest.mark.parametrize("scale", [0.5, -0.75])
def test_equal_scales_are_the_paper_times_that_scale(method: str, scale: float) -> None:
    deltas = draw(3, 12, 8)
    assert near(merged(method, deltas, scale=scale), scale * merged(method, deltas, scale=1.0), 1e-8)


@pytest.mark.parametrize("method", [*EQUAL_SCALES, "multislerp", "karcher", "model_stock", "twin_merging"])
def test_one_changed_tensor_of_many_shapes_is_taken(method: str) -> None:
    for shape in [(), (1,), (6,), (1, 5), (5, 1), (40, 3), (3, 40), (4, 2, 3, 3)]:
        out = merged(method, draw(3, *shape), base=draw(*shape, seed=5))
        assert bool(torch.isfinite(out).all())
        assert not merged(method, torch.zeros(3, *shape, dtype=torch.float64), base=draw(*shape, seed=5)).any()


@pytest.mark.parametrize("method", ["tsv_merge", "iso_c", "iso_cts", "wudi", "wudi_closed_form"])
def test_embeddings_are_averaged(method: str) -> None:
    deltas = draw(3, 12, 8)
    table = merged(method, deltas, name="bert.embeddings.word_embeddings.weight", scale=1.0)
    assert near(table, deltas.mean(0), 1e-12)
    assert not near(merged(method, deltas, name="encoder.layer.0.weight", scale=1.0), deltas.mean(0), 1e-3)


def test_spherical_methods_reach_their_ends_and_swap() -> None:
    deltas, base = 2 * draw(2, 6, 5), draw(6, 5, seed=9)
    assert near(merged("slerp", deltas, base=base, t=0.0), deltas[0], 1e-12)
    assert near(merged("slerp", deltas, base=base, t=1.0), deltas[1], 1e-12)
    there, back = (merged("slerp", d, base=base, t=t) for d, t in ((deltas, 0.3), (deltas.flip(0), 0.7)))
    assert near(there, back, 1e-12)
    assert near(merged("nuslerp", deltas, base=base, weight={"a": 0.0, "b": 2.0}), deltas[1], 1e-12)
    alike = deltas / deltas.flatten(1).norm(dim=1).view(2, 1, 1)
    assert near(merged("nuslerp", alike), merged("multislerp", alike), 1e-7)
    assert near(merged("nuslerp", alike), merged("karcher", alike, on="task_vectors", tolerance=0), 1e-9)


@pytest.mark.parametrize("method", ["multislerp", "karcher", "nuslerp", "model_stock"])
def test_exactly_opposite_tasks_cancel(method: str) -> None:
    for shape in [(), (1,), (5, 4)]:
        tau = draw(*shape, seed=3)
        on = {"on": "task_vectors"} if method != "model_stock" else {}
        assert near(merged(method, torch.stack([tau, -tau]), **on), torch.zeros(shape, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("method", ["multislerp", "karcher", "nuslerp", "slerp", "model_stock"])
def test_equal_tasks_give_that_task(method: str) -> None:
    tau, base = draw(6, 5), draw(6, 5, seed=4)
    assert near(merged(method, torch.stack([tau, tau]), base=base), tau, 1e-12)


def test_model_stock_leaves_the_base_where_tasks_are_at_right_angles() -> None:
    deltas = torch.zeros(2, 2, 3, dtype=torch.float64)
    deltas[0, 0], deltas[1, 1] = 1.0, 2.0
    for ratio in ("clamped", "published"):
        assert not merged("model_stock", deltas, ratio=ratio).any()


def test_model_stock_extrapolates_only_when_asked_to() -> None:
    deltas = torch.tensor([[1.0, 0.0], [-0.2, 0.96**0.5]], dtype=torch.float64)
    assert near(merged("model_stock", deltas, ratio="published"), -0.5 * deltas.mean(0), 1e-12)
    assert not merged("model_stock", deltas).any()


def test_tsv_merge_counts_shared_directions_once() -> None:
    tau = draw(16, 12)
    once = merged("tsv_compress", tau[None], rank_fraction=0.5)[0]
    assert near(merged("tsv_merge", torch.stack([tau, tau])), once)


def test_tsv_merge_adds_orthogonal_tasks_whole() -> None:
    left, _ = torch.linalg.qr(draw(16, 12))
    right, _ = torch.linalg.qr(draw(12, 12, seed=2))
    deltas = torch.stack([left[:, 4 * t : 4 * t + 4] @ right[4 * t : 4 * t + 4] for t in range(3)])
    assert near(merged("tsv_merge", deltas), deltas.sum(0))


def test_tsv_merge_keeps_something_of_each_of_many_tasks() -> None:
    assert merged("tsv_merge", draw(8, 3, 5)).abs().max() > 0.1


def test_iso_c_keeps_the_sum_of_singular_values_and_makes_them_equal() -> None:
    deltas = draw(3, 12, 8)
    got, want = torch.linalg.svdvals(merged("iso_c", deltas)), torch.linalg.svdvals(deltas.sum(0))
    assert near(got, want.mean().expand(8))
    assert near(merged("iso_cts", deltas, common_fraction=1.0), merged("iso_c", deltas))


def test_iso_c_can_stay_within_the_directions_of_low_rank_updates() -> None:
    deltas = low_rank(2, 20, 16, 2) + 1e-8 * draw(2, 20, 16, seed=7)
    space = torch.linalg.svd(deltas.sum(0))[0][:, :4]
    outside = [
        (m - space @ (space.T @ m)).norm() / m.norm()
        for m in (merged("iso_c", deltas, directions=d) for d in ("numerical_rank", "all"))
    ]
    assert outside[0] < 1e-6 < 0.5 < outside[1]


@pytest.mark.parametrize("method", ["wudi", "wudi_closed_form"])
def test_wudi_adds_tasks_that_use_different_inputs(method: str) -> None:
    deltas = torch.zeros(2, 6, 8, dtype=torch.float64)
    deltas[0, :, :4], deltas[1, :, 4:] = draw(6, 4), draw(6, 4, seed=2)
    assert near(merged(method, deltas), deltas.sum(0), 1e-8)


def test_wudi_steps_lower_the_disturbance_and_the_closed_form_is_the_least() -> None:
    deltas = draw(3, 6, 8)

    def loss(m: Tensor) -> float:
        return float(sum(((m - d) @ d.T).square().sum() / d.square().sum() for d in deltas))

    plain, some, many = (merged("wudi", deltas, steps=s, learning_rate=1e-3) for s in (0, 100, 400))
    assert near(plain, deltas.sum(0), 1e-12)
    assert loss(plain) > loss(some) > loss(many) > loss(merged("wudi_closed_form", deltas))


def test_knots_with_a_linear_merge_is_task_arithmetic_and_without_trimming_one_task_is_whole() -> None:
    deltas = low_rank(3, 12, 10, 2)
    assert near(merged("knots", deltas, inner="sum", scale=0.4), merged("task_arithmetic", deltas, scale=0.4))
    assert near(merged("knots", deltas[:1], density=1.0, scale=1.0), deltas[0])


@pytest.mark.parametrize("shape", [(40, 3), (3, 40), (12, 12)])
@pytest.mark.parametrize("basis", ["inputs", "outputs"])
def test_knots_leaves_out_only_rounding(shape: tuple[int, int], basis: str) -> None:
    """Nothing trimmed and all tasks alike: the rotation there and back changes nothing."""
    tau = draw(*shape)
    got = merged("knots", torch.stack([tau, tau]), density=1.0, scale=1.0, basis=basis)
    assert near(got, tau, 1e-6)


def test_twin_merging_gives_every_expert_or_the_shared_model() -> None:
    deltas = draw(3, 12, 8)
    assert near(merged("twin_merging", deltas, rank_fraction=1.0), deltas, 1e-12)
    shared = merged("twin_merging", deltas, exclusive_weight=0.0)
    assert near(shared, (0.3 * deltas.sum(0)).expand(3, -1, -1), 1e-12)


def test_reversible_errors_fall_with_every_component_to_nothing() -> None:
    deltas = draw(4, 10, 6)
    errors = [float((merged("reversible", deltas, components=p) - deltas).norm()) for p in range(4)]
    assert errors == sorted(errors, reverse=True) and errors[2] > 0.1 and errors[3] < 1e-12
    assert near(merged("reversible", deltas, components=0), deltas.mean(0).expand(4, -1, -1))


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_singular_vectors_are_accurate_for_flat_and_steep_spectra(decay: float, shape: tuple[int, int]) -> None:
    left, right = (torch.linalg.qr(draw(n, 8, seed=n))[0] for n in shape)
    values = decay ** torch.arange(8, dtype=torch.float64)
    matrix = left * values @ right.T
    for rank in (3, 8, None):
        u, s, v = singular(matrix, rank)
        kept = min(rank or 8, 8)
        assert near(s[:kept], values[:kept], 1e-12)
        assert near(u * s @ v, left[:, :kept] * values[:kept] @ right[:, :kept].T, 1e-12 if decay < 1 else 9.0)
        assert near(u.T @ u, torch.eye(len(s), dtype=torch.float64), 1e-7)


def test_nearest_orthogonal_is_the_polar_factor() -> None:
    for shape in ((20, 7), (7, 20)):
        columns = draw(*shape)
        u, _, v = torch.linalg.svd(columns, full_matrices=False)
        assert near(nearest_orthogonal(columns), u @ v)
    assert not nearest_orthogonal(torch.zeros(4, 2, dtype=torch.float64)).any()
