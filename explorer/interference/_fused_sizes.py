"""Compiled sums of one block: squares, dot products, sizes, and histograms of sizes.

A histogram's bin is a pair of float64 numbers, how many entries and the sum of their squares, so that an entry costs
one addition of two numbers. Neighbours go to different copies of a bin, so equal ones need not wait for each other.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from explorer.compute.compiled import compiled, regrouped, size_bits
from explorer.interference._fused_planes import BLOCK

BINS, COPIES = 512, 8
_SHIFT = np.uint32(20)
_FIRST = np.int32((127 - 48) * 8)
"""Bits of a float32 that are left of its place, and the place of the first bin: as in `_magnitudes`."""


@regrouped
def squares(values):
    total = 0.0
    for i in range(BLOCK):
        total += np.float64(values[i]) * np.float64(values[i])
    return total


@regrouped
def dots(left, right):
    """Σ a b and Σ a² b²; a product of float32 is exact in float64."""
    dot, square = 0.0, 0.0
    for i in range(BLOCK):
        product = np.float64(left[i]) * np.float64(right[i])
        dot += product
        square += product * product
    return dot, square


@regrouped
def size_dots(left, right):
    """Σ a b, Σ a² b² and Σ |a b|."""
    dot, square, size = 0.0, 0.0, 0.0
    for i in range(BLOCK):
        product = np.float64(left[i]) * np.float64(right[i])
        dot += product
        square += product * product
        size += abs(product)
    return dot, square, size


@regrouped
def sizes(totals):
    total = 0.0
    for i in range(BLOCK):
        total += abs(np.float64(totals[i]))
    return total


@intrinsic
def _bump(typing, place, square):
    """Adds (1, square) to the two float64 numbers at an address."""

    def codegen(_, builder, signature, given):
        from llvmlite import ir

        pair = ir.VectorType(ir.DoubleType(), 2)
        into = builder.inttoptr(given[0], pair.as_pointer())
        more = builder.insert_element(ir.Constant(pair, [1.0, 0.0]), given[1], ir.Constant(ir.IntType(32), 1))
        builder.store(builder.fadd(builder.load(into, align=8), more), into, align=8)
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(types.int64, types.float64), codegen


@compiled
def add_histogram(values, count, places, squared, table):
    """Adds a block's sizes to `table` [BINS, COPIES, 2]: number and sum of squares per bin, zeros in bin 0.

    `places` [BLOCK] int32 and `squared` [BLOCK] float64 are written over.
    """
    last = np.int32(BINS - 1)
    for i in range(BLOCK):
        place = np.int32(np.int32(size_bits(values[i]) >> _SHIFT) - _FIRST)
        places[i] = np.int32(min(max(place, np.int32(0)), last)) * np.int32(16 * COPIES)
        squared[i] = np.float64(values[i]) * np.float64(values[i])
    first = table.ctypes.data
    whole = count - count % COPIES
    for i in range(0, whole, COPIES):
        for copy in range(COPIES):
            _bump(first + 16 * copy + np.int64(places[i + copy]), squared[i + copy])
    for i in range(whole, count):
        _bump(first + np.int64(places[i]), squared[i])


@compiled
def take_histogram(table, changed, into):
    """Moves to `into` [BINS, 2] what the copies hold; what was not among the `changed` entries were zeros in bin 0."""
    total = 0.0
    for place in range(BINS):
        for copy in range(COPIES):
            into[place, 0] += table[place, copy, 0]
            into[place, 1] += table[place, copy, 1]
            table[place, copy, 0] = 0.0
            table[place, copy, 1] = 0.0
        total += into[place, 0]
    into[0, 0] -= total - changed
