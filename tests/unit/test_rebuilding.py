"""One model per task: how far it lies from the task's own, and what must be kept for it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from workbench_zoo import make_bench, make_models, recipe_of

from explorer.compute.source import StateDictSource
from explorer.merging import METHODS, merge_tensor, prepare
from explorer.params import check_values
from explorer.streaming import stream
from viz.panels import words

SHAPES: dict[str, tuple[int, ...]] = {"layer.0.weight": (12, 9), "layer.0.bias": (12,), "layer.1.weight": (8, 12)}


def lora_like(tasks: int = 5, rank: int = 3) -> StateDictSource:
    """A base and fine-tunes whose matrices moved by updates of low rank."""
    generator = torch.Generator().manual_seed(5)
    base = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 1:
            return tensor + torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        left, right = (torch.randn(k, rank, generator=generator, dtype=torch.float64) for k in tensor.shape)
        return tensor + left @ right.T

    return StateDictSource(base, {f"t{i}": {n: moved(v) for n, v in base.items()} for i in range(tasks)})


def error(source: StateDictSource, values: dict[str, Any], method: str = "reversible_low_rank") -> float:
    """Σ‖θ̂_t − θ_t‖² / Σ‖τ_t‖² over all tensors and tasks."""
    ready, off, total = prepare(method, source, values), 0.0, 0.0
    for name, shape in SHAPES.items():
        base = source.base(name, 0, prod(shape)).view(shape)
        for i, got in enumerate(merge_tensor(ready, source, name)):
            own = source.task(i, name, 0, prod(shape)).view(shape)
            off += float((got - own).square().sum())
            total += float((own - base).square().sum())
    return off / total


def share(method: str, tasks: int = 5, **values: Any) -> float:
    found = METHODS.get(method)
    names = tuple(f"t{i}" for i in range(tasks))
    assert found.stored_function
    return found.stored_function(SHAPES, tasks, check_values(found.specs, values, who=method, tasks=names))


def test_enough_components_rebuild_every_lora_exactly() -> None:
    assert error(lora_like(), {"rank": 3, "components": 3}) < 1e-24
    assert error(lora_like(tasks=2), {"rank": 3, "components": 1}) < 1e-24, "two tasks lie on one line"
    assert error(lora_like(tasks=1), {"rank": 3, "components": 0}) < 1e-24


def test_the_factors_error_falls_with_p_and_fewer_ranks_lose_more() -> None:
    found = [error(lora_like(), {"rank": 3, "components": p}) for p in range(4)]
    assert found == sorted(found, reverse=True) and found[0] > 0.3
    assert error(lora_like(), {"rank": 2, "components": 9}) > 0.01


def test_p_0_averages_the_factors_apart() -> None:
    source = lora_like(tasks=2)
    name, shape = "layer.0.weight", (12, 9)
    base = source.base(name, 0, 108).view(shape)
    factors = []
    for i in range(2):
        u, s, v = torch.linalg.svd(source.task(i, name, 0, 108).view(shape) - base)
        u, s, v = u[:, :3], s[:3].sqrt(), v[:3]
        signs = torch.tensor([float(torch.sign(column[column.abs().argmax()])) for column in u.T], dtype=u.dtype)
        factors.append((u * s * signs, (v.T * s * signs).T))
    left, right = ((factors[0][k] + factors[1][k]) / 2 for k in (0, 1))
    got = merge_tensor(prepare("reversible_low_rank", source, {"rank": 3, "components": 0}), source, name)[0]
    torch.testing.assert_close(got, base + left @ right, rtol=1e-9, atol=1e-9)


def test_storage_is_what_the_formulas_say() -> None:
    assert share("tall_masks", tasks=20) == pytest.approx((64 + 20 - 32) / (32 * 20))
    assert share("reversible", components=1) == pytest.approx(2 / 5, abs=0.01)
    assert share("reversible", components=30) == pytest.approx(1, abs=0.05)
    assert share("tsv_compress", rank_fraction=1.0) == 1
    total = sum(prod(s) for s in SHAPES.values())
    small = (1 * (12 + 9 + 1) + 12 + 1 * (8 + 12 + 1)) / total
    assert share("tsv_compress", rank_fraction=0.12) == pytest.approx(small)
    assert share("twin_merging", rank_fraction=0.12) == pytest.approx(1 / 5 + small)


def test_storage_of_the_paper_can_exceed_what_it_saves() -> None:
    """n = 5 adapters of rank 4: p = 1 keeps 65 % of them, p = 2 already 110 %."""
    shapes = {"w": (4096, 4096)}
    values = {"rank": 4, "excluded": "none", "scale": 1.0}
    stored = METHODS.get("reversible_low_rank").stored_function
    assert stored
    adapters = 4 * (4096 + 4096) / 4096**2
    assert stored(shapes, 5, {**values, "components": 1}) / adapters == pytest.approx(0.65)
    assert stored(shapes, 5, {**values, "components": 2}) / adapters == pytest.approx(1.10)


def test_every_method_with_one_model_per_task_says_what_it_stores() -> None:
    per_task = [m for m in METHODS if m.output == "per_task"]
    assert per_task and all(m.stored_function for m in per_task), [m.name for m in per_task if not m.stored_function]


def test_the_headline_names_the_worst_task() -> None:
    said = words.rebuilt({"spam": 0.1, "movies": 0.3, "same": float("nan")}, 0.4)
    assert "20.0 %" in said and "worst 30.0 % (movies)" in said and "40.0 % of all task vectors" in said
    assert words.rebuilt({"same": float("nan")}, 0.4) == ""


def test_the_last_update_says_the_errors_of_the_weights_that_are_shown(tmp_path: Path) -> None:
    bench = make_bench(make_models(tmp_path / "models"), tmp_path / "exports")
    recipe = recipe_of(tmp_path / "models", method="reversible", parameters={"components": 0})
    slot = bench.slot("tab")
    updates = list(stream(bench, slot, recipe, slot.newest()))
    rebuild = updates[-1].rebuild
    assert rebuild and [u.rebuild for u in updates[:-1]] == [None] * (len(updates) - 1)
    assert rebuild.stored == pytest.approx(1 / 2)
    live = slot.live
    assert live
    base, *tasks = (load_file(tmp_path / "models" / n / "model.safetensors") for n in ("base", *recipe.task_names))
    for task, own in zip(recipe.task_names, tasks, strict=True):
        shown = live.weights(task)
        off = sum(float((shown[n].double() - own[n].double()).square().sum()) for n in shown)
        total = sum(float((own[n].double() - base[n].double()).square().sum()) for n in shown)
        assert rebuild.errors[task] == pytest.approx((off / total) ** 0.5, rel=1e-5)
        assert 0.5 < rebuild.errors[task] < 0.9  # two tasks, averaged: half of each other's difference
    single = list(stream(bench, slot, recipe_of(tmp_path / "models"), slot.newest()))
    assert all(u.rebuild is None for u in single)
