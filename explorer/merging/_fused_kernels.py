"""The compiled inner loops of fused merging: blocks that stay in the first-level cache, tasks one after another.

Imports numba, so only `_fused` imports it, when a merge first needs it. Floats are never reordered or contracted: every
sum runs over the tasks in order, each product is rounded before it is added, as in `_parts`. Loops over a block are
plain enough for the compiler to use vector registers; integers are cut to 32 bits after every step for that reason.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import carray

from explorer.merging._fused_bits import compiled, from_bf16, load, pointer, size_bits, store

BLOCK = 1024
"""Elements at a time: four tasks of it in float32 are 16 KiB, half a first-level cache."""

SUM, ELECT_MEAN, ELECT_SUM, ELECT_MAX, ELECTION, CONSENSUS, TALL = range(7)
FACTOR, LOW, HIGH, GROWTH, WEIGHT, MASK, ROWS = range(7)
"""Rows of `numbers` [ROWS, T]."""
COMBINE, TRIMS, DRAWS, GROWS, TIES_POSITIVE, MIN_TASKS, FAST, OPTIONS = range(8)
"""Places in `options`."""


@compiled
def _sum_of_four(base, tasks, factors, first, start, count, weights, merged):
    """Σ factor · τ of four bfloat16 tasks, from the tasks' bits; the base is unpacked on the way."""
    a = carray(pointer(tasks[first] + 2 * start), count, np.uint16)
    b = carray(pointer(tasks[first + 1] + 2 * start), count, np.uint16)
    c = carray(pointer(tasks[first + 2] + 2 * start), count, np.uint16)
    d = carray(pointer(tasks[first + 3] + 2 * start), count, np.uint16)
    fa, fb, fc, fd = factors[first], factors[first + 1], factors[first + 2], factors[first + 3]
    if first == 0:
        halves = carray(pointer(base + 2 * start), count, np.uint16)
        for i in range(count):
            weight = from_bf16(halves[i])
            total = (from_bf16(a[i]) - weight) * fa
            total += (from_bf16(b[i]) - weight) * fb
            total += (from_bf16(c[i]) - weight) * fc
            merged[i] = total + (from_bf16(d[i]) - weight) * fd
            weights[i] = weight
    else:
        for i in range(count):
            weight = weights[i]
            total = merged[i] + (from_bf16(a[i]) - weight) * fa
            total += (from_bf16(b[i]) - weight) * fb
            total += (from_bf16(c[i]) - weight) * fc
            merged[i] = total + (from_bf16(d[i]) - weight) * fd


@compiled
def _subtract(values, base, count):
    """τ = θ − θ₀ in place; returns the bits of the largest |τ|."""
    largest = np.uint32(0)
    for i in range(count):
        values[i] -= base[i]
        largest = max(largest, size_bits(values[i]))
    return largest


@compiled
def _drop_at_random(values, count, position, seed_low, seed_high, limit):
    """Zero where the draw of the position is not below the limit; the numbers of `_draws`."""
    begin = np.uint32(position + seed_low)
    for i in range(count):
        x = np.uint32(begin + np.uint32(i))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ seed_high)
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x2C1B3C6D))
        x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
        values[i] = values[i] if np.int32(x) < limit else np.float32(0)


@compiled
def _sparsify(values, count, task, position, options, numbers, limits, seeds):
    """Trim, drop and rescale one task's block in place."""
    if options[TRIMS]:
        low, high = numbers[LOW, task], numbers[HIGH, task]
        for i in range(count):
            size = abs(values[i])
            values[i] = values[i] if (size >= low) & (size <= high) else np.float32(0)
    if options[DRAWS] and limits[task] < 2**31:
        low, high = seeds[task, 0], seeds[task, 1]
        _drop_at_random(values, count, position, low, high, np.int32(limits[task]))
    growth = numbers[GROWTH, task]
    if options[GROWS] == 1:
        for i in range(count):
            values[i] *= growth
    elif options[GROWS] == 2:
        for i in range(count):
            values[i] /= growth


@compiled
def _add_all(values, factors, tasks, count, total):
    """Σ factor · value, in task order."""
    row, factor = values[0], factors[0]
    for i in range(count):
        total[i] = row[i] * factor
    for t in range(1, tasks):
        row, factor = values[t], factors[t]
        for i in range(count):
            total[i] += row[i] * factor


@compiled
def _elect(values, numbers, tasks, count, options, sign, total, share):
    """Votes, their elected sign, and what agrees with it; `total` gets the merged magnitude with its sign."""
    _add_all(values, numbers[FACTOR], tasks, count, total)
    tie = np.float32(1 if options[TIES_POSITIVE] else -1)
    for i in range(count):
        sign[i] = np.float32(1) if total[i] > 0 else (tie if total[i] == 0 else np.float32(-1))
        total[i] = np.float32(0)
        share[i] = np.float32(0)
    for t in range(tasks):
        row, factor, weight = values[t], numbers[FACTOR, t], numbers[WEIGHT, t]
        if options[COMBINE] == ELECT_MAX:
            for i in range(count):
                total[i] = max(total[i], row[i] * factor * sign[i])
        else:
            for i in range(count):
                vote = row[i] * factor * sign[i]
                agrees = vote > 0
                total[i] += vote if agrees else np.float32(0)
                share[i] += weight if agrees else np.float32(0)
    if options[COMBINE] == ELECT_MEAN:
        for i in range(count):
            total[i] /= share[i] if share[i] > 0 else np.float32(1)
    for i in range(count):
        total[i] *= sign[i]


@compiled
def _claims(values, numbers, tasks, count, total, claims):
    """Unscaled sum, and how many TALL masks claim each position."""
    row = values[0]
    for i in range(count):
        total[i] = row[i]
        claims[i] = np.float32(0)
    for t in range(1, tasks):
        row = values[t]
        for i in range(count):
            total[i] += row[i]
    for t in range(tasks):
        row, threshold = values[t], numbers[MASK, t]
        for i in range(count):
            claims[i] += np.float32(1) if abs(row[i]) > abs(total[i] - row[i]) * threshold else np.float32(0)


@compiled
def _combine(values, numbers, tasks, count, options, divisor, common, merged, spare, other):
    """One merged block from the tasks' values; for an election without merging, the sum of the elected signs."""
    if options[COMBINE] == CONSENSUS:
        _claims(values, numbers, tasks, count, spare, other)
        _add_all(values, numbers[FACTOR], tasks, count, merged)
        enough = np.float32(options[MIN_TASKS])
        for i in range(count):
            merged[i] = merged[i] if other[i] >= enough else np.float32(0)
        return 0
    if options[COMBINE] == SUM or options[COMBINE] == ELECTION:
        _add_all(values, numbers[FACTOR], tasks, count, merged)
    else:
        _elect(values, numbers, tasks, count, options, spare, merged, other)
    balance = 0
    if options[COMBINE] == ELECTION:
        for i in range(count):
            balance += (merged[i] > 0) - (merged[i] < 0)
        return balance
    if divisor != 1:
        for i in range(count):
            merged[i] /= divisor
    if common != 1:
        for i in range(count):
            merged[i] *= common
    return 0


@compiled
def _tall(out_kind, outs, start, values, numbers, count, weights, total, merged):
    """Every task's own model by its TALL mask, stored; returns the bits of the largest |weight|."""
    largest = np.uint32(0)
    _add_all(values, numbers[WEIGHT], len(outs), count, total)
    for t in range(len(outs)):
        row, threshold, scale = values[t], numbers[MASK, t], numbers[FACTOR, t]
        for i in range(count):
            mine = abs(row[i]) > abs(total[i] - row[i]) * threshold
            merged[i] = (total[i] if mine else np.float32(0)) * scale
        largest = max(largest, store(out_kind, outs[t], start, count, weights, merged))
    return largest


@compiled
def merge(base, base_kind, tasks, kinds, outs, out_kind, count, position, options, numbers, scalars, limits, seeds):
    """Merge `count` elements from address to address.

    `tasks` and `outs` are addresses, `position` is where the first element lies in its tensor. Returns the bits of the
    largest |task vector| (0 on the fast path) and of the largest |merged weight|, and the balance of elected signs.
    """
    n_tasks = len(kinds)
    values = np.empty((n_tasks, BLOCK), np.float32)
    # Four arrays, not the rows of one: those would be of unknown stride, and no loop over them vectorised.
    weights, merged = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    spare, other = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    change, size, balance = np.uint32(0), np.uint32(0), 0
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        if options[FAST]:
            for first in range(0, n_tasks, 4):
                _sum_of_four(base, tasks, numbers[FACTOR], first, start, n, weights, merged)
        else:
            load(base_kind, base, start, n, weights)
            for t in range(n_tasks):
                load(kinds[t], tasks[t], start, n, values[t])
                change = max(change, _subtract(values[t], weights, n))
                _sparsify(values[t], n, t, position + start, options, numbers, limits, seeds)
            if options[COMBINE] == TALL:
                found = _tall(out_kind, outs, start, values, numbers, n, weights, spare, merged)
                size = max(size, found)
                continue
            balance += _combine(values, numbers, n_tasks, n, options, scalars[0], scalars[1], merged, spare, other)
        if len(outs):
            size = max(size, store(out_kind, outs[0], start, n, weights, merged))
    return change, size, balance
