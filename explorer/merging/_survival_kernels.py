"""Compiled sums of what rounding leaves of a chunk: everything is read once, block by block.

The formula is that of `_survival`; sums of a block are float32 in a fixed order of eight lanes, sums of blocks float64.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np

from explorer.compute.compiled import F32, choose, compiled, load, regrouped, store

BLOCK = 1024
_ZERO, _ONE, _NONE = np.float32(0), np.float32(1), np.uint32(0)


@regrouped
def _sums(values, stored, base, kept, count, total):
    """Σ v², Σ (v' − v)², entries with v ≠ 0, of these with v' = 0, of one block, added to `total` [4]."""
    squares, lost_squares = _ZERO, _ZERO
    changed, remaining = np.uint32(0), np.uint32(0)
    for i in range(count):
        change = values[i] - base[i]
        left = stored[i] - kept[i]
        lost = left - change
        squares += change * change
        lost_squares += lost * lost
        changed += choose(change != _ZERO, np.uint32(1), _NONE)
        remaining += choose(left != _ZERO, np.uint32(1), _NONE)
    total[0] += np.float64(squares)
    total[1] += np.float64(lost_squares)
    total[2] += np.float64(changed)
    total[3] += np.float64(changed) - np.float64(remaining)


@compiled
def _as_stored(kind, values, count, zeros, room, into):
    """`values` rounded to a dtype and widened again; returns the bits of the largest before."""
    largest = store(kind, room.ctypes.data, 0, count, values, zeros)
    load(kind, room.ctypes.data, 0, count, into)
    return largest


@compiled
def _alone(task_kind, task, is_delta, start, count, base, scale, spare, into):
    """θ_0 + scale · τ_t of one task's block."""
    load(task_kind, task, start, count, spare)
    if is_delta:
        for i in range(count):
            into[i] = base[i] + scale * spare[i]
    else:
        for i in range(count):
            into[i] = base[i] + scale * (spare[i] - base[i])


@compiled
def survival_sums(base, base_kind, tasks, kinds, is_delta, scales, rows, stored_kind, count, total):
    """Adds the sums of a chunk to `total` [R + T, 4]: of R merged rows (float32 addresses), then of each task alone.

    Returns the bits of the largest |weight| of the merged rows.
    """
    weights, kept, values = (np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32))
    stored, spare, zeros = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.zeros(BLOCK, np.float32)
    room = np.empty(BLOCK, np.float32)
    largest = np.uint32(0)
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        load(base_kind, base, start, n, weights)
        _as_stored(stored_kind, weights, n, zeros, room, kept)
        for row in range(len(rows)):
            load(F32, rows[row], start, n, values)
            largest = max(largest, _as_stored(stored_kind, values, n, zeros, room, stored))
            _sums(values, stored, weights, kept, n, total[row])
        for t in range(len(kinds)):
            _alone(kinds[t], tasks[t], is_delta[t], start, n, weights, scales[t], spare, values)
            _as_stored(stored_kind, values, n, zeros, room, stored)
            _sums(values, stored, weights, kept, n, total[len(rows) + t])
    return largest
