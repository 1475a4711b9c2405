"""Methods that draw: unbiased at every entry, independent between tasks and tensors, and the same for any cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute.arena import Arena
from explorer.compute.source import StateDictSource
from explorer.executor import ThreadExecutor
from explorer.merging import _draws, merge_into, merge_tensor, prepare
from explorer.merging.breadcrumbs import kept_ranks
from explorer.merging.della import keep_probability
from explorer.seeds import stable_seed

SEEDS = 1500
SHAPE = (24, 32)


def source_of(*rows: Tensor) -> StateDictSource:
    """Task vectors on a base of zeros: merged weights are then the merged task vector."""
    return StateDictSource({"w": torch.zeros_like(rows[0])}, {t: {"w": r} for t, r in zip("abcd", rows, strict=False)})


def merged(method: str, source: Any, seed: int = 0, **parameters: Any) -> Tensor:
    out = merge_tensor(prepare(method, source, parameters, seed=seed), source, source.names[0])
    assert isinstance(out, Tensor)
    return out


@pytest.fixture(scope="module")
def delta() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("dare", {"density": 0.1, "scale": 1.0}),
        ("dare", {"density": 0.6, "scale": 0.5}),
        ("della", {"density": 0.5, "density_spread": 0.3, "elect": "none"}),
        ("della", {"density": 0.2, "density_spread": 0.5}),
    ],
)
def test_the_expectation_is_the_task_vector_at_every_entry(
    method: str, parameters: dict[str, Any], delta: Tensor
) -> None:
    source = source_of(delta)
    draws = torch.stack([merged(method, source, seed, **parameters) for seed in range(SEEDS)]).double()
    scale = parameters.get("scale", 1.0)
    error = (draws.mean(0) - scale * delta.double()) / (draws.std(0) / SEEDS**0.5)
    # The largest of 768 standard normal errors lies below 4 in 95 % of runs; the seeds are fixed, so this is one run.
    assert float(error.abs().max()) < 4
    assert 0.9 < float(error.std()) < 1.1


def test_della_keeps_large_changes_more_often_and_the_density_on_average(delta: Tensor) -> None:
    source = source_of(delta)
    values = {"density": 0.5, "density_spread": 0.3, "rescale": "none", "elect": "none"}
    kept = torch.stack([merged("della", source, seed, **values) != 0 for seed in range(SEEDS)]).double().mean(0)
    rank = delta.abs().argsort(1).argsort(1) / (SHAPE[1] - 1)
    error = (kept - (0.2 + 0.6 * rank)) / (kept * (1 - kept) / SEEDS).sqrt()
    assert float(error.abs().max()) < 4
    assert abs(float(kept.mean()) - 0.5) < 0.003


def test_masks_of_different_tasks_tensors_and_seeds_are_independent() -> None:
    n, density = 1 << 14, 0.3
    seeds = [stable_seed(s, t, w) for s in range(4) for t in "abcd" for w in ("x", "y")]
    masks = torch.stack([_draws.keep(seed, 0, n, density) for seed in seeds]).double() - density
    correlation = masks @ masks.T / (n**0.5 * density * (1 - density))
    off = correlation[~torch.eye(len(seeds), dtype=torch.bool)]
    assert float(off.abs().max()) < 5
    assert 0.9 < float(off.std()) < 1.1
    for lag in (1, 2, 32, 1024):
        own = (masks[:, lag:] * masks[:, :-lag]).sum(1) / ((n - lag) ** 0.5 * density * (1 - density))
        assert float(own.abs().max()) < 4.5


def test_draws_depend_on_the_position_only() -> None:
    whole = _draws.draws(123456789012345, 0, 1000)
    pieces = [_draws.draws(123456789012345, start, 100) for start in range(0, 1000, 100)]
    assert torch.equal(torch.cat(pieces), whole)
    assert _draws.uniform(7, 0, 1 << 16).amax() < 1
    assert _draws.uniform(7, 0, 1 << 16).amin() >= 0
    assert bool(_draws.keep(7, 0, 100, 1.0).all())
    assert not _draws.keep(7, 0, 100, 0.0).any()


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("dare", {"rescale": "l1", "density": 0.3}),
        ("dare", {"elect": "mass", "reduce": "mean", "density": {"a": 0.2, "c": 0.9}}),
        ("dare", {"drop": "smallest", "rescale": "l1"}),
        ("della", {"rescale": "l1"}),
        ("breadcrumbs", {"scope": "row", "drop_smallest": 0.3, "elect": "mass", "reduce": "weighted_mean"}),
        ("half_reset", {"block": "layer"}),
    ],
)
def test_any_cut_and_schedule_give_the_same_bits(method: str, parameters: dict[str, Any], make_source: Any) -> None:
    source = make_source(4)
    ready = prepare(method, source, parameters, seed=3)
    arena, rows = Arena(source), []
    for executor, cut in ((None, 1 << 17), (ThreadExecutor(3), 13), (None, 1), (None, 8)):
        rows.append(arena.merged_row())
        merge_into(ready, source, rows[-1], executor=executor, chunk_elements=cut)
    for name in source.names:
        assert all(torch.equal(rows[0].views()[name], row.views()[name]) for row in rows[1:])


@pytest.mark.parametrize("method", ["dare", "della", "half_reset"])
def test_another_seed_draws_anew_and_the_same_seed_the_same(method: str, make_source: Any) -> None:
    source = make_source(4)

    def of(seed: int) -> Tensor:
        ready = prepare(method, source, {}, seed=seed)
        return torch.cat([merge_tensor(ready, source, n).view(-1) for n in source.names])  # type: ignore[union-attr]

    assert torch.equal(of(1), of(1))
    assert any(not torch.equal(of(1), of(seed)) for seed in (2, 3, 4))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("dare", {"density": 1.0}),
        ("dare", {"density": 1.0, "rescale": "l1"}),
        ("dare", {"density": 1.0, "drop": "smallest"}),
        ("della", {"density": 1.0, "elect": "none", "reduce": "sum"}),
        ("breadcrumbs", {"drop_smallest": 0, "drop_largest": 0}),
        ("breadcrumbs", {"drop_smallest": 0, "drop_largest": 0, "scope": "row"}),
        ("half_reset", {"reset_fraction": 0}),
        ("adamerging_pp", {"density": 1.0}),
    ],
)
def test_dropping_nothing_is_task_arithmetic_bit_for_bit(
    method: str, parameters: dict[str, Any], make_source: Any
) -> None:
    source = make_source(1 if method == "adamerging_pp" else 3)
    scale = {t: 0.1 * (i + 3) for i, t in enumerate(source.tasks)}
    plain = prepare("task_arithmetic", source, {"scale": scale})
    ready = prepare(method, source, {**parameters, "scale": scale})
    for name in source.names:
        assert torch.equal(merge_tensor(ready, source, name), merge_tensor(plain, source, name))  # type: ignore[arg-type]


def test_l1_restores_the_absolute_sum_of_each_tensor(delta: Tensor) -> None:
    source = source_of(delta)
    for method, values in (
        ("dare", {"density": 0.2, "scale": 1.0}),
        ("della", {"density": 0.4, "elect": "none", "reduce": "sum"}),
    ):
        out = merged(method, source, 5, rescale="l1", **values)
        assert bool((out == 0).any())
        torch.testing.assert_close(out.abs().sum(), delta.abs().sum(), rtol=1e-5, atol=0)


def test_half_reset_resets_the_fraction_of_the_blocks() -> None:
    names = [f"model.layers.{i}.mlp.{part}.weight" for i in range(4) for part in ("up_proj", "down_proj")]
    base = {n: torch.zeros(3) for n in names}
    source = StateDictSource(base, {"a": {n: torch.ones(3) for n in names}})
    chosen = set()
    for seed in range(40):
        kept = {
            block: [bool(v) for v in prepare("half_reset", source, {"block": block}, seed=seed).stats["kept"].values()]  # type: ignore[union-attr]
            for block in ("layer", "module")
        }
        assert sum(kept["layer"]) == 4
        assert all(kept["layer"][2 * i] == kept["layer"][2 * i + 1] for i in range(4))
        assert all(kept["module"][2 * i] != kept["module"][2 * i + 1] for i in range(4))
        chosen.add(tuple(kept["module"]))
    assert len(chosen) > 10


@pytest.mark.parametrize(
    ("rule", "n", "want"),
    [
        ("drop", 20, (2, 10)),
        ("keep", 20, (2, 10)),
        ("keep_first", 20, (2, 10)),
        ("drop", 3, (0, 2)),
        ("keep", 3, (0, 1)),
        ("keep", 1, (0, 0)),
        ("drop", 1, (0, 1)),
    ],
)
def test_breadcrumbs_counts(rule: str, n: int, want: tuple[int, int]) -> None:
    """Half dropped at the small end, a tenth at the large one; 0.4 · 20 is 8 whatever its last bit."""
    assert kept_ranks(0.5, 0.1, n, rule) == want


def test_breadcrumbs_that_leave_nothing_give_the_base(delta: Tensor) -> None:
    for scope in ("tensor", "row"):
        assert not merged("breadcrumbs", source_of(delta), drop_smallest=0.7, drop_largest=0.5, scope=scope).any()


def test_ownership_gives_each_weight_to_one_task(delta: Tensor) -> None:
    rows = [delta, delta.flip(0), delta * 2]
    source = source_of(*rows)
    alone = [merged("ownership", source, scale={u: float(t == u) for u in "abc"}) for t in "abc"]
    assert bool(((torch.stack(alone) != 0).sum(0) == 1).all())
    assert np.count_nonzero(alone[0]) == 0  # task c moved every weight twice as far as task a
    first = merged("ownership", source, owner="first")
    assert torch.equal(first, delta)


def test_della_ranks_equal_sizes_by_position_in_any_precision() -> None:
    rows = torch.tensor([[-0.5, 0.25, 0.5, -0.0, 0.0, 0.25]])
    want = torch.tensor([[0.7, 0.5, 0.8, 0.3, 0.4, 0.6]], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        got = keep_probability(rows.to(dtype), 0.55, 0.25)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-6)


def test_l1_counts_what_is_kept_in_every_part_of_a_large_tensor() -> None:
    wide = torch.linspace(0.1, 1.0, 300_000)  # more than one chunk of a statistics pass
    out = merged("dare", source_of(wide), 9, rescale="l1", density=0.01, scale=1.0)
    torch.testing.assert_close(out.abs().double().sum(), wide.double().sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("reduce", "scale", "want"),
    [("sum", 1.0, [0.5, 1.5]), ("mean", 1.0, [0.5, 0.75]), ("mean", -1.0, [-0.5, -0.75]), ("sum", 0.5, [0.25, 0.75])],
)
@pytest.mark.parametrize("method", ["dare", "della", "breadcrumbs"])
def test_votes_that_cancel_exactly_elect_plus(method: str, reduce: str, scale: float, want: list[float]) -> None:
    keep_all = {"drop_smallest": 0, "drop_largest": 0} if method == "breadcrumbs" else {"density": 1.0}
    source = source_of(torch.tensor([0.5, 1.0]), torch.tensor([-0.5, 0.5]))
    assert merged(method, source, elect="mass", reduce=reduce, scale=scale, **keep_all).tolist() == want


def test_a_mean_divides_by_tasks_or_by_weights() -> None:
    source = source_of(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0]))
    values = {"density": 1.0, "scale": 0.5, "weight": {"a": 1.0, "b": 3.0}}
    assert merged("dare", source, reduce="mean", **values).tolist() == [2.5, 2.5]
    assert merged("dare", source, reduce="weighted_mean", **values).tolist() == [1.25, 1.25]
    assert merged("dare", source, elect="mass", reduce="weighted_mean", **values).tolist() == [1.25, 2.0]
