"""DELLA's compiled pass: exact ranks for rows of any length and any spread of magnitudes, and the method's own bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from explorer.compute.source import Chunk, StateDictSource, numel
from explorer.executor import ThreadExecutor
from explorer.merging import _draws, _fused_rows, _run, cast, merge_chunk, merge_tensor, prepare
from explorer.merging.della import keep_probability

LENGTHS = (1, 2, 31, 32, 33, 64, 65, 129, 1023, 1024, 1025, 5000, (1 << 16) - 1, 1 << 16, 70_001)
"""Around every limit of the loops: insertion, blocks of 64, blocks of merging, digits."""


def rows_of(length: int) -> dict[str, np.ndarray]:
    """Rows that are easy and rows that are as hard as they can be, float32."""
    random = np.random.default_rng(length)
    normal = random.standard_normal(length)
    scattered = normal * np.exp2(random.integers(-120, 100, length))
    outlier = normal.copy()
    outlier[length // 2] = 1e30
    made = {
        "normal": normal,
        "as bfloat16": torch.from_numpy(normal * 0.01).bfloat16().double().numpy(),
        "every size": scattered,
        "one outlier": outlier,
        "two clusters": np.where(normal > 0, 1e-20 * (1 + 1e-3 * normal), 1e20 * (1 + 1e-3 * normal)),
        "nearly equal": 1 + 1e-6 * random.integers(0, 9, length),
        "equal but one": np.where(np.arange(length) == length - 1, 0.5, 1.0),
        "mostly zero": normal * (random.random(length) < 0.02),
        "zeros": np.zeros(length),
        "subnormal": normal * 1e-40,
        "largest": 3.4028234e38 * (1 - 1e-6 * random.integers(0, 5, length)),
        "falling": np.linspace(1, 0, length),
    }
    return {name: row.astype(np.float32) for name, row in made.items()}


@pytest.mark.parametrize("length", LENGTHS)
def test_the_order_is_that_of_a_stable_sort(length: int) -> None:
    for name, row in rows_of(length).items():
        items = _fused_rows.order(row, length, _fused_rows.scratch_for(length))[:length]
        found = items & 0xFFFFFFFF
        assert np.array_equal(found, np.argsort(np.abs(row), kind="stable")), name


def test_chances_are_linear_in_the_rank_and_those_of_the_method() -> None:
    assert torch.allclose(_draws.chances(0.5, 0.2, 5), torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7]))
    assert _draws.chances(0.5, 0.2, 1).tolist() == [0.5]
    assert _draws.chances(0.5, 0.0, 3).tolist() == [0.5] * 3
    for shape in ((3, 5), (7,), (4, 1), (2, 3, 4), ()):
        rows = torch.randn(shape).reshape(shape[0] if len(shape) > 1 else 1, -1)
        assert _draws.row_length(shape) == rows.shape[1]
        wanted = keep_probability(rows, 0.5, 0.2).sort(dim=1).values
        assert torch.equal(wanted, _draws.chances(0.5, 0.2, rows.shape[1]).expand_as(wanted))


def hard_source(shape: tuple[int, ...], dtype: torch.dtype) -> StateDictSource:
    """Three tasks of which one changed nothing, one is usual, and one has changes of many sizes."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(shape, generator=generator).mul_(0.02)
    usual = base + 0.002 * torch.randn(shape, generator=generator)
    sizes = torch.exp2(torch.randint(-20, 3, shape, generator=generator).float())
    scattered = base + sizes * torch.randn(shape, generator=generator)
    tasks = {"a": usual, "b": base.clone(), "c": scattered}
    return StateDictSource({"w": base.to(dtype)}, {t: {"w": w.to(dtype)} for t, w in tasks.items()})


SHAPES = ((), (1,), (40,), (70_001,), (5, 1), (3000, 3), (7, 40, 2), (9, 1024), (3, 1500), (1, 4097), (0, 8))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("settings", [{}, {"density": 0.5, "density_spread": 0.45, "elect": "none", "reduce": "sum"}])
def test_rows_of_any_length_give_the_bits_of_the_method(
    shape: tuple[int, ...], dtype: torch.dtype, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = hard_source(shape, dtype)
    ready = prepare("della", source, settings, seed=2)
    wanted = cast(merge_chunk(ready, source, Chunk("w", 0, numel(source, "w"))), dtype) if 0 not in shape else None

    def never(*_: Any) -> Tensor:
        raise AssertionError("the method's own function ran")

    monkeypatch.setattr(_run, "merge_chunk", never)
    found = merge_tensor(ready, source, "w")
    assert isinstance(found, Tensor)
    assert found.shape == shape
    assert wanted is None or torch.equal(found.reshape(-1), wanted)


def test_tensors_in_threads_and_in_turn_give_the_same_bits() -> None:
    base = {f"w{i}": torch.randn(64, 200, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(6)}
    tasks = {t: {n: (w.float() * (1 + 0.01 * k)).bfloat16() for n, w in base.items()} for k, t in enumerate("ab", 1)}
    source = StateDictSource(base, tasks)
    ready = prepare("della", source, seed=1)
    shapes, dtypes = {n: source.shape(n) for n in base}, {n: source.dtype(n) for n in base}
    rows = [_run.Row(shapes, dtypes) for _ in range(2)]
    for row, executor in zip(rows, (None, ThreadExecutor(3)), strict=True):
        _run.merge_into(ready, source, row, executor=executor)
    assert all(torch.equal(rows[0].flat(n), rows[1].flat(n)) for n in base)
