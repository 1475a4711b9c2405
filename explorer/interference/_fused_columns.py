"""Compiled counts of how often every single bit of a word is set, over many words: by adders, not by counters.

A full adder takes three words and gives, bit by bit, the sum (of weight 1) and the carry (of weight 2) in five steps of
logic. So the counts of all bits are kept as planes: plane k holds the bits of weight 2^k of every count. Eight words of
32 bits are added in one step, and each word costs about five, however many bits it has.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from explorer.compute.compiled import compiled

LANES, PLANES = 8, 32
"""Words added side by side; planes of the counts, enough for 2^32 groups of words."""
MEMBERS = 6
"""At most so many rows are joined by "and" before their bits are counted."""
_GROUP = 16


def _adder(builder, left, right, third):
    """Sum and carry of three vectors, bit by bit."""
    half = builder.xor(left, right)
    carry = builder.or_(builder.and_(left, right), builder.and_(half, third))
    return builder.xor(half, third), carry


def _fold(levels, members):
    """Code that adds 2^levels vectors to `levels` planes, and writes the carry out of the last plane.

    Each vector is the "and" of those at the same place behind `members` addresses.
    """
    from llvmlite import ir

    wide, vector = ir.IntType(64), ir.VectorType(ir.IntType(32), LANES)

    def codegen(_, builder, signature, given):
        *rows, planes, into = given

        def at(address, place):
            moved = builder.add(address, ir.Constant(wide, 4 * LANES * place))
            return builder.inttoptr(moved, vector.as_pointer())

        def load(place):
            total = builder.load(at(rows[0], place), align=4)
            for row in rows[1:]:
                total = builder.and_(total, builder.load(at(row, place), align=4))
            return total

        kept = [builder.load(at(planes, k), align=4) for k in range(levels)]

        def fold(level, place):
            if level == 0:
                return load(place)
            left = fold(level - 1, place)
            right = fold(level - 1, place + (1 << level - 1))
            kept[level - 1], carry = _adder(builder, left, right, kept[level - 1])
            return carry

        carry = fold(levels, 0)
        for k in range(levels):
            builder.store(kept[k], at(planes, k), align=4)
        builder.store(carry, at(into, 0), align=4)
        return ir.Constant(wide, 0)

    return codegen


def _folding(levels, members):
    if members == 1:

        @intrinsic
        def folded(typing, a, planes, into):
            return types.int64(*[types.int64] * 3), _fold(levels, 1)
    elif members == 2:

        @intrinsic
        def folded(typing, a, b, planes, into):
            return types.int64(*[types.int64] * 4), _fold(levels, 2)
    elif members == 3:

        @intrinsic
        def folded(typing, a, b, c, planes, into):
            return types.int64(*[types.int64] * 5), _fold(levels, 3)
    elif members == 4:

        @intrinsic
        def folded(typing, a, b, c, d, planes, into):
            return types.int64(*[types.int64] * 6), _fold(levels, 4)
    else:

        @intrinsic
        def folded(typing, a, b, c, d, e, f, planes, into):
            return types.int64(*[types.int64] * 8), _fold(levels, 6)

    return folded


_one, _two, _three, _four, _six = (_folding(4, members) for members in (1, 2, 3, 4, 6))
_eight_sums, _two_sums = _folding(3, 1), _folding(1, 1)


@compiled
def _sixteens(rows, first, count, planes, carries):
    """Adds `count` groups of 16 vectors from word `first` on to the lowest four planes; writes the carries of each."""
    a = rows[0] + 4 * first
    members, step = len(rows), 4 * LANES * _GROUP
    b = rows[1] + 4 * first if members > 1 else a
    c = rows[2] + 4 * first if members > 2 else b
    d = rows[3] + 4 * first if members > 3 else c
    e = rows[4] + 4 * first if members > 4 else d
    f = rows[5] + 4 * first if members > 5 else e
    for group in range(count):
        at = step * group
        into = carries + 4 * LANES * group
        if members == 1:
            _one(a + at, planes, into)
        elif members == 2:
            _two(a + at, b + at, planes, into)
        elif members == 3:
            _three(a + at, b + at, c + at, planes, into)
        elif members == 4:
            _four(a + at, b + at, c + at, d + at, planes, into)
        else:
            _six(a + at, b + at, c + at, d + at, e + at, f + at, planes, into)


@intrinsic
def _half_add(typing, carry, plane):
    """Adds one vector to a plane, both at addresses; the carry takes its place. Whether any bit was carried."""

    def codegen(_, builder, signature, given):
        from llvmlite import ir

        vector = ir.VectorType(ir.IntType(32), LANES)
        moving, kept = (builder.inttoptr(a, vector.as_pointer()) for a in given)
        left, right = builder.load(moving, align=4), builder.load(kept, align=4)
        both = builder.and_(left, right)
        builder.store(builder.xor(left, right), kept, align=4)
        builder.store(both, moving, align=4)
        whole = ir.IntType(32 * LANES)
        any_bit = builder.icmp_unsigned("!=", builder.bitcast(both, whole), ir.Constant(whole, 0))
        return builder.zext(any_bit, ir.IntType(64))

    return types.int64(types.int64, types.int64), codegen


@compiled
def _ripple(carry, planes, first):
    """Adds the vector at one address, of weight 2^first, to the planes at another."""
    for k in range(first, PLANES):
        if not _half_add(carry, planes + 4 * LANES * k):
            return


@compiled
def add_columns(rows, low, high, carries):
    """Adds one block to the planes: 128 vectors to `low` [PLANES, 8], the 32 that follow to `high`.

    `rows`: addresses of 1 … 6 rows of 1280 words that are joined by "and"; `carries` [8, 8] is written over.
    """
    place, lower, upper = carries.ctypes.data, low.ctypes.data, high.ctypes.data
    _sixteens(rows, 0, 8, lower, place)
    _eight_sums(place, lower + 4 * 4 * LANES, place)
    _ripple(place, lower, 7)
    _sixteens(rows, 8 * _GROUP * LANES, 2, upper, place)
    _two_sums(place, upper + 4 * 4 * LANES, place)
    _ripple(place, upper, 5)


@compiled
def drain(planes, counts):
    """Adds to `counts` [32] what the planes [PLANES, 8] hold of every bit, and empties them."""
    for k in range(PLANES):
        for lane in range(LANES):
            word = planes[k, lane]
            if word:
                for bit in range(32):
                    counts[bit] += np.int64((word >> np.uint32(bit)) & np.uint32(1)) << k
                planes[k, lane] = np.uint32(0)
