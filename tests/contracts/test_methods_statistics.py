"""Whole-model statistics: what they cost again, and that nothing stale is ever used."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from explorer.compute.source import StateDictSource
from explorer.errors import Cancelled
from explorer.executor import CancelToken, SerialExecutor
from explorer.merging import merge_into, merge_tensor, prepare
from explorer.merging._statistics import statistics
from explorer.store import Store


class CountingSource(StateDictSource):
    """Counts the elements read of each task."""

    def task(self, index: int, name: str, start: int, stop: int) -> torch.Tensor:
        values = super().task(index, name, start, stop)
        self.read[self.tasks[index]] += values.numel()
        return values

    def reset(self) -> None:
        self.read = dict.fromkeys(self.tasks, 0)


@pytest.fixture
def counted() -> CountingSource:
    generator = torch.Generator().manual_seed(5)
    base = {"w": torch.randn(300_000, generator=generator)}
    tasks = {t: {"w": base["w"] + torch.randn(300_000, generator=generator)} for t in "abc"}
    source = CountingSource(base, tasks)
    source.reset()
    return source


def test_a_second_density_costs_one_pass_over_one_task(counted: CountingSource) -> None:
    store = Store()
    asked = statistics(counted, cache=store)
    asked.magnitude_threshold([0.2, 0.2, 0.2])
    one_pass = range(300_000, 310_001)  # and a small sample before it
    assert all(read in one_pass for read in counted.read.values())
    counted.reset()
    again = statistics(counted, cache=store).magnitude_threshold([0.2, 0.3, 0.2])
    assert (counted.read["a"], counted.read["c"]) == (0, 0)
    assert counted.read["b"] in one_pass
    fresh = statistics(counted).magnitude_threshold([0.2, 0.3, 0.2])
    assert isinstance(again, torch.Tensor)
    assert isinstance(fresh, torch.Tensor)
    assert torch.equal(again, fresh)


def test_moving_a_common_scale_costs_nothing(counted: CountingSource) -> None:
    store = Store()
    prepare("ties", counted, {"scale": 1.0}, cache=store)
    counted.reset()
    prepare("ties", counted, {"scale": 0.4}, cache=store)
    assert sum(counted.read.values()) == 0


def test_scale_zero_reads_no_task(counted: CountingSource) -> None:
    merge_tensor(prepare("ties", counted, {"scale": 0}), counted, "w")
    assert sum(counted.read.values()) == 0


PARAMETERS: list[dict[str, Any]] = [
    {"density": 0.3},
    {"scope": "tensor"},
    {"trim_count": "exact", "density": 0.02},
    {"scale": {"a": 0.5}},
    {"weight": {"b": 0.5}},
    {"sign_rule": "frequency"},
    {"sign_rule": "norm_share_mass"},
    {"rescale": "l1", "sign_rule": "norm_share_mass"},
    {"trim_rule": "std", "trim_amount": 1.5},
    {"trim_rule": "std", "trim_amount": 0.5},
    {"trim_rule": "norm_fraction", "trim_amount": 0.8},
    {"trim_rule": "norm_fraction", "trim_amount": 0.8, "scope": "tensor"},
    {"rescale": "l1"},
    {"rescale": "l1", "density": 0.5},
    {"trim_count": "exact"},
    {},
]


@pytest.mark.parametrize("dyadic", [True, False], ids=["many ties", "no ties"])
def test_a_shared_cache_never_changes_a_result(dyadic: bool, make_source: Any) -> None:
    """Every setting asked for after all others gives the bits it gives alone."""
    source, store = make_source(4, dyadic=dyadic), Store()
    for parameters in [*PARAMETERS, *reversed(PARAMETERS)]:
        shared = prepare("ties", source, parameters, cache=store)
        alone = prepare("ties", source, parameters)
        for name in source.names:
            assert torch.equal(merge_tensor(shared, source, name), merge_tensor(alone, source, name))  # type: ignore[arg-type]
        assert set(shared.stats) == set(alone.stats)
        for key, value in alone.stats.items():
            other = shared.stats[key]
            pairs = [(value, other)] if isinstance(value, torch.Tensor) else [(value[n], other[n]) for n in value]  # type: ignore[index]
            assert all(torch.equal(a, b) for a, b in pairs)  # type: ignore[arg-type]


def test_sums_are_float64_or_whole_numbers_per_model_and_per_tensor(make_source: Any) -> None:
    source = make_source(2, dyadic=True)
    asked = statistics(source)
    total = asked.sum("abs", lambda d, given: d.abs().sum(1))
    parts = asked.sum("abs", lambda d, given: d.abs().sum(1), scope="tensor")
    assert isinstance(total, torch.Tensor)
    assert isinstance(parts, dict)
    assert total.dtype == torch.float64
    assert torch.equal(total, torch.stack(list(parts.values())).sum(0))
    assert "empty" not in parts
    counted = asked.sum("changed", lambda d, given: (d != 0).sum())
    assert isinstance(counted, torch.Tensor)
    assert counted.dtype == torch.int64


def test_given_statistics_arrive_as_the_tensor_sees_them(make_source: Any) -> None:
    source = make_source(3)
    asked = statistics(source)
    threshold = asked.magnitude_threshold([0.2, 0.5, 1.0], scope="tensor", count_rule="exact")
    kept = asked.sum(
        "kept", lambda d, s: (d.abs() >= s["threshold"][:, None]).sum(1), scope="tensor", given={"threshold": threshold}
    )
    assert isinstance(kept, dict)
    assert kept["block.1.weight"].tolist() == [88, 220, 440]
    assert kept["one"].tolist() == [1, 1, 1]


def test_cancelling_stops_preparing_and_merging(make_source: Any) -> None:
    source, token, reports = make_source(2), CancelToken(), []
    ready = prepare("ties", source)
    from explorer.compute.arena import Arena

    row = Arena(source).merged_row()
    merge_into(ready, source, row, executor=SerialExecutor(), progress=reports.append)
    assert reports[-1].fraction == 1
    token.cancel()
    with pytest.raises(Cancelled):
        merge_into(ready, source, row, cancel=token)
    with pytest.raises(Cancelled):
        prepare("ties", source, cancel=token)


def test_only_named_tensors_are_written(make_source: Any) -> None:
    from explorer.compute.arena import Arena

    source = make_source(2)
    row = Arena(source).merged_row()
    ready = prepare("task_arithmetic", source)
    merge_into(ready, source, row, names=["one"])
    assert torch.equal(row.views()["one"], merge_tensor(ready, source, "one"))  # type: ignore[arg-type]
    assert torch.equal(row.flat("block.0.weight"), source.base("block.0.weight", 0, 63))


def test_rows_must_be_as_many_as_the_method_fills(make_source: Any) -> None:
    from explorer.compute.arena import Arena

    source = make_source(2)
    with pytest.raises(ValueError, match="tall_masks fills 2 rows; got 1"):
        merge_into(prepare("tall_masks", source), source, Arena(source).merged_row())
