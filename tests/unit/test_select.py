"""The exact k-th largest magnitude and its companions, against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute import select
from explorer.compute.source import StateDictSource
from explorer.errors import Cancelled
from explorer.executor import CancelToken, Executor, SerialExecutor, ThreadExecutor


def source_of(values: Tensor, pieces: int = 3) -> StateDictSource:
    """One task whose task vector is `values`, spread over several tensors on a base of zeros."""
    parts = {f"p{i}": p for i, p in enumerate(values.tensor_split(pieces))}
    return StateDictSource({n: torch.zeros_like(p) for n, p in parts.items()}, {"a": parts})


def eight_decades(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator, dtype=torch.float64)
    values *= 10.0 ** torch.randint(-6, 3, (count,), generator=generator)
    values[::7] = 0
    values[1::50] = -0.125  # many equal magnitudes
    return values.to(dtype)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks even for small models, so that the streaming path runs."""
    monkeypatch.setattr(select, "CHUNK_ELEMENTS", 1000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("executor", [SerialExecutor(), ThreadExecutor(2)], ids=["serial", "threads"])
def test_kth_largest_is_exact(dtype: torch.dtype, executor: Executor) -> None:
    values = eight_decades(5000, dtype)
    sizes = values.to(torch.float64 if dtype == torch.float64 else torch.float32).abs().sort(descending=True).values
    scan = select.scan(source_of(values), 0, executor=executor)
    for k in (1, 2, 17, 499, 500, 2500, 4300, 4999, 5000):
        got = select.kth_largest(scan, k)
        assert got.dtype == sizes.dtype
        assert got == sizes[k - 1]


def test_one_chunk_and_many_chunks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = select.scan(source_of(eight_decades(900), pieces=1), 0)
    whole = [select.kth_largest(scan, k) for k in (1, 90, 900)]
    monkeypatch.setattr(select, "CHUNK_ELEMENTS", 100)
    assert [select.kth_largest(scan, k) for k in (1, 90, 900)] == whole


def test_float64_differences_that_float32_cannot_see_are_told_apart() -> None:
    values = 1 + torch.arange(2000, dtype=torch.float64) * 1e-12
    assert select.kth_largest(select.scan(source_of(values), 0), 3) == values[-3]


def test_a_model_of_mixed_precision_is_ordered_as_one() -> None:
    parts = {"a": torch.tensor([3.0, 0.1]), "b": torch.tensor([0.1, 2.0], dtype=torch.float64)}
    source = StateDictSource({n: torch.zeros_like(p) for n, p in parts.items()}, {"t": parts})
    scan = select.scan(source, 0)
    found = [float(select.kth_largest(scan, k)) for k in (1, 2, 3, 4)]
    assert found == [3.0, 2.0, float(np.float32(0.1)), 0.1]


def test_subnormal_and_huge_magnitudes() -> None:
    values = torch.tensor([1e-45, 3e38, 1e-40, 0.0, -3.3e38] * 300)
    scan = select.scan(source_of(values), 0)
    assert [float(select.kth_largest(scan, k)) for k in (300, 301, 601, 901, 1500)] == [
        float(x) for x in torch.tensor([3.3e38, 3e38, 1e-40, 1e-45, 0.0])
    ]


@pytest.mark.parametrize(
    ("density", "elements", "rule", "count"),
    [
        (0.2, 8641, "inclusive", 1729),
        (0.2, 8641, "exact", 1728),
        (1.0, 10, "inclusive", 10),
        (1.0, 10, "exact", 10),
        (0.01, 10, "inclusive", 1),
        (0.01, 10, "exact", 1),
        (0.7, 10, "exact", 7),
    ],
)
def test_kept_count(density: float, elements: int, rule: str, count: int) -> None:
    assert select.kept_count(density, elements, rule) == count


def test_threshold_keeps_ties_and_everything_at_density_one() -> None:
    values = torch.cat([torch.full((1500,), -0.5), torch.linspace(0.6, 1, 500)])
    scan = select.scan(source_of(values), 0)
    assert select.magnitude_threshold(scan, 0.5) == 0.5
    assert select.magnitude_threshold(scan, 1.0) == 0
    few = select.scan(source_of(torch.cat([torch.zeros(1900), torch.ones(100)])), 0)
    assert select.magnitude_threshold(few, 0.2) == 0


def test_a_kept_histogram_saves_the_first_pass() -> None:
    scan = select.scan(source_of(eight_decades(5000)), 0)
    histogram = select.magnitude_histogram(scan)
    assert histogram.count.shape == (65536,)
    assert int(histogram.count.sum()) == 5000
    passes: list[str] = []

    class Counting(SerialExecutor):
        def map(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            passes.append("pass")
            return super().map(*args, **kwargs)  # type: ignore[arg-type]

    counted = select.scan(scan.source, 0, executor=Counting())
    for density, cost in ((0.1, 1), (0.3, 2)):
        with_it = select.magnitude_threshold(counted, density, histogram=histogram)
        assert len(passes) == cost
        assert with_it == select.magnitude_threshold(scan, density)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_norm_threshold_keeps_the_smallest_number_of_entries_that_passes_the_fraction(
    fraction: float, dtype: torch.dtype
) -> None:
    values = eight_decades(4000, dtype, seed=2)
    values[1::50] = torch.linspace(1, 2, len(values[1::50]), dtype=dtype)  # no ties here
    threshold = select.norm_threshold(select.scan(source_of(values), 0), fraction)
    squares = values.double().square()
    assert squares[values.abs() >= threshold].sum() > fraction * squares.sum()
    assert squares[values.abs() > threshold].sum() <= fraction * squares.sum()
    assert (values.abs() == threshold).sum() == 1


def test_norm_threshold_of_everything_and_of_nothing() -> None:
    assert select.norm_threshold(select.scan(source_of(eight_decades(3000)), 0), 1.0) == 0
    assert select.norm_threshold(select.scan(source_of(torch.zeros(3000)), 0), 0.5) == 0


def test_mean_and_std() -> None:
    values = eight_decades(3000)
    mean, std = select.mean_and_std(select.scan(source_of(values), 0))
    assert float(mean) == pytest.approx(float(values.double().mean()), rel=1e-12)
    assert float(std) == pytest.approx(float(values.double().std()), rel=1e-12)
    assert select.mean_and_std(select.scan(source_of(torch.ones(1), 1), 0))[1] == 0


def test_nothing_to_select_from() -> None:
    scan = select.scan(source_of(torch.zeros(0), 1), 0)
    assert select.magnitude_threshold(scan, 0.2) == 0
    assert select.norm_threshold(scan, 0.2) == 0
    assert select.mean_and_std(scan) == (0, 0)


def test_one_tensor_of_the_model_alone() -> None:
    source = source_of(torch.arange(3000.0), pieces=3)
    assert select.kth_largest(select.scan(source, 0, ["p1"]), 1) == 1999


def test_cancelling_stops_between_chunks() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        select.magnitude_histogram(select.scan(source_of(torch.ones(5000)), 0, cancel=token))
