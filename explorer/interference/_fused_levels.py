"""Compiled loops behind TALL masks: the level of every entry, and histograms of levels, minima and order statistics.

The same numbers as `_levels.mask_levels`, entry by entry. Levels are bytes, so 32 of them are compared in one step; a
histogram is had from how many reach 1, 2, … 40, which never waits for a counter in memory.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from explorer.compute.compiled import choose, compiled
from explorer.interference._fused_planes import BLOCK

SIDE = 41
"""Levels 0 … 40."""
_COARSE = np.float32(52429 / 2**20)
_FINE = np.float32(0.05 - 52429 / 2**20)
"""Two summands of 1/20: the first times a level is exact, so both products add up to level / 20 rounded once."""
_TINY = np.float32(np.finfo(np.float32).tiny)
_STEPS, _MOST, _LEAST = np.float32(20), np.float32(40), np.float32(0)
_ROUNDS = np.float32(3 << 22)
"""Added and taken away again, it rounds a small number to the nearest even integer."""


@compiled
def _levels(delta, together, into):
    """Levels of one task's block; `together` is the multi-task vector."""
    for i in range(BLOCK):
        size, rest = abs(delta[i]), abs(together[i] - delta[i])
        quotient = size / choose(rest > _TINY, rest, _TINY) * _STEPS
        nearest = choose(quotient < _MOST, quotient, _MOST) + _ROUNDS - _ROUNDS
        passes = size > (nearest * _COARSE + nearest * _FINE) * rest
        level = choose(passes, nearest, nearest - np.float32(1))
        into[i] = np.uint8(np.int32(choose(level > _LEAST, level, _LEAST)))


@intrinsic
def _order(typing, left, right, larger, smaller):
    """The larger and the smaller of 32 bytes at two addresses, written to two others."""
    from llvmlite import ir

    def codegen(_, builder, signature, given):
        vector = ir.VectorType(ir.IntType(8), 32)
        one, other, above, below = (builder.inttoptr(a, vector.as_pointer()) for a in given)
        first, second = builder.load(one, align=1), builder.load(other, align=1)
        less = builder.icmp_unsigned("<", first, second)
        builder.store(builder.select(less, second, first), above, align=1)
        builder.store(builder.select(less, first, second), below, align=1)
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(types.int64, types.int64, types.int64, types.int64), codegen


def _reaching(first):
    """Code that counts how many of BLOCK bytes are at least `first` … `first` + 4, 32 bytes at a time.

    Five counters and five limits leave room in the registers of any vector unit.
    """
    from llvmlite import ir

    def codegen(_, builder, signature, given):
        byte, wide = ir.IntType(8), ir.IntType(64)
        vector, shorts = ir.VectorType(byte, 32), ir.VectorType(ir.IntType(16), 32)
        totals = [ir.Constant(vector, [0] * 32) for _ in range(5)]
        for step in range(BLOCK // 32):
            place = builder.add(given[0], ir.Constant(wide, 32 * step))
            read = builder.load(builder.inttoptr(place, vector.as_pointer()), align=1)
            for k in range(5):
                reached = builder.icmp_signed(">", read, ir.Constant(vector, [first + k - 1] * 32))
                totals[k] = builder.sub(totals[k], builder.sext(reached, vector))
        kind = ir.FunctionType(ir.IntType(16), [shorts])
        add = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.add.v32i16")
        for k in range(5):
            total = builder.zext(builder.call(add, [builder.zext(totals[k], shorts)]), wide)
            into = builder.inttoptr(builder.add(given[1], ir.Constant(wide, 8 * (first + k - 1))), wide.as_pointer())
            builder.store(builder.add(builder.load(into), total), into)
        return ir.Constant(wide, 0)

    return codegen


def _counter(first):
    @intrinsic
    def reaching(typing, address, counts):
        return types.int64(types.int64, types.int64), _reaching(first)

    return reaching


_1, _6, _11, _16, _21, _26, _31, _36 = (_counter(first) for first in range(1, SIDE, 5))


@compiled
def tally(row, counts):
    """Adds to `counts` [40] how many levels of a block are at least 1 … 40."""
    address, into = row.ctypes.data, counts.ctypes.data
    _1(address, into)
    _6(address, into)
    _11(address, into)
    _16(address, into)
    _21(address, into)
    _26(address, into)
    _31(address, into)
    _36(address, into)


@compiled
def count_levels(values, together, tasks, rows, counts):
    """Adds to `counts` [R, 40] how many positions of a block reach level 1 … 40 in each row.

    `rows` [R + 1, BLOCK] gets the levels: of each task, of each pair the smaller one, then the k-th largest of each
    position; R = 2 T + T (T − 1) / 2, and one row more to be written over.
    """
    for t in range(tasks):
        _levels(values[t], together, rows[t])
    first = rows.ctypes.data
    place = first + BLOCK * tasks
    waste = first + BLOCK * (len(rows) - 1)
    for a in range(tasks):
        for b in range(a + 1, tasks):
            for at in range(0, BLOCK, 32):
                _order(first + BLOCK * a + at, first + BLOCK * b + at, waste + at, place + at)
            place += BLOCK
    for end in range(tasks - 1, 0, -1):
        for i in range(end):
            upper, lower = place + BLOCK * i, place + BLOCK * (i + 1)
            one = first if end == tasks - 1 and i == 0 else upper
            other = first + BLOCK * (i + 1) if end == tasks - 1 else lower
            for at in range(0, BLOCK, 32):
                _order(one + at, other + at, upper + at, lower + at)
    if tasks == 1:
        rows[1, :] = rows[0]
    for row in range(len(counts)):
        tally(rows[row], counts[row])
