"""Compiled sums of |τ| before and after sparsifying, for mergekit's rescaling by the L1 norm of a tensor."""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np

from explorer.compute.compiled import choose, compiled, load, regrouped
from explorer.merging._fused_kernels import BLOCK
from explorer.merging._fused_rows import _changes, _drawn, _rank, scratch_for

ZERO = np.float32(0)


@compiled
def _trimmed(delta, count, low, high, kept):
    """Values between low and high, 0 for the others; how many are at least low, and how many at most high."""
    above, below = np.uint32(0), np.uint32(0)
    for i in range(count):
        size = abs(delta[i])
        kept[i] = choose(size < low, ZERO, choose(size > high, ZERO, delta[i]))
        above = np.uint32(above + choose(size >= low, np.uint32(1), np.uint32(0)))
        below = np.uint32(below + choose(size <= high, np.uint32(1), np.uint32(0)))
    return np.int64(above), np.int64(below)


@compiled
def _kept(delta, count, begin, seed_high, limit, kept):
    """Values whose draw (the numbers of the merge itself) is below the limit, 0 for the others."""
    for i in range(count):
        x = np.uint32(begin + np.uint32(i))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ seed_high)
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x2C1B3C6D))
        x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
        kept[i] = choose(np.int32(x) < limit, delta[i], ZERO)


@regrouped
def _size(values, count):
    total = 0.0
    for i in range(count):
        total += np.float64(abs(values[i]))
    return total


@compiled
def sums(base, base_kind, task, kind, count, position, low, high, draws, seed_low, seed_high, limit):
    """Σ|τ| of `count` elements, and Σ|τ| of what is left of them: by draws, or between low and high.

    Then how many are at least low, and how many at most high (0 with draws).
    """
    weights, spare = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    delta, kept = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    before, after, above, below = 0.0, 0.0, 0, 0
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        load(base_kind, base, start, n, weights)
        load(kind, task, start, n, spare)
        _changes(spare, weights, n, delta)
        if draws:
            _kept(delta, n, np.uint32(position + start + seed_low), seed_high, limit, kept)
        else:
            more = _trimmed(delta, n, low, high, kept)
            above, below = above + more[0], below + more[1]
        before += _size(delta, n)
        after += _size(kept, n)
    return before, after, above, below


@compiled
def ranked_sums(table, base, base_kind, task, kind, count, position, seed_low, seed_high):
    """As `sums`, for chances that go with the rank within a row: `table` [columns], smallest first; whole rows."""
    columns = len(table)
    block = columns * max(1, BLOCK // columns)
    weights, spare = np.empty(block, np.float32), np.empty(block, np.float32)
    delta, chances = np.empty(block, np.float32), np.empty(block, np.float32)
    values = np.empty((1, block), np.float32)
    scratch = scratch_for(columns)
    before, after = 0.0, 0.0
    for start in range(0, count, block):
        n = min(block, count - start)
        load(base_kind, base, start, n, weights)
        load(kind, task, start, n, spare)
        _changes(spare, weights, n, delta)
        _rank(delta, n, table, scratch, chances)
        _drawn(delta, chances, n, values, 0, np.uint32(position + start + seed_low), seed_high, False)
        before += _size(delta, n)
        after += _size(values[0], n)
    return before, after, 0, 0
