"""Counting levels with adders, and what follows from counts of sets of tasks."""

from __future__ import annotations

import numpy as np
import pytest

from explorer.compute import readiness
from explorer.interference._sets import Reached, Sets, chosen_places


@pytest.mark.parametrize("members", range(1, 7))
@pytest.mark.parametrize("blocks", [1, 2, 65])
def test_adders_count_every_bit(members: int, blocks: int) -> None:
    readiness.wait()
    from explorer.interference._fused_columns import LANES, PLANES, add_columns, drain

    low, high, carries = (np.zeros(s, np.uint32) for s in ((PLANES, LANES), (PLANES, LANES), (8, 8)))
    want = np.zeros((2, 32), np.int64)
    generator = np.random.default_rng(members)
    for block in range(blocks):
        rows = generator.integers(0, 2**32, (members, 1280), dtype=np.uint32)
        rows[:, ::3] = 0xFFFFFFFF if block % 2 else rows[:, ::3]
        add_columns(rows.ctypes.data + 4 * 1280 * np.arange(members), low, high, carries)
        both = np.bitwise_and.reduce(rows, 0)
        for place, part in enumerate((both[:1024], both[1024:])):
            want[place] += (part[:, None] >> np.arange(32, dtype=np.uint32) & 1).astype(np.int64).sum(0)
    for planes, expected in zip((low, high), want, strict=True):
        counts = np.zeros(32, np.int64)
        drain(planes, counts)
        assert counts.tolist() == expected.tolist() and not planes.any()


@pytest.mark.parametrize("count, chosen", [(1, ()), (4, ()), (3, ((0, 2),)), (6, (tuple(range(6)),)), (5, ()), (8, ())])
def test_ranks_follow_from_sets_or_are_counted(count: int, chosen: tuple) -> None:
    sets = Sets(count, chosen)
    levels = np.random.default_rng(count).integers(0, 41, (count, 500))
    reached = lambda row: [(row >= j).sum() for j in range(1, 41)]  # noqa: E731
    held = [reached(levels[list(s)].min(0)) for s in sets.places]
    ranks = [reached(row) for row in -np.sort(-levels, axis=0)]
    rows = Reached(sets, np.array(held if sets.complete else held + ranks), 2.0)
    assert sets.complete == (count <= 4 or len(chosen) > 0) and sets.rows == len(rows.counts)
    assert (rows.ranks() == 2 * np.array(ranks)).all() and (rows.of([(0,)])[0] == 2 * np.array(held[0])).all()


def test_pairs_and_chosen_sets_are_there_and_no_others() -> None:
    sets = Sets(7, ((1, 3, 5, 6),))
    assert len(sets.places) == 7 + 21 + 4 + 1 and (3, 5, 6) in sets.places and (0, 1, 3) not in sets.places
    tasks, sizes = sets.arrays
    assert [tuple(row[:n]) for row, n in zip(tasks.tolist(), sizes, strict=True)] == list(sets.places)
    assert chosen_places({"b": 0}, ["a", "b", "c"]) == [0, 2] and chosen_places(1, list("abcdefg")) is None
