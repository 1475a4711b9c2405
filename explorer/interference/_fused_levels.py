"""Compiled loops behind TALL masks: the level of every entry, and how many positions reach each level.

The same numbers as `_levels.mask_levels`, entry by entry. A level l is kept as a word whose l lowest bits are set: then
the smallest level of several tasks is the "and" of their words, the larger of two the "or", and how many positions
reach level j is how often bit j is set, which `_fused_columns` counts for all levels at once.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from explorer.compute.compiled import choose, compiled
from explorer.interference._fused_columns import add_columns, drain
from explorer.interference._fused_planes import BLOCK

WORDS = BLOCK + BLOCK // 4
"""Words of a block: levels 1 … 32 of every position, then levels 33 … 40 of four positions in each word."""
_LOW, _HIGH = 32, 8
_COARSE = np.float32(52429 / 2**20)
_FINE = np.float32(0.05 - 52429 / 2**20)
"""Two summands of 1/20: the first times a level is exact, so both products add up to level / 20 rounded once."""
_TINY = np.float32(np.finfo(np.float32).tiny)
_STEPS, _MOST, _LEAST = np.float32(20), np.float32(40), np.float32(0)
_ROUNDS = np.float32(3 << 22)
"""Added and taken away again, it rounds a small number to the nearest even integer."""


@intrinsic
def _lowest(typing, count):
    """A word with its `count` lowest bits set, 0 … 32."""

    def codegen(_, builder, signature, given):
        from llvmlite import ir

        word = ir.IntType(32)
        part = builder.and_(given[0], ir.Constant(word, 31))
        few = builder.sub(builder.shl(ir.Constant(word, 1), part), ir.Constant(word, 1))
        every = builder.icmp_signed(">", given[0], ir.Constant(word, 31))
        return builder.select(every, ir.Constant(word, 0xFFFFFFFF), few)

    return types.uint32(types.int32), codegen


@compiled
def _levels(delta, together, into):
    """Levels of one task's block; `together` is the multi-task vector."""
    for i in range(BLOCK):
        size, rest = abs(delta[i]), abs(together[i] - delta[i])
        quotient = size / choose(rest > _TINY, rest, _TINY) * _STEPS
        nearest = choose(quotient < _MOST, quotient, _MOST) + _ROUNDS - _ROUNDS
        passes = size > (nearest * _COARSE + nearest * _FINE) * rest
        level = choose(passes, nearest, nearest - np.float32(1))
        into[i] = np.int32(choose(level > _LEAST, level, _LEAST))


@compiled
def _words(levels, into):
    """Levels [BLOCK] as words [WORDS]."""
    for i in range(BLOCK):
        into[i] = _lowest(levels[i])
    quarter, low = BLOCK // 4, np.int32(_LOW)
    for i in range(quarter):
        word = _lowest(np.int32(max(levels[i] - low, np.int32(0))))
        word |= np.uint32(_lowest(np.int32(max(levels[i + quarter] - low, np.int32(0)))) << np.uint32(8))
        word |= np.uint32(_lowest(np.int32(max(levels[i + 2 * quarter] - low, np.int32(0)))) << np.uint32(16))
        word |= np.uint32(_lowest(np.int32(max(levels[i + 3 * quarter] - low, np.int32(0)))) << np.uint32(24))
        into[BLOCK + i] = word


@compiled
def _order(larger, smaller):
    """Two rows of words: at every position the larger level goes to the first, the smaller to the second."""
    for i in range(WORDS):
        both = larger[i] & smaller[i]
        larger[i] |= smaller[i]
        smaller[i] = both


@compiled
def count_levels(values, together, tasks, sets, sizes, room):
    """Adds a block to the planes of every row: of each set of tasks the smallest level, then the k-th largest ones.

    `sets` [S, 6] and `sizes` [S]: which tasks. `room`: `levels` [BLOCK], `words` [T, WORDS], `planes`
    [R, 2, PLANES, 8] and `carries` [8, 8]; ranks are counted where there are more rows than sets.
    """
    levels, words, planes, carries = room
    for t in range(tasks):
        _levels(values[t], together, levels)
        _words(levels, words[t])
    first, step = words.ctypes.data, 4 * WORDS
    rows = np.empty(sets.shape[1], np.int64)
    for s in range(len(sizes)):
        for m in range(sizes[s]):
            rows[m] = first + step * sets[s, m]
        add_columns(rows[: sizes[s]], planes[s, 0], planes[s, 1], carries)
    if len(planes) == len(sizes):
        return
    for end in range(tasks - 1, 0, -1):
        for i in range(end):
            _order(words[i], words[i + 1])
    for t in range(tasks):
        rows[0] = first + step * t
        add_columns(rows[:1], planes[len(sizes) + t, 0], planes[len(sizes) + t, 1], carries)


@compiled
def take_levels(room, counts):
    """Adds to `counts` [R, 40] how many positions reached level 1 … 40 in each row, and empties the planes."""
    planes = room[2]
    bits = np.empty(32, np.int64)
    for row in range(len(counts)):
        bits[:] = 0
        drain(planes[row, 0], bits)
        counts[row, :_LOW] += bits
        bits[:] = 0
        drain(planes[row, 1], bits)
        for k in range(_HIGH):
            counts[row, _LOW + k] += bits[k] + bits[8 + k] + bits[16 + k] + bits[24 + k]
