"""Compiled loops over bit planes: 64 positions of a task vector in one word, so that counting takes a few steps.

A plane says for every position whether something holds of a task: its weight changed, went down, or is among the
largest entries kept at a density. Counts of pairs and votes are counts of ones.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from explorer.compute.compiled import compiled

BLOCK = 1024
"""Elements at a time: four tasks of it in float32 are 16 KiB. Sums are added block by block."""
WORDS = BLOCK // 64


def _plane(compare):
    """Code for 64 comparisons in eights, which every vector unit turns into a mask of bits."""
    from llvmlite import ir

    def codegen(_, builder, signature, given):
        word, vector = ir.IntType(64), ir.VectorType(ir.IntType(32), 8)
        total = ir.Constant(word, 0)
        for eight in range(8):
            place = builder.add(given[0], ir.Constant(word, 32 * eight))
            read = builder.load(builder.inttoptr(place, vector.as_pointer()), align=4)
            mask = builder.bitcast(compare(builder, ir, vector, read, given), ir.IntType(8))
            total = builder.or_(total, builder.shl(builder.zext(mask, word), ir.Constant(word, 8 * eight)))
        return total

    return codegen


def _splat(builder, ir, vector, value):
    filled = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
    return builder.shuffle_vector(filled, ir.Constant(vector, ir.Undefined), zeros)


@intrinsic
def larger(typing, address, limit):
    """A word whose bits say which of the 64 float32 at this address have magnitude bits above `limit`."""

    def compare(builder, ir, vector, read, given):
        size = builder.and_(read, ir.Constant(vector, [0x7FFFFFFF] * 8))
        return builder.icmp_signed(">", size, _splat(builder, ir, vector, given[1]))

    return types.uint64(types.int64, types.int32), _plane(compare)


@intrinsic
def negative(typing, address):
    """A word whose bits say which of the 64 float32 at this address have their sign bit set."""

    def compare(builder, ir, vector, read, given):
        return builder.icmp_signed("<", read, ir.Constant(vector, [0] * 8))

    return types.uint64(types.int64), _plane(compare)


@intrinsic
def ones(typing, word):
    """How many bits of a word are set."""
    return types.uint64(types.uint64), lambda _, builder, __, given: builder.ctpop(given[0])


@compiled
def planes_of(values, limit, into):
    """The plane of one task's block for magnitudes above `limit`."""
    address = values.ctypes.data
    for w in range(WORDS):
        into[w] = larger(address + 256 * w, limit)


@compiled
def signs_of(values, into):
    """The plane of one task's block for entries below 0 (and −0)."""
    address = values.ctypes.data
    for w in range(WORDS):
        into[w] = negative(address + 256 * w)


@compiled
def count_ones(plane):
    total = np.uint64(0)
    for w in range(WORDS):
        total += ones(plane[w])
    return np.int64(total)


@compiled
def count_pair(left, right, left_down, right_down):
    """Positions in both planes, and those of them with opposite signs."""
    both, opposite = np.uint64(0), np.uint64(0)
    for w in range(WORDS):
        shared = left[w] & right[w]
        both += ones(shared)
        opposite += ones(shared & (left_down[w] ^ right_down[w]))
    return np.int64(both), np.int64(opposite)


@compiled
def _add_vote(counters, seen, plane, down, side):
    """One more task's votes: counters[k] is the plane of positions with exactly k votes for a side so far."""
    for k in range(seen, -1, -1):
        here, above = counters[k], counters[k + 1]
        for w in range(WORDS):
            voted = plane[w] & (down[w] ^ side)
            above[w] |= here[w] & voted
            here[w] &= ~voted


@compiled
def count_votes(kept, down, tasks, ups, downs, votes):
    """Adds to `votes` [T + 1, T + 1] how many positions have p tasks up and q tasks down, for every p and q."""
    for counters, side in ((ups, ~np.uint64(0)), (downs, np.uint64(0))):
        counters[:] = np.uint64(0)
        counters[0][:] = ~np.uint64(0)
        for t in range(tasks):
            _add_vote(counters, t, kept[t], down[t], side)
    for p in range(tasks + 1):
        for q in range(tasks + 1 - p):
            if p + q:
                total = np.uint64(0)
                for w in range(WORDS):
                    total += ones(ups[p, w] & downs[q, w])
                votes[p, q] += np.int64(total)
