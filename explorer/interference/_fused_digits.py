"""Compiled counting of magnitudes by their leading and their following bits, for exact k-th largest values.

The bits of |τ| order like |τ|: 16 leading ones (65,536 counters) say which bucket a k-th value lies in, the 15 that
follow, counted inside that bucket, which value it is. Two passes find any number of values.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np

from explorer.compute.compiled import compiled, load, size_bits
from explorer.interference._fused_kernels import BLOCK, _delta

LEADING, FOLLOWING = 1 << 16, 1 << 15


@compiled
def count_leading(base, base_kind, tasks, kinds, direct, count, work, counts):
    """Adds to `counts` [T, 65536] every task's magnitudes by their leading bits."""
    weights, nothing, spare, values = work
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        load(base_kind, base, start, n, weights)
        for t in range(len(kinds)):
            _delta(kinds[t], tasks[t], direct[t], start, n, weights, nothing, spare, values)
            counted = counts[t]
            for i in range(n):
                counted[np.uint32(size_bits(values[i]) >> np.uint32(15))] += np.uint32(1)


@compiled
def count_following(base, base_kind, tasks, kinds, direct, count, work, places, counts):
    """Adds to `counts` [T, B, 32768] by following bits what lies in the bucket whose place is not negative."""
    weights, nothing, spare, values = work
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        load(base_kind, base, start, n, weights)
        for t in range(len(kinds)):
            _delta(kinds[t], tasks[t], direct[t], start, n, weights, nothing, spare, values)
            where = places[t]
            for i in range(n):
                bits = size_bits(values[i])
                place = where[np.uint32(bits >> np.uint32(15))]
                if place >= 0:
                    counts[t, place, np.uint32(bits & np.uint32(FOLLOWING - 1))] += np.uint32(1)
