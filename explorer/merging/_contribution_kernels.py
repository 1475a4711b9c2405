"""The compiled loop behind contributions: what a merged row holds of every task, in one read of all of them.

Sums are float64, each product too, so tiny changes count and no sign is lost to underflow.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import carray

from explorer.compute.compiled import BF16, F32, choose, compiled, load, pointer, regrouped, store, widen
from explorer.merging._fused_kernels import BLOCK

DOT, DROPPED, OPPOSED, SUMS = range(4)
"""Columns of what is found per task: Σ m·τ, and Σ τ² where m is 0 and where it has the other sign."""


@compiled
def _width(kind):
    return 4 if kind == F32 else 2


@regrouped
def _square(change, count):
    total = 0.0
    for i in range(count):
        total += np.float64(change[i]) * np.float64(change[i])
    return total


@regrouped
def _compare(values, base, change, count):
    """Σ m·τ, Σ τ² where m = 0, Σ τ² where m·τ < 0; τ = values − base. `values` holds bfloat16 bits or float32."""
    dot, dropped, opposed = 0.0, 0.0, 0.0
    for i in range(count):
        delta = np.float64(widen(values[i]) - base[i])
        product, square = delta * np.float64(change[i]), delta * delta
        dot += product
        dropped += choose(change[i] == 0, square, 0.0)
        opposed += choose(product < 0, square, 0.0)
    return dot, dropped, opposed


@regrouped
def _dot(one, other, count):
    total = 0.0
    for i in range(count):
        total += np.float64(one[i]) * np.float64(other[i])
    return total


@compiled
def _of_task(kind, address, count, spare, base, change):
    if kind == BF16:
        return _compare(carray(pointer(address), count, np.uint16), base, change, count)
    load(kind, address, 0, count, spare)
    return _compare(spare, base, change, count)


@compiled
def _update(kind, address, count, kept, change):
    """m of a block: the stored weights minus the base as it is stored."""
    load(kind, address, 0, count, change)
    for i in range(count):
        change[i] -= kept[i]


@compiled
def contribution_sums(first, last, segments, places, kinds, merged, merged_kinds, squares, found):
    """Sums of the segments first … last − 1, each a piece [name, start, count] of a tensor at known addresses.

    places, kinds [N, 1 + T] of base and tasks; merged [N, R], merged_kinds [N] of the merged rows: one that every task
    is compared with, or one per task. Fills squares [S, R] and found [S, T, SUMS].
    """
    rows, tasks = merged.shape[1], places.shape[1] - 1
    base, kept, change = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    spare, nothing, bits = np.empty(BLOCK, np.float32), np.zeros(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for s in range(first, last):
        name, begin, size = segments[s, 0], segments[s, 1], segments[s, 2]
        kind = merged_kinds[name]
        for start in range(begin, begin + size, BLOCK):
            n = min(BLOCK, begin + size - start)
            load(kinds[name, 0], places[name, 0], start, n, base)
            store(kind, bits.ctypes.data, 0, n, base, nothing)
            load(kind, bits.ctypes.data, 0, n, kept)
            for t in range(tasks):
                if t < rows:
                    _update(kind, merged[name, t] + start * _width(kind), n, kept, change)
                    squares[s, t] += _square(change, n)
                own = kinds[name, 1 + t]
                at = places[name, 1 + t] + start * _width(own)
                dot, dropped, opposed = _of_task(own, at, n, spare, base, change)
                found[s, t, DOT] += dot
                found[s, t, DROPPED] += dropped
                found[s, t, OPPOSED] += opposed


@compiled
def _task_vectors(name, begin, count, places, kinds, base, deltas, total):
    """τ [T, n] of a block, and their sum."""
    load(kinds[name, 0], places[name, 0], begin, count, base)
    total[:count] = 0
    for t in range(len(deltas)):
        load(kinds[name, 1 + t], places[name, 1 + t], begin, count, deltas[t])
        for i in range(count):
            deltas[t, i] -= base[i]
            total[i] += deltas[t, i]


@compiled
def reference_sums(first, last, segments, places, kinds, gram, lost):
    """For the segments first … last − 1: gram [S, T, T], the upper half of all ⟨τ_s, τ_t⟩; and lost [S, T, 2], the
    squared norms that the plain average drops and out-votes.
    """
    tasks = places.shape[1] - 1
    base, nothing, total = np.empty(BLOCK, np.float32), np.zeros(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    deltas = np.empty((tasks, BLOCK), np.float32)
    for s in range(first, last):
        name, begin, size = segments[s, 0], segments[s, 1], segments[s, 2]
        for start in range(begin, begin + size, BLOCK):
            n = min(BLOCK, begin + size - start)
            _task_vectors(name, start, n, places, kinds, base, deltas, total)
            for t in range(tasks):
                for u in range(t, tasks):
                    gram[s, t, u] += _dot(deltas[t], deltas[u], n)
                _, dropped, opposed = _compare(deltas[t], nothing, total, n)
                lost[s, t, 0] += dropped
                lost[s, t, 1] += opposed
