"""The compiled loops of `brackets`: magnitudes of one task vector counted and collected block by block."""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import carray

from explorer.compute.compiled import BF16, choose, compiled, load, pointer, size_bits, widen

BLOCK = 2048
OPEN = np.int32(0x7FFFFFFF)
"""Above every magnitude."""
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
def _compare(sizes, count, low, high):
    """How many are above the bracket, at its upper and at its lower end."""
    above, at_high, at_low = _NO, _NO, _NO
    for i in range(count):
        size = sizes[i]
        above = np.int32(above + choose(size > high, _YES, _NO))
        at_high = np.int32(at_high + choose(size == high, _YES, _NO))
        at_low = np.int32(at_low + choose(size == low, _YES, _NO))
    return above, at_high, at_low


@compiled
def _subtract_and_compare(weights, values, count, low, high, into):
    """`_subtract` and `_compare` of the first bracket while the bits are in registers."""
    above, at_high, at_low = _NO, _NO, _NO
    for i in range(count):
        size = np.int32(size_bits(widen(values[i]) - widen(weights[i])))
        into[i] = size
        above = np.int32(above + choose(size > high, _YES, _NO))
        at_high = np.int32(at_high + choose(size == high, _YES, _NO))
        at_low = np.int32(at_low + choose(size == low, _YES, _NO))
    return above, at_high, at_low


@compiled
def _mark(sizes, count, low, high, other_low, other_high, first, flags):
    """Flags what lies strictly inside one of two brackets; earlier flags stay, unless these are the first."""
    if first:
        for i in range(count):
            one = (sizes[i] > low) & (sizes[i] < high)
            flags[i] = np.uint8(one | ((sizes[i] > other_low) & (sizes[i] < other_high)))
    else:
        for i in range(count):
            one = (sizes[i] > low) & (sizes[i] < high)
            flags[i] = np.uint8(flags[i] | np.uint8(one | ((sizes[i] > other_low) & (sizes[i] < other_high))))


@compiled
def _collect(sizes, count, flags, eights, some, into, found):
    """Appends what is flagged; returns the new length. First which eights hold any: no branch to be guessed wrong."""
    held = 0
    for eight in range((count + 7) // 8):
        some[held] = eight
        held += eights[eight] != 0
    for place in range(held):
        first = 8 * some[place]
        for i in range(first, first + 8):
            into[found] = sizes[i]
            found += flags[i]
    return found


@compiled
def tally(values, low, high, shift, classes):
    """Counts values strictly between low and high by (value − low) >> shift, and the others in the last class."""
    others = np.int32(len(classes) - 1)
    for i in range(len(values)):
        value = values[i]
        inside = (value > low) & (value < high)
        classes[choose(inside, np.int32((value - low) >> shift), others)] += 1


@compiled
def within(values, first, last, into, found):
    """Appends the values of first … last; returns the new length. `into` has room for one more."""
    for i in range(len(values)):
        into[found] = values[i]
        found += (values[i] >= first) & (values[i] <= last)
    return found


@compiled
def scan(base_kind, base, kind, task, count, lows, highs, counts, into):
    """Adds to `counts` [R, 3] for each of R brackets, and collects what lies inside any of them.

    A bracket without an upper end (`OPEN`) may be left uncounted: nothing lies above it. Returns how many were
    collected; −1, with nothing complete, when `into` has too little room.
    """
    spare, more = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    sizes, flags = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.uint8)
    eights, some = flags.view(np.uint64), np.empty(BLOCK // 8 + 1, np.int32)
    halves = base_kind == BF16 and kind == BF16
    found, any_inside = 0, False
    for r in range(len(lows)):
        any_inside |= highs[r] - lows[r] > 1
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        if n < BLOCK:
            flags[:] = np.uint8(0)
        if not halves:
            _sizes(base_kind, base, kind, task, start, n, spare, more, sizes)
        for r in range(len(lows)):
            low, high = lows[r], highs[r]
            if halves and r == 0:
                weights = carray(pointer(base + 2 * start), n, np.uint16)
                values = carray(pointer(task + 2 * start), n, np.uint16)
                above, at_high, at_low = _subtract_and_compare(weights, values, n, low, high, sizes)
            elif high == OPEN:
                continue
            else:
                above, at_high, at_low = _compare(sizes, n, low, high)
            counts[r, 0] += above
            counts[r, 1] += at_high
            counts[r, 2] += at_low
        if any_inside:
            for r in range(0, len(lows), 2):
                other = min(r + 1, len(lows) - 1)
                _mark(sizes, n, lows[r], highs[r], lows[other], highs[other], r == 0, flags)
            if found + n + 8 > len(into):
                return -1
            found = _collect(sizes, n, flags, eights, some, into, found)
    return found
