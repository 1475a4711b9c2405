"""Averages and subspace fusion against their formulas, written down once more in plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_methods_formulas import BASE, NAMES, TAU, TUNED, T, ours, per_task

from explorer.compute.source import StateDictSource
from explorer.merging import merge_tensor, prepare
from explorer.merging.somf import fused

SCALES = [0.5, 1.0, 0.0, -0.4, 0.8]


def numpy_run_average(run: Any = 1) -> np.ndarray:
    runs = np.broadcast_to(run, T)
    return np.mean([TUNED[runs == r].mean(0) for r in sorted(set(runs.tolist()))], axis=0)


def numpy_somf(scale: Any = 0.3, density: float = 0.5, elect: str = "none", reduce: str = "sum") -> np.ndarray:
    size = np.abs(TAU).sum(0)
    mask = size >= np.sort(size, axis=None)[::-1][round(density * size.size) - 1]
    kept = mask * TAU / mask.mean()
    total = (per_task(scale) * kept).sum(0)
    if elect == "mass":
        assert np.ndim(scale) == 0
        total = np.where(np.sign(kept) == np.sign(kept.sum(0)), scale * kept, 0).sum(0)
    return BASE + (total / T if reduce == "mean" else total)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("run_average", {}),
    ("run_average", {"run": [1, 1, 1, 2, 2]}),
    ("run_average", {"run": [7, 3, 7, 9, 7]}),
    ("run_average", {"run": [5, 4, 3, 2, 1]}),
    ("somf", {}),
    ("somf", {"scale": SCALES, "density": 0.2}),
    ("somf", {"density": 0.3, "reduce": "mean"}),
    ("somf", {"density": 0.4, "elect": "mass"}),
    ("somf", {"density": 1.0, "scale": SCALES}),
]
OTHERS = ("lerp",)


@pytest.mark.parametrize(("method", "parameters"), CASES, ids=[f"{m}-{i}" for i, (m, _) in enumerate(CASES)])
def test_formula(method: str, parameters: dict[str, Any]) -> None:
    want = globals()[f"numpy_{method}"](**parameters)
    np.testing.assert_allclose(ours(method, **parameters), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_lerp_is_the_point_on_the_line(t: float) -> None:
    tasks = {n: {"w": torch.from_numpy(TUNED[i])} for i, n in enumerate("ba")}  # the recipe's order, not the names'
    source = StateDictSource({"w": torch.from_numpy(BASE)}, tasks)
    got = merge_tensor(prepare("lerp", source, {"t": t}), source, "w").numpy()
    np.testing.assert_allclose(got, (1 - t) * TUNED[0] + t * TUNED[1], rtol=1e-6, atol=1e-6)


def test_runs_of_equally_many_checkpoints_give_the_plain_average() -> None:
    runs = ({n: i + 1 for i, n in enumerate(NAMES)}, dict.fromkeys(NAMES, 4))
    tasks = {t: {"w": torch.from_numpy(TUNED[i])} for i, t in enumerate(NAMES)}
    source = StateDictSource({"w": torch.from_numpy(BASE)}, tasks)
    plain = merge_tensor(prepare("weight_average", source), source, "w")
    for run in runs:
        assert torch.equal(merge_tensor(prepare("run_average", source, {"run": run}), source, "w"), plain)


def test_a_given_mask_keeps_its_weights_at_the_size_they_had() -> None:
    deltas = torch.tensor([[[1.0, -2.0], [3.0, 4.0]], [[0.0, 8.0], [-1.0, 2.0]]])
    scale = torch.tensor([1.0, 0.5])
    total = deltas[0] + deltas[1] / 2
    hard = torch.tensor([[True, False], [False, False]])
    assert torch.equal(fused(deltas, hard, scale), total * hard * 4)
    soft = torch.tensor([[0.5, 0.0], [1.0, 0.5]])
    assert torch.equal(fused(deltas, soft, scale), total * soft / 0.5)
    assert torch.equal(fused(deltas, torch.ones(2, 2), scale), total)
    elected = fused(deltas, torch.ones(2, 2), torch.ones(2), elect="mass")
    assert torch.equal(elected, torch.tensor([[1.0, 8.0], [3.0, 6.0]]))
    assert torch.equal(fused(deltas, torch.zeros(2, 2), scale), torch.zeros(2, 2))
    assert fused(torch.zeros(2, 0), torch.zeros(0), scale).shape == (0,)


@pytest.mark.parametrize("mask", [torch.ones(3), torch.full((2, 2), 1.5), torch.full((2, 2), float("nan"))])
def test_a_mask_that_does_not_fit_is_a_fault_of_the_caller(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="fused: "):
        fused(torch.ones(1, 2, 2), mask, torch.ones(1))
