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

from explorer.merging._fused_bits import as_bits, as_float, choose, compiled, from_bf16, load, pointer, size_bits, store

BLOCK = 512
"""Elements at a time: four tasks of it in float32 and four buffers are 16 KiB, half a first-level cache."""

SUM, ELECT_MEAN, ELECT_SUM, ELECT_MAX, ELECTION, CONSENSUS, TALL = range(7)
FACTOR, LOW, HIGH, GROWTH, WEIGHT, MASK, ROWS = range(7)
"""Rows of `numbers` [ROWS, T]."""
COMBINE, TRIMS, DRAWS, GROWS, TIES_POSITIVE, MIN_TASKS, FAST, OPTIONS = range(8)
"""Places in `options`."""
ZERO, ONE = np.float32(0), np.float32(1)


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
def _subtract_and_trim(values, base, count, low, high):
    """τ in place, and 0 where |τ| is outside low … high; returns the bits of the largest |τ| before.

    One loop with the subtraction: putting zeros among values in memory makes slow masked stores.
    """
    largest = np.uint32(0)
    for i in range(count):
        delta = values[i] - base[i]
        size = abs(delta)
        largest = max(largest, size_bits(delta))
        values[i] = choose(size < low, ZERO, choose(size > high, ZERO, delta))
    return largest


@compiled
def _subtract_and_draw(values, base, count, position, seed_low, seed_high, limit):
    """τ in place, and 0 where the draw of the position (see `_draws`) is not below the limit."""
    begin = np.uint32(position + seed_low)
    largest = np.uint32(0)
    for i in range(count):
        x = np.uint32(begin + np.uint32(i))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ seed_high)
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x2C1B3C6D))
        x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
        delta = values[i] - base[i]
        largest = max(largest, size_bits(delta))
        values[i] = choose(np.int32(x) < limit, delta, ZERO)
    return largest


@compiled
def _sparse(values, base, count, task, position, options, numbers, limits, seeds):
    """One task's block as a sparse, rescaled task vector, in place; returns the bits of the largest |τ| before."""
    if options[TRIMS]:
        largest = _subtract_and_trim(values, base, count, numbers[LOW, task], numbers[HIGH, task])
    elif options[DRAWS] and limits[task] < 2**31:
        low, high, limit = seeds[task, 0], seeds[task, 1], np.int32(limits[task])
        largest = _subtract_and_draw(values, base, count, position, low, high, limit)
    else:
        largest = _subtract(values, base, count)
    growth = numbers[GROWTH, task]
    if options[GROWS] == 1:
        for i in range(count):
            values[i] *= growth
    elif options[GROWS] == 2:
        for i in range(count):
            values[i] /= growth
    return largest


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
        sign[i] = choose(total[i] > 0, ONE, choose(total[i] == 0, tie, -ONE))
        total[i] = ZERO
        share[i] = ZERO
    for t in range(tasks):
        row, factor, weight = values[t], numbers[FACTOR, t], numbers[WEIGHT, t]
        if options[COMBINE] == ELECT_MAX:
            for i in range(count):
                vote = row[i] * factor * sign[i]
                total[i] = as_float(max(as_bits(total[i]), as_bits(choose(vote > 0, vote, ZERO))))
        else:
            for i in range(count):
                vote = row[i] * factor * sign[i]
                agrees = vote > 0
                total[i] += choose(agrees, vote, ZERO)
                share[i] += choose(agrees, weight, ZERO)
    if options[COMBINE] == ELECT_MEAN:
        for i in range(count):
            total[i] /= choose(share[i] > 0, share[i], ONE)
    for i in range(count):
        total[i] *= sign[i]


@compiled
def _claims(values, numbers, tasks, count, total, claims):
    """Unscaled sum, and how many TALL masks claim each position."""
    row = values[0]
    for i in range(count):
        total[i] = row[i]
        claims[i] = ZERO
    for t in range(1, tasks):
        row = values[t]
        for i in range(count):
            total[i] += row[i]
    for t in range(tasks):
        row, threshold = values[t], numbers[MASK, t]
        for i in range(count):
            claims[i] += choose(abs(row[i]) > abs(total[i] - row[i]) * threshold, ONE, ZERO)


@compiled
def _combine(values, numbers, tasks, count, options, divisor, common, merged, spare, other):
    """One merged block from the tasks' values; for an election without merging, the sum of the elected signs."""
    if options[COMBINE] == CONSENSUS:
        _claims(values, numbers, tasks, count, spare, other)
        _add_all(values, numbers[FACTOR], tasks, count, spare)
        enough = np.float32(options[MIN_TASKS])
        for i in range(count):
            merged[i] = choose(other[i] >= enough, spare[i], ZERO)
        return 0
    if options[COMBINE] == SUM or options[COMBINE] == ELECTION:
        _add_all(values, numbers[FACTOR], tasks, count, merged)
    else:
        _elect(values, numbers, tasks, count, options, spare, merged, other)
    if options[COMBINE] == ELECTION:
        plus, minus = np.uint32(0), np.uint32(0)
        for i in range(count):
            plus = np.uint32(plus + choose(merged[i] > 0, np.uint32(1), np.uint32(0)))
            minus = np.uint32(minus + choose(merged[i] < 0, np.uint32(1), np.uint32(0)))
        return np.int64(plus) - np.int64(minus)
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
            merged[i] = choose(mine, total[i], ZERO) * scale
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
                found = _sparse(values[t], weights, n, t, position + start, options, numbers, limits, seeds)
                change = max(change, found)
            if options[COMBINE] == TALL:
                found = _tall(out_kind, outs, start, values, numbers, n, weights, spare, merged)
                size = max(size, found)
                continue
            balance += _combine(values, numbers, n_tasks, n, options, scalars[0], scalars[1], merged, spare, other)
        if len(outs):
            size = max(size, store(out_kind, outs[0], start, n, weights, merged))
    return change, size, balance
