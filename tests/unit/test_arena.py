"""The resident arena: the same bits, one buffer per dtype, rows whose views share their memory."""

from __future__ import annotations

import pytest
import torch

from explorer.compute.arena import Arena, Row, arena_bytes
from explorer.compute.source import StateDictSource, chunks, deltas


@pytest.fixture
def source() -> StateDictSource:
    generator = torch.Generator().manual_seed(1)
    base = {
        "a": torch.randn(3, 5, generator=generator),
        "b": torch.randn(7, generator=generator).half(),
        "c": torch.tensor(-0.0),
        "d": torch.zeros(0, 4),
        "e": torch.randn(2, 2, generator=generator).bfloat16(),
    }
    tuned = {n: (v.float() + 0.1).to(v.dtype) for n, v in base.items()}
    wider = {n: v.float() for n, v in tuned.items()}  # this task is stored wider than the base
    return StateDictSource(base, {"x": tuned, "y": wider})


def test_same_protocol_same_bits(source: StateDictSource) -> None:
    arena = Arena(source)
    assert (arena.tasks, arena.names, arena.digest) == (source.tasks, source.names, source.digest)
    for name in source.names:
        assert (arena.shape(name), arena.dtype(name)) == (source.shape(name), source.dtype(name))
        for left, right in [(arena.base(name, 0, 99), source.base(name, 0, 99))] + [
            (arena.task(t, name, 1, 3), source.task(t, name, 1, 3)) for t in range(2)
        ]:
            assert left.dtype == right.dtype
            assert torch.equal(left, right)
    assert torch.signbit(arena.base("c", 0, 1)).all()
    for chunk in chunks(source, 4):
        assert torch.equal(deltas(arena, chunk), deltas(source, chunk))


def test_the_arena_holds_copies(source: StateDictSource) -> None:
    arena = Arena(source)
    before = arena.base("a", 0, 15).clone()
    source.base("a", 0, 15).zero_()
    assert torch.equal(arena.base("a", 0, 15), before)


def test_one_buffer_per_dtype(source: StateDictSource) -> None:
    arena = Arena(source)
    assert set(arena._base._buffers) == {torch.float32, torch.float16, torch.bfloat16}
    assert set(arena._tasks[1]._buffers) == {torch.float32}


def test_merged_row_starts_as_the_base_and_its_views_share_memory(source: StateDictSource) -> None:
    row = Arena(source).merged_row(torch.float32)
    views = row.views()
    assert {n: tuple(v.shape) for n, v in views.items()} == {n: source.shape(n) for n in source.names}
    assert torch.equal(views["b"], source.base("b", 0, 7).float())
    row.flat("a").fill_(2)
    assert views["a"].eq(2).all()
    views["a"][1, 1] = 5
    assert row.flat("a")[6] == 5


def test_merged_row_keeps_stored_dtypes_when_none_is_asked_for(source: StateDictSource) -> None:
    row = Arena(source).merged_row()
    assert {n: row.dtype(n) for n in source.names} == {n: source.dtype(n) for n in source.names}


def test_bytes_are_accounted_for(source: StateDictSource) -> None:
    arena = Arena(source)
    values = (15 + 1) * 4 + 7 * 2 + 4 * 2  # base
    values += values + 27 * 4  # task x like the base, task y all float32
    assert values <= arena.resident_bytes <= values + 3 * 64 * 4
    assert arena_bytes(source) == values
    assert arena_bytes(source, [torch.float32, None]) == values + 27 * 4 + 86
    assert arena.merged_row(torch.float32).resident_bytes <= 27 * 4 + 5 * 64


def test_tensors_begin_on_cache_lines() -> None:
    row = Row({"a": (3,), "b": (5,), "c": ()}, {n: torch.float16 for n in "abc"})
    first = row.flat("a").data_ptr()
    assert [(row.flat(n).data_ptr() - first) % 64 for n in "abc"] == [0, 0, 0]
    assert len({row.flat(n).data_ptr() for n in "abc"}) == 3
