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

from explorer.compute.compiled import (
    BF16,
    as_bits,
    as_float,
    choose,
    compiled,
    load,
    pointer,
    size_bits,
    store,
    widen,
)
from explorer.merging._fused_more import fast, fast_balance, is_fast
from explorer.merging._fused_options import (
    COMBINE,
    CONSENSUS,
    DRAWS,
    ELECT_MAX,
    ELECT_MEAN,
    ELECTION,
    FACTOR,
    FAST,
    GROWS,
    GROWTH,
    HIGH,
    LOW,
    MASK,
    MIN_TASKS,
    PAIRS,
    PLAIN,
    SUM,
    TALL,
    TIES_POSITIVE,
    TRIMS,
    WEIGHT,
)
from explorer.merging._fused_scores import balanced

BLOCK = 1024
"""Elements at a time: four tasks of it in float32 are 16 KiB. Shorter blocks pay more for what a block costs itself."""

ZERO, ONE = np.float32(0), np.float32(1)


@compiled
def _take(source, base, count, factor, values, t, total):
    """τ = θ − θ₀ of one task, added to `total` times the factor; returns the bits of the largest |τ|.

    `source` holds bfloat16 bits or float32. This loop and the next two put what they make into other memory than they
    read: choosing between a value in memory and 0 in place makes slow masked stores.
    """
    largest = np.uint32(0)
    for i in range(count):
        delta = widen(source[i]) - base[i]
        largest = max(largest, size_bits(delta))
        values[t, i] = delta
        total[i] += delta * factor
    return largest


@compiled
def _take_trimmed(source, base, count, factor, values, t, total, low, high):
    """As `_take`, with 0 for τ where |τ| is outside low … high."""
    largest = np.uint32(0)
    for i in range(count):
        delta = widen(source[i]) - base[i]
        size = abs(delta)
        largest = max(largest, as_bits(size))
        kept = choose(size < low, ZERO, choose(size > high, ZERO, delta))
        values[t, i] = kept
        total[i] += kept * factor
    return largest


@compiled
def _take_drawn(source, base, count, factor, values, t, total, begin, seed_high, limit):
    """As `_take`, with 0 for τ where the draw of the position (the numbers of `_draws`) is not below the limit."""
    largest = np.uint32(0)
    for i in range(count):
        x = np.uint32(begin + np.uint32(i))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ seed_high)
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x2C1B3C6D))
        x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
        delta = widen(source[i]) - base[i]
        largest = max(largest, size_bits(delta))
        kept = choose(np.int32(x) < limit, delta, ZERO)
        values[t, i] = kept
        total[i] += kept * factor
    return largest


@compiled
def _sparse(source, base, count, values, t, total, position, options, numbers, limits, seeds):
    """One task's block as a sparse task vector, added to the total; returns the bits of the largest |τ| before."""
    factor = ONE if options[COMBINE] >= CONSENSUS else numbers[FACTOR, t]
    if options[TRIMS]:
        return _take_trimmed(source, base, count, factor, values, t, total, numbers[LOW, t], numbers[HIGH, t])
    if options[DRAWS] and limits[t] < 2**31:
        begin, limit = np.uint32(position + seeds[t, 0]), np.int32(limits[t])
        return _take_drawn(source, base, count, factor, values, t, total, begin, seeds[t, 1], limit)
    return _take(source, base, count, factor, values, t, total)


@compiled
def _grow(values, tasks, count, options, numbers):
    """What is left of every task vector, times or divided by its growth, in place."""
    for t in range(tasks):
        growth = numbers[GROWTH, t]
        if options[GROWS] == 1:
            for i in range(count):
                values[t, i] *= growth
        else:
            for i in range(count):
                values[t, i] /= growth


@compiled
def add_all(values, factors, tasks, count, total):
    """Σ factor · value, in task order."""
    for i in range(count):
        total[i] = ZERO
    for t in range(tasks):
        factor = factors[t]
        for i in range(count):
            total[i] += values[t, i] * factor


@compiled
def _elect(values, numbers, tasks, count, options, total, sign, share):
    """From the sum of the votes their elected sign; `total` then gets what agrees with it, merged."""
    tie = np.float32(1 if options[TIES_POSITIVE] else -1)
    for i in range(count):
        sign[i] = choose(total[i] > 0, ONE, choose(total[i] == 0, tie, -ONE))
    for i in range(count):
        total[i] = ZERO
        share[i] = ZERO
    for t in range(tasks):
        factor, weight = numbers[FACTOR, t], numbers[WEIGHT, t]
        if options[COMBINE] == ELECT_MAX:
            for i in range(count):
                vote = values[t, i] * factor * sign[i]
                total[i] = as_float(max(as_bits(total[i]), as_bits(choose(vote > 0, vote, ZERO))))
        else:
            for i in range(count):
                vote = values[t, i] * factor * sign[i]
                total[i] += choose(vote > 0, vote, ZERO)
                share[i] += choose(vote > 0, weight, ZERO)
    if options[COMBINE] == ELECT_MEAN:
        for i in range(count):
            total[i] = total[i] / choose(share[i] > 0, share[i], ONE) * sign[i]
    else:
        for i in range(count):
            total[i] *= sign[i]


@compiled
def _agree(values, numbers, tasks, count, options, merged, total, claims):
    """The scaled sum where enough TALL masks claim the position; `merged` holds the unscaled sum at first."""
    for i in range(count):
        claims[i] = ZERO
    for t in range(tasks):
        threshold = numbers[MASK, t]
        for i in range(count):
            mine = abs(values[t, i]) > abs(merged[i] - values[t, i]) * threshold
            claims[i] += choose(mine, ONE, ZERO)
    add_all(values, numbers[FACTOR], tasks, count, total)
    enough = np.float32(options[MIN_TASKS])
    for i in range(count):
        merged[i] = choose(claims[i] >= enough, total[i], ZERO)


@compiled
def _balance(total, count):
    """How many more positions are positive than negative."""
    plus, minus = np.uint32(0), np.uint32(0)
    for i in range(count):
        plus = np.uint32(plus + choose(total[i] > 0, np.uint32(1), np.uint32(0)))
        minus = np.uint32(minus + choose(total[i] < 0, np.uint32(1), np.uint32(0)))
    return np.int64(plus) - np.int64(minus)


@compiled
def combine(values, numbers, tasks, count, options, scalars, merged, spare, other):
    """One merged block from the tasks' values; `merged` holds their sum at first."""
    if options[COMBINE] == CONSENSUS:
        _agree(values, numbers, tasks, count, options, merged, spare, other)
    elif options[COMBINE] >= PAIRS:
        balanced(values, numbers, tasks, count, options[COMBINE], merged)
    elif options[COMBINE] != SUM:
        _elect(values, numbers, tasks, count, options, merged, spare, other)
    _scaled(merged, count, scalars)


@compiled
def _scaled(merged, count, scalars):
    """The merged block divided by the divisor and times the common scale, in place."""
    divisor, common = scalars
    if divisor != 1:
        for i in range(count):
            merged[i] /= divisor
    if common != 1:
        for i in range(count):
            merged[i] *= common


@compiled
def _tall(out_kind, outs, start, values, numbers, count, weights, total, merged):
    """Every task's own model by its TALL mask, stored; returns the bits of the largest |weight|."""
    largest = np.uint32(0)
    for t in range(len(outs)):
        threshold, scale = numbers[MASK, t], numbers[FACTOR, t]
        for i in range(count):
            mine = abs(values[t, i]) > abs(total[i] - values[t, i]) * threshold
            merged[i] = choose(mine, total[i], ZERO) * scale
        largest = max(largest, store(out_kind, outs[t], start, count, weights, merged))
    return largest


@compiled
def _gather(tasks, kinds, start, count, position, options, numbers, limits, seeds, weights, values, merged, spare):
    """Every task's block as values [T, n] and their sum; returns the bits of the largest |τ|."""
    change = np.uint32(0)
    for i in range(count):
        merged[i] = ZERO
    for t in range(len(kinds)):
        if kinds[t] == BF16:
            halves = carray(pointer(tasks[t] + 2 * start), count, np.uint16)
            found = _sparse(halves, weights, count, values, t, merged, position, options, numbers, limits, seeds)
        else:
            load(kinds[t], tasks[t], start, count, spare)
            found = _sparse(spare, weights, count, values, t, merged, position, options, numbers, limits, seeds)
        change = max(change, found)
    if options[GROWS]:
        _grow(values, len(kinds), count, options, numbers)
        add_all(values, numbers[FACTOR], len(kinds), count, merged)
    return change


@compiled
def merge(base, base_kind, tasks, kinds, outs, out_kind, count, position, options, numbers, scalars, limits, seeds):
    """Merge `count` elements from address to address.

    `tasks` and `outs` are addresses, `position` is where the first element lies in its tensor. Returns the bits of the
    largest |task vector| (0 on the fast path) and of the largest |merged weight|, and the balance of elected signs.
    """
    n_tasks = len(kinds)
    quick = options[FAST] if is_fast(base_kind, kinds) else 0
    values = np.empty((n_tasks, BLOCK), np.float32)
    # Four arrays, not the rows of one: those would be of unknown stride, and no loop over them vectorised.
    weights, merged = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    spare, other = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    change, size, balance = np.uint32(0), np.uint32(0), 0
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        if quick == PLAIN and options[COMBINE] == ELECTION:
            found, more = fast_balance(base_kind, base, tasks, numbers[FACTOR], numbers[LOW], start, n)
            change, balance = max(change, found), balance + more
            continue
        if quick:
            found = fast(base_kind, base, tasks, options, numbers, start, n, weights, merged, spare, other)
            change = max(change, found)
            _scaled(merged, n, scalars)
            if options[COMBINE] == ELECTION:
                balance += _balance(merged, n)
                continue
        else:
            load(base_kind, base, start, n, weights)
            at = position + start
            found = _gather(tasks, kinds, start, n, at, options, numbers, limits, seeds, weights, values, merged, spare)
            change = max(change, found)
            if options[COMBINE] == ELECTION:
                balance += _balance(merged, n)
                continue
            if options[COMBINE] == TALL:
                found = _tall(out_kind, outs, start, values, numbers, n, weights, merged, spare)
                size = max(size, found)
                continue
            combine(values, numbers, n_tasks, n, options, scalars, merged, spare, other)
        size = max(size, store(out_kind, outs[0], start, n, weights, merged))
    return change, size, balance
