"""The compiled loops of `brackets`: magnitudes of one task vector counted and collected block by block."""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import carray

from explorer.compute.compiled import BF16, choose, compiled, load, pointer, size_bits, widen

BLOCK = 2048
_YES, _NO = np.int32(1), np.int32(0)


@compiled
def _subtract(weights, values, count, into):
    """Bits of |τ|; both sources hold bfloat16 bits or float32."""
    for i in range(count):
        into[i] = np.int32(size_bits(widen(values[i]) - widen(weights[i])))


@compiled
def _sizes(base_kind, base, kind, task, start, count, spare, more, into):
    """Bits of |τ| of one block, int32; they order like the magnitudes."""
    if base_kind == BF16 and kind == BF16:
        halves = carray(pointer(base + 2 * start), count, np.uint16)
        _subtract(halves, carray(pointer(task + 2 * start), count, np.uint16), count, into)
    else:
        load(base_kind, base, start, count, spare)
        load(kind, task, start, count, more)
        _subtract(spare, more, count, into)


@compiled
def sample(base_kind, base, kind, task, count, into):
    """|τ| of `count` elements, as bits."""
    _sizes(base_kind, base, kind, task, 0, count, np.empty(count, np.float32), np.empty(count, np.float32), into)


@compiled
def _compare(sizes, count, low, high, flags):
    """How many are above the bracket, at its upper and at its lower end; flags are set for those inside."""
    above, at_high, at_low = np.int32(0), np.int32(0), np.int32(0)
    for i in range(count):
        size = sizes[i]
        above = np.int32(above + choose(size > high, _YES, _NO))
        at_high = np.int32(at_high + choose(size == high, _YES, _NO))
        at_low = np.int32(at_low + choose(size == low, _YES, _NO))
    for i in range(count):
        flags[i] = np.uint8(flags[i] | np.uint8((sizes[i] > low) & (sizes[i] < high)))
    return above, at_high, at_low


@compiled
def scan(base_kind, base, kind, task, count, lows, highs, counts, into):
    """Adds to `counts` [R, 3] for each of R brackets, and collects what lies inside any of them.

    Returns how many were collected; −1, with nothing complete, when `into` has too little room.
    """
    spare, more = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    sizes, flags = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.uint8)
    eights = flags.view(np.uint64)
    found = 0
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        _sizes(base_kind, base, kind, task, start, n, spare, more, sizes)
        flags[:] = np.uint8(0)
        for r in range(len(lows)):
            above, at_high, at_low = _compare(sizes, n, lows[r], highs[r], flags)
            counts[r, 0] += above
            counts[r, 1] += at_high
            counts[r, 2] += at_low
        for eight in range((n + 7) // 8):
            if eights[eight]:
                if found + 8 > len(into):
                    return -1
                for i in range(8 * eight, 8 * eight + 8):
                    into[found] = sizes[i]
                    found += flags[i]
    return found
