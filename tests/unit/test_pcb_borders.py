"""Borders of PCB-Merging's scores: the compiled pass finds the exact ones, and says so where it cannot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute import brackets
from explorer.compute.source import StateDictSource
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.merging import _curves, _scores, pcb, prepare

N = 70_003


def source_of(dtype: torch.dtype, *, dyadic: bool = False, tasks: int = 3, sparse: bool = False) -> StateDictSource:
    generator = torch.Generator().manual_seed(5)

    def draw() -> Tensor:
        if dyadic:
            return torch.randint(-3, 4, (N,), generator=generator) / 64
        made = torch.randn(N, generator=generator) / 50
        return torch.where(torch.rand(N, generator=generator) < 0.5, made, 0) if sparse else made

    def cut(values: Tensor) -> dict[str, Tensor]:
        return {"a": values[:40_000].to(dtype), "b": values[40_000:].to(dtype)}

    base = draw()
    return StateDictSource(cut(base), {f"t{t}": cut(base + draw()) for t in range(tasks)})


def by_torch(source: StateDictSource, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as without:
        without.setattr(pcb, "borders", lambda *_: None)
        return prepare("pcb", source, settings).stats


@pytest.mark.parametrize("variant", ["es", "vision", "nlp", "root"])
@pytest.mark.parametrize("kind", [{}, {"dyadic": True}, {"sparse": True}], ids=str)
def test_borders_are_exact(variant: str, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(torch.float16, **kind)
    for density in (0.001, 0.05, 0.9, 1.0):
        settings = {"variant": variant, "density": density}
        wanted = by_torch(source, settings, monkeypatch)
        for executor in (SerialExecutor(), ThreadExecutor(2)):
            found = prepare("pcb", source, settings, executor=executor).stats
            for key in ("border", "best"):  # as numbers: 0 and −0 are one border
                got, right = found[key], wanted[key]
                assert isinstance(got, Tensor)
                assert got.tolist() == right.tolist(), (key, density)


def test_usual_scores_need_no_second_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcb, "values_at", lambda *_, **__: pytest.fail("scores were counted digit by digit"))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for density in (0.05, 0.5):
            prepare("pcb", source_of(dtype), {"density": density})


def test_a_sample_that_misleads_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(torch.float32)
    wanted = by_torch(source, {}, monkeypatch)
    for wrong in (-5, 0x7F000000):
        keys = np.full((3, 4096), wrong, np.int32)
        monkeypatch.setattr(_scores, "_sampled", lambda *_, made=keys: made)
        assert torch.equal(prepare("pcb", source, {}).stats["border"], wanted["border"])  # type: ignore[arg-type]


def test_few_weights_and_numbers_that_are_none_are_left_to_torch() -> None:
    source = source_of(torch.float32)
    steps = pcb._steps("es", torch.ones(3), {"low": torch.zeros(3), "high": torch.ones(3)})
    assert _scores.borders(steps, source, lambda n: n // 20, SerialExecutor()) is not None
    source.task(1, "b", 0, N)[77] = math.nan
    assert _scores.borders(steps, source, lambda n: n // 20, SerialExecutor()) is None
    few = StateDictSource({"a": torch.zeros(9)}, {"t": {"a": torch.ones(9)}})
    assert brackets.LEAST > 9 and _scores.borders(steps, few, lambda n: 1, SerialExecutor()) is None


@pytest.mark.parametrize(
    ("function", "exact", "most"),
    [(_curves.exp, torch.exp, 88.0), (_curves.tanh_within_1, torch.tanh, 1.0), (_curves.tanh, torch.tanh, 30.0)],
)
def test_curves_are_within_a_few_units_of_the_last_place(function: Any, exact: Any, most: float) -> None:
    least = -most if function is not _curves.exp else -80.0
    points = torch.cat([torch.linspace(least, most, 100_001), torch.logspace(-30, 0, 1000)])
    wanted = exact(points.double())
    error = ((function(points).double() - wanted) / wanted.where(wanted != 0, 1)).abs().max()
    assert float(error) < 6e-7
    wide = points.double()
    assert torch.equal(function(wide), exact(wide))
