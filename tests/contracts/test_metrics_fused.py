"""The fused pass and the partial functions give the same sums, for every metric that has both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute import readiness
from explorer.compute.source import StateDictSource
from explorer.errors import CheckpointError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.interference import METRICS, Survey, _fused, _fused_jobs, _nulls, collect
from explorer.interference._api import FUSED

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SHAPES = {"long": (5000,), "frozen": (3000,), "short": (77,), "one": (), "none": (0,)}
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _compiled() -> None:
    readiness.wait()


def source_of(count: int, dtype: torch.dtype, *, odd: bool = False) -> StateDictSource:
    """Sparse and dense changes; `odd` ones hold −0, subnormal numbers and equal tasks as well."""
    generator = torch.Generator().manual_seed(count)
    draw = lambda v: torch.randn(v.shape, generator=generator)  # noqa: E731
    base = {n: (torch.randn(s, generator=generator) / 8).to(dtype) for n, s in SHAPES.items()}
    tasks: dict[str, dict[str, Tensor]] = {}
    for t in range(count):
        kept = lambda v, share=(t + 1) / count: torch.rand(v.shape, generator=generator) < share  # noqa: E731
        tasks[f"t{t}"] = {n: (v + draw(v) * kept(v) / 9).to(dtype) if n != "frozen" else v for n, v in base.items()}
    if odd:
        base["long"][:2000] = 0.0
        for t, task in enumerate(tasks.values()):
            task["long"][:500] = -0.0
            task["long"][500:1000] = torch.finfo(dtype).tiny / 2 * (t + 1)
            task["long"][1000:2000] = task["long"][4000:] if t else 0.25
    return StateDictSource(base, tasks)


def by_torch(source: StateDictSource, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Survey:
    with monkeypatch.context() as patch:
        patch.setattr(_fused, "serves", lambda _: False)
        return collect(source, executor=SerialExecutor(), **options)


def assert_same(found: Survey, expected: Survey) -> None:
    """Whole numbers equal, sums of floats to a few units in the last place."""
    for name, jobs in expected.sums.items():
        for mine, theirs in zip(found.sums[name], jobs, strict=True):
            assert mine.keys() == theirs.keys()
            for key, value in theirs.items():
                assert mine[key].dtype == value.dtype and mine[key].shape == value.shape, (name, key)
                exact, drawn = value.dtype == np.int64, 1e-9 if key.startswith("null_") else 0
                np.testing.assert_allclose(
                    mine[key], value, rtol=0 if exact else 2e-14, atol=drawn, err_msg=f"{name} {key}"
                )


def test_every_elementwise_metric_is_fused() -> None:
    fused = {name for name in METRICS.names() if METRICS.get(name).partial in FUSED}
    assert fused == {name for name in METRICS.names() if METRICS.get(name).on != "matrix"}


@pytest.mark.parametrize("count", range(1, 9))
@every_dtype
def test_the_pass_gives_the_sums_of_the_partial_functions(
    count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(count, dtype)
    for options in ({"trim_density": 1.0}, {"trim_density": 0.2, "denominator": "changed"}):
        assert_same(collect(source, **options), by_torch(source, monkeypatch, **options))


@every_dtype
def test_odd_numbers_and_mixed_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(4, dtype, odd=True)
    assert_same(collect(source, trim_density=0.5), by_torch(source, monkeypatch, trim_density=0.5))
    source._tasks[1]["long"] = source._tasks[1]["long"].float() * 1.01
    source._base["short"] = source._base["short"].double()
    assert_same(collect(source, trim_density=0.5), by_torch(source, monkeypatch, trim_density=0.5))


def test_twenty_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(20, torch.bfloat16)
    assert_same(collect(source, denominator="changed"), by_torch(source, monkeypatch, denominator="changed"))


@pytest.mark.parametrize("count, chosen", [(3, {"t1": 0}), (5, {"t0": 0}), (7, {"t2": 0}), (9, 1), (4, 0), (6, 1)])
def test_patterns_of_any_choice_of_tasks(count: int, chosen: object, monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = source_of(count, torch.bfloat16), {"parameters": {"mask_patterns": {"chosen": chosen}}}
    for names in (["mask_patterns"], ["mask_agreement", "mask_overlap", "mask_patterns"]):
        assert_same(collect(source, names, **options), by_torch(source, monkeypatch, metrics=names, **options))


def test_sizes_beyond_the_histogram_go_to_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(2, torch.float32)
    source._tasks[0]["long"][:900] += 2.0 ** torch.arange(-60, 840).clamp(max=30)
    source._base["long"][900:950], source._tasks[1]["long"][900:950] = 0.0, 2.0**-55
    found, expected = collect(source, ["redundancy"]), by_torch(source, monkeypatch, metrics=["redundancy"])
    assert_same(found, expected)
    assert found.sums["long"][0]["counts"][:, [0, -1]].tolist()[0][1] > 0 < found.sums["long"][0]["counts"][1, 0]


def test_an_adapter_s_own_difference_is_not_subtracted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(3, torch.float32)
    monkeypatch.setattr(source, "holds_delta", lambda t, n: t == 1 and n == "long")
    assert_same(collect(source), by_torch(source, monkeypatch))


def test_large_chunks_draw_the_nulls_from_some_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    source, options = source_of(4, torch.bfloat16), {"denominator": "changed"}
    whole = collect(source, **options)
    for name, value in {"WHOLE": 0, "WHOLE_CHUNK": 1024, "EVERY": 3}.items():
        monkeypatch.setattr(_nulls, name, value)
    found = collect(source, **options)
    assert_same(found, by_torch(source, monkeypatch, **options))
    for name, column in {"minority_mass": "minority_mass", "mask_overlap": "iou"}.items():
        some, all_of_it = found.finish(name).at("model"), whole.finish(name).at("model")
        assert (some[column] == all_of_it[column]).all() and (some.null != all_of_it.null).all()
        np.testing.assert_allclose(some.null, all_of_it.null, atol=0.05)


def test_threads_give_the_bits_of_a_serial_run() -> None:
    source = source_of(4, torch.bfloat16)
    one, several = (collect(source, executor=e) for e in (SerialExecutor(), ThreadExecutor(3)))
    for name, jobs in one.sums.items():
        for mine, theirs in zip(jobs, several.sums[name], strict=True):
            assert all(np.array_equal(mine[k], theirs[k]) for k in mine)


def test_the_pass_is_used_where_loops_are_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = _fused_jobs.FusedJobs.sums
    monkeypatch.setattr(_fused_jobs.FusedJobs, "sums", lambda s, c: asked.append(c.name) or whole(s, c))
    collect(source_of(2, torch.bfloat16), ["minority_mass"])
    assert set(asked) == {"long", "frozen", "short", "one"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_tensor_and_task(bad: float) -> None:
    source = source_of(3, torch.bfloat16)
    source._tasks[2]["long"][4321] = bad
    with pytest.raises(CheckpointError, match=r"task t2: tensor long must .* at flat position 4321"):
        collect(source)


def test_draws_are_fair_and_fill_their_range() -> None:
    words = _nulls.seed_words("w", 0, "a")
    places = _nulls.places(words, 60_000, 6).bincount(minlength=6)
    assert len(places) == 6 and (places - 10_000).abs().max() < 450  # 5 standard deviations
    for count, first in ((5000, 0), (5000, 1), (5120, 2), (1, 0), (0, 0)):
        assert _nulls.blocks_elements(count, 3, first) == len(_nulls.blocks(count, 3, first))
    turned = _nulls.flips(words, torch.arange(40_000))
    other = _nulls.flips(_nulls.seed_words("w", 0, "b"), torch.arange(40_000))
    assert abs(int(turned.sum()) - 20_000) < 500 and abs(int((turned == other).sum()) - 20_000) < 500
