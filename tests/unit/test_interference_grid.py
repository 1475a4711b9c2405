"""Trim densities side by side: exact thresholds, and a slider that moves among them without reading a weight."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from explorer.compute import readiness
from explorer.compute.source import StateDictSource
from explorer.errors import ParameterError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.interference import DENSITIES, _fused, _grid, collect

TRIMMED = ["minority_mass", "sign_agreement", "sign_conflict"]


def source_of(dtype: torch.dtype = torch.bfloat16, size: int = 3000) -> StateDictSource:
    """A task that changed everything, one that changed a third, and one that changed nothing."""
    generator = torch.Generator().manual_seed(0)
    base = {"a": torch.randn(size, generator=generator).to(dtype), "b": torch.randn(50, generator=generator).to(dtype)}
    shares = {"all": 1.0, "third": 0.33, "none": 0.0}
    draw = lambda v, s: torch.randn(v.shape, generator=generator) * (torch.rand(v.shape, generator=generator) < s) / 9  # noqa: E731
    return StateDictSource(
        base, {t: {n: (v + draw(v, s)).to(dtype) for n, v in base.items()} for t, s in shares.items()}
    )


@pytest.fixture(params=["fused", "torch"], autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(_fused, "serves", lambda _: False)
    else:
        readiness.wait()


@pytest.mark.parametrize("few", [0, 6], ids=["by digits", "by brackets"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_thresholds_are_those_of_a_full_sort(dtype: torch.dtype, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_grid, "_FEW", few)
    source, densities = source_of(dtype), (0.001, 0.01, 0.2, 0.5, 0.99, 1.0)
    got = _grid.thresholds(source, densities, "all", ThreadExecutor(2), None)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    moved = torch.zeros(3050, dtype=torch.bool)
    for t in range(3):
        rows = [source.task(t, n, 0, len(source._base[n])).to(wide) - source._base[n].to(wide) for n in ("a", "b")]
        sizes = torch.cat(rows).abs().sort(descending=True).values
        moved |= torch.cat(rows) != 0
        want = [sizes[int(d * 3050)] if d < 1 else 0.0 for d in densities]
        assert got[:, t].tolist() == [float(w) for w in want]
    changed = _grid.thresholds(source, (0.2, 1.0), "changed", SerialExecutor(), None)
    assert changed[:, 2].tolist() == [0, 0] and changed[1, 0] == 0
    assert (
        changed[0, 0]
        == _grid.thresholds(source, (0.2 * float(moved.sum()) / 3050,), "all", SerialExecutor(), None)[0, 0]
    )


@pytest.mark.parametrize("denominator", ["all", "changed"])
def test_a_held_density_gives_what_a_survey_at_it_gives(denominator: str) -> None:
    source = source_of()
    found = collect(source, held=DENSITIES, denominator=denominator)
    for density in (0.01, 0.3, 0.7, 1.0):
        fresh = collect(source, TRIMMED, trim_density=density, denominator=denominator)
        for name in TRIMMED:
            held, own = found.finish(name, trim_density=density), fresh.finish(name)
            pd.testing.assert_frame_equal(held.table, own.table, rtol=1e-14, check_exact=False)
            for key in ("trim_density", "trim_thresholds", "denominator"):
                assert held.provenance[key] == own.provenance[key]


def test_holding_reads_nothing_afterwards_and_changes_no_other_number() -> None:
    source = source_of()
    plain, found = collect(source), collect(source, held=(0.1, 1.0))
    source.base = source.task = None  # type: ignore[assignment,method-assign]
    for name in plain.planned:
        pd.testing.assert_frame_equal(found.finish(name).table, plain.finish(name).table)
    cosine = found.finish("cosine", trim_density=0.37).table  # untrimmed: does not depend on it
    pd.testing.assert_frame_equal(cosine, plain.finish("cosine").table)


def test_the_share_really_kept_is_shown() -> None:
    found = collect(source_of(), held=(0.1, 0.5))
    row = found.finish("sign_conflict", trim_density=0.5).at("model", task_a="all", task_b="third").iloc[0]
    assert row.kept_a == pytest.approx(0.5, abs=0.02) and 0.2 < row.kept_b < 0.34  # only a third changed
    none = found.finish("sign_conflict", trim_density=0.1).at("model", task_a="third", task_b="none").iloc[0]
    assert none.kept_a == pytest.approx(0.1, abs=0.02) and none.kept_b == 0 and np.isnan(none.conflict)


def test_a_density_that_is_not_held_needs_a_pass() -> None:
    found = collect(source_of(), held=(0.1,))
    with pytest.raises(ParameterError, match=r"sign_conflict: trim_density .* holds \(0\.1, 1\); got 0\.2\. Run the"):
        found.finish("sign_conflict", trim_density=0.2)
    with pytest.raises(ParameterError, match=r"(?s)2 problems.*held densities must be in \(0, 1\]; got 0\..*got 7\."):
        collect(source_of(), held=(0, 0.5, 7))
