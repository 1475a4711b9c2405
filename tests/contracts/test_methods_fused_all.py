"""Resident models merged in few calls: the same bits as tensor by tensor, and what is unusual is left to the runner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from explorer.compute.addresses import UNREADABLE, addresses_of
from explorer.compute.arena import Arena, Row
from explorer.compute.source import StateDictSource
from explorer.errors import CheckpointError
from explorer.executor import SerialExecutor, ThreadExecutor
from explorer.merging import METHODS, Method, _run, merge_into, prepare

FUSED = [m for m in METHODS if m.fused_function and not m.whole_tensors]  # whole tensors go one by one
fused_methods = pytest.mark.parametrize("method", FUSED, ids=lambda m: m.name)
every_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)


def rows_of(arena: Arena, method: Method, dtype: torch.dtype | None = None) -> list[Row]:
    return [arena.merged_row(dtype) for _ in range(len(arena.tasks) if method.output == "per_task" else 1)]


def same(found: list[Row], wanted: list[Row], names: tuple[str, ...]) -> bool:
    pairs = ((f.flat(n), w.flat(n)) for f, w in zip(found, wanted, strict=True) for n in names)
    return all(torch.equal(f.view(torch.uint8), w.view(torch.uint8)) for f, w in pairs)


def tensor_by_tensor(
    ready: Any, arena: Arena, rows: list[Row], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    with monkeypatch.context() as without:
        without.setattr(_run, "merge_all", lambda *_, **__: frozenset())
        merge_into(ready, arena, rows, **options)


@fused_methods
@every_dtype
@pytest.mark.parametrize("count", [2, 4, 7])
def test_all_at_once_gives_the_same_bits(
    method: Method, dtype: torch.dtype, count: int, make_source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arena = Arena(make_source(count, dtype))
    ready = prepare(method, arena)
    wanted = rows_of(arena, method)
    tensor_by_tensor(ready, arena, wanted, monkeypatch)
    for executor in (SerialExecutor(), ThreadExecutor(3)):
        found = rows_of(arena, method)
        with monkeypatch.context() as alone:
            alone.setattr(_run, "_fused_chunk", lambda *_: pytest.fail("a tensor was merged alone"))
            merge_into(ready, arena, found, executor=executor)
        assert same(found, wanted, arena.names)


@pytest.mark.parametrize("name", ["dare", "breadcrumbs", "task_arithmetic"])
def test_numbers_per_tensor_and_task_reach_their_tensor(
    name: str, make_source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = METHODS.get(name)
    arena = Arena(make_source(3, torch.bfloat16, names="bca"))
    scale = {"a": 0.3, "b": {"block.0.*": 1.5, "*": -0.2}, "c": {"single": 0.0, "*": 0.7}}
    ready = prepare(method, arena, {"scale": scale}, seed=5)
    wanted, found = rows_of(arena, method), rows_of(arena, method)
    tensor_by_tensor(ready, arena, wanted, monkeypatch)
    merge_into(ready, arena, found)
    assert same(found, wanted, arena.names)


def test_some_names_and_a_wider_row(make_source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS.get("ties")
    arena = Arena(make_source(3, torch.bfloat16))
    ready = prepare(method, arena)
    some = ("block.1.weight", "one")
    for dtype, stored in ((None, None), (torch.float32, torch.bfloat16), (torch.float32, None)):
        wanted, found = rows_of(arena, method, dtype), rows_of(arena, method, dtype)
        tensor_by_tensor(ready, arena, wanted, monkeypatch, dtype_policy=stored, names=some)
        merge_into(ready, arena, found, stored, some)
        assert same(found, wanted, arena.names)


def test_other_dtypes_are_left_to_the_runner(make_source: Any) -> None:
    base = {"half": torch.ones(70, dtype=torch.float16), "wide": torch.ones(50, dtype=torch.float64)}
    task = {n: 2 * v for n, v in base.items()}
    source = StateDictSource(base, {"a": task})
    row = Row({n: source.shape(n) for n in source.names}, {n: source.dtype(n) for n in source.names})
    merge_into(prepare("task_arithmetic", source, {"scale": 0.5}), source, row)
    assert all(torch.equal(row.flat(n), torch.full_like(v, 1.5)) for n, v in base.items())


def test_a_value_that_is_no_number_is_named_and_the_rest_is_written() -> None:
    models: dict[str, dict[str, Tensor]] = {m: {n: torch.ones(9) for n in "uvw"} for m in ("base", "a")}
    models["a"]["v"][3] = float("nan")
    source = StateDictSource(models.pop("base"), models)
    row = Row({n: (9,) for n in "uvw"}, dict.fromkeys("uvw", torch.float32))
    with pytest.raises(CheckpointError, match=r"task a.*tensor v"):
        merge_into(prepare("task_arithmetic", source), source, row)
    assert torch.equal(row.flat("w"), torch.ones(9))


class Fresh(StateDictSource):
    """Makes the task's values anew every time, so that no address stays true."""

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        return super().task(index, name, start, stop).clone()


def test_values_that_do_not_stay_are_not_read_by_address() -> None:
    models = {m: {"w": torch.full((8,), v)} for m, v in (("base", 1.0), ("a", 3.0))}
    plain = StateDictSource(models["base"], {"a": models["a"]})
    found, fresh = addresses_of(plain), addresses_of(Fresh(models["base"], {"a": models["a"]}))
    assert found is not None and (found.kinds >= 0).all() and found.places[0, 1] == models["a"]["w"].data_ptr()
    assert fresh is not None and fresh.kinds[0].tolist() == [2, UNREADABLE]
    strided = StateDictSource({"w": torch.ones(16)[::2]}, {"a": {"w": torch.ones(8)}})
    table = addresses_of(strided)
    assert table is not None and table.kinds[0].tolist() == [UNREADABLE, 2]
