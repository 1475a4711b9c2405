"""Selection through a sample is exact on every kind of values, and knows when its sample misled it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute import brackets, select
from explorer.compute.source import StateDictSource
from explorer.executor import ThreadExecutor
from explorer.merging import _fused, merge_tensor, prepare

N = 100_003
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def values_of(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(N, generator=generator)
    made = {
        "normal": normal,
        "sparse": torch.where(torch.rand(N, generator=generator) < 0.05, normal, 0),
        "few values": torch.randint(-2, 3, (N,), generator=generator).float(),
        "wide": normal * torch.exp2(torch.randint(-20, 4, (N,), generator=generator).float()),
        "sorted": normal.sort().values,
        "zero": torch.zeros(N),
    }
    return made[kind]


def scan_of(deltas: Tensor, dtype: torch.dtype, base: Tensor | None = None) -> select.Scan:
    start = torch.zeros_like(deltas) if base is None else base
    cut = [0, 70_000, 70_000, 70_001, len(deltas)]
    names = [f"w{i}" for i in range(4)]
    model = {n: start[a:b].to(dtype) for n, a, b in zip(names, cut[:-1], cut[1:], strict=True)}
    tuned = {n: (start + deltas)[a:b].to(dtype) for n, a, b in zip(names, cut[:-1], cut[1:], strict=True)}
    return select.scan(StateDictSource(model, {"t": tuned}), 0, executor=ThreadExecutor(2))


def by_sorting(values: select.Scan) -> Tensor:
    parts = [values.delta(c).abs() for c in values.chunks()]
    return torch.cat(parts).sort(descending=True).values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "sparse", "few values", "wide", "sorted", "zero"])
def test_every_rank_is_exact(kind: str, dtype: torch.dtype) -> None:
    values = scan_of(values_of(kind), dtype)
    wanted = by_sorting(values)
    for ranks in ([1, 2], [N], [N // 5 + 1], [N // 2, N // 100], [N - 1, 700, 3]):
        found = select.at_ranks(values, ranks)
        assert [f.item() for f in found] == [wanted[k - 1].item() for k in ranks]


@pytest.mark.parametrize("kind", ["normal", "few values", "wide", "zero"])
def test_usual_values_need_no_second_way(kind: str) -> None:
    assert brackets.kth_largest(scan_of(values_of(kind), torch.bfloat16), [N // 5 + 1, N // 100]) is not None


def test_tensors_that_differ_are_all_sampled() -> None:
    generator = torch.Generator().manual_seed(4)
    changes = {f"w{i:02}": torch.randn(9000, generator=generator) * 2.0 ** (i * 7 % 10) for i in range(50)}
    source = StateDictSource({n: torch.zeros(9000) for n in changes}, {"t": changes})
    values = select.scan(source, 0)
    for share in (3, 5, 8, 20):
        assert brackets.kth_largest(values, [values.elements // share]) is not None


def test_a_sample_that_misleads_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = scan_of(values_of("normal"), torch.float32)
    wanted = by_sorting(values)
    for wrong in (np.full(4096, 1, np.int32), np.full(4096, 0x7F000000, np.int32)):
        monkeypatch.setattr(brackets, "_sampled", lambda *_, made=wrong: made)
        assert brackets.kth_largest(values, [N // 5]) is None
        assert select.kth_largest(values, N // 5).item() == wanted[N // 5 - 1].item()


def test_too_many_values_inside_are_left_to_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    values = scan_of(values_of("normal"), torch.float32)
    monkeypatch.setattr(brackets, "bracket", lambda *_: (0, 0x7FFFFFFF))
    assert brackets.kth_largest(values, [N // 5]) is None
    assert select.kth_largest(values, N // 5).item() == by_sorting(values)[N // 5 - 1].item()


def test_few_values_and_float64_are_left_to_counting() -> None:
    assert not brackets.serves(select.scan(StateDictSource({"w": torch.ones(9)}, {"t": {"w": torch.ones(9)}}), 0))
    wide = {"w": torch.ones(N, dtype=torch.float64)}
    assert not brackets.serves(select.scan(StateDictSource(wide, {"t": wide}), 0))


class Adapted(StateDictSource):
    """Tasks that hold their differences, as adapters do."""

    def holds_delta(self, index: int, name: str) -> bool:
        return True


def test_sources_that_hold_differences_take_the_other_way() -> None:
    generator = torch.Generator().manual_seed(2)
    base = {"w": torch.randn(1 << 21, generator=generator)}
    delta = {"w": torch.randn(1 << 21, generator=generator)}
    plain = StateDictSource(base, {"a": {"w": base["w"] + delta["w"]}})
    adapted = Adapted(base, {"a": delta})
    assert brackets.serves(select.scan(plain, 0)) and not brackets.serves(select.scan(adapted, 0))
    assert _fused.readable(plain, "w") and not _fused.readable(adapted, "w")
    found = merge_tensor(prepare("ties", adapted, {"scale": 1.0, "density": 0.1}), adapted, "w")
    assert isinstance(found, torch.Tensor)
    least = delta["w"].abs().sort(descending=True).values[int(0.1 * (1 << 21))]
    kept = torch.where(delta["w"].abs() >= least, delta["w"], 0)
    assert torch.equal(found, torch.where(kept == 0, base["w"], base["w"] + kept))
