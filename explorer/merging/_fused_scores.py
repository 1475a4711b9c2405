"""Compiled loops for PCB-Merging: scores of all tasks at a position, and how they fall around a bracket.

The same sums and products as in `pcb` and `_curves`, in the same order, so the bits are the same. What two tasks have
in common is computed once for both. Loops in float64 are apart from the others: within one loop the widest number sets
how many fit a register.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np

from explorer.compute._bracket_kernels import OPEN
from explorer.compute._bracket_kernels import _collect as collect
from explorer.compute._bracket_kernels import _compare as compare
from explorer.compute.compiled import as_bits, as_float, choose, compiled, inlined, load, size_bits
from explorer.merging import _curves
from explorer.merging._fused_options import BEST, BORDER, FACTOR, HIGH, LOW, PAIRS, RAW

PIECE = 256
"""Positions at a time: of seven tasks, values, scores and float64 sums then take 28 KiB."""
ZERO, ONE = np.float32(0), np.float32(1)
_MOST, _ROUND, _LOG2_E = np.float32(_curves.MOST), np.float32(_curves.ROUND), np.float32(_curves.LOG2_E)
_LN2_HIGH, _LN2_LOW = np.float32(_curves.LN2_HIGH), np.float32(_curves.LN2_LOW)
_7, _6, _5, _4, _3, _2, _1, _0 = (np.float32(term) for term in _curves.TAYLOR)
_15, _105, _420, _945 = (np.float32(n) for n in (15, 105, 420, 945))
_NINE, _EIGHTH = np.float32(9), np.float32(0.125)


@inlined
def _clamp(value, low, high):
    raised = choose(value < low, low, value)
    return choose(raised > high, high, raised)


@inlined
def _exp(value):
    """`_curves.exp`."""
    cut = choose(value > _MOST, _MOST, value)
    moved = np.float32(cut * _LOG2_E + _ROUND)  # its lowest bits are the whole number, as two's complement
    whole = np.float32(moved - _ROUND)
    rest = np.float32(np.float32(cut - whole * _LN2_HIGH) - whole * _LN2_LOW)
    total = ((((((_7 * rest + _6) * rest + _5) * rest + _4) * rest + _3) * rest + _2) * rest + _1) * rest + _0
    return total * as_float(np.uint32(np.uint32(as_bits(moved) + np.uint32(127)) << np.uint32(23)))


@inlined
def _tanh_within_1(value):
    """`_curves.tanh_within_1`."""
    square = value * value
    return value * ((square + _105) * square + _945) / ((square * _15 + _420) * square + _945)


@inlined
def _tanh(value):
    """`_curves.tanh`."""
    found = _tanh_within_1(_clamp(value, -_NINE, _NINE) * _EIGHTH)
    found = (found + found) / (found * found + ONE)
    found = (found + found) / (found * found + ONE)
    return (found + found) / (found * found + ONE)


@compiled
def _place(values, low, high, count, signed):
    """One task's clamped magnitudes mapped to 0 … 1, with the sign of the value."""
    width = np.float32(high - low)
    divisor, live = choose(width > 0, width, ONE), choose(width > 0, ONE, ZERO)
    for i in range(count):
        value = values[i]
        relative = (_clamp(abs(value), low, high) - low) / divisor * live
        signed[i] = choose(value > 0, relative, choose(value < 0, -relative, ZERO))


@compiled
def _add(values, count, sums):
    for i in range(count):
        sums[i] += np.float64(values[i])


@compiled
def _round(sums, count, into):
    for i in range(count):
        into[i] = np.float32(sums[i])


@compiled
def _pair(one, other, count, into):
    for i in range(count):
        into[i] = _tanh_within_1(one[i] * other[i])


@compiled
def _add_to_both(both, count, sums, other_sums):
    for i in range(count):
        value = np.float64(both[i])
        sums[i] += value
        other_sums[i] += value


@compiled
def _agree_in_pairs(signed, tasks, count, sums, spare):
    """Σ over the tasks, in their order, of tanh of the product with each, for every task."""
    sums[:] = 0.0
    for s in range(tasks):
        _pair(signed[s], signed[s], count, spare)
        _add(spare, count, sums[s])
        for t in range(s + 1, tasks):
            _pair(signed[s], signed[t], count, spare)
            _add_to_both(spare, count, sums[s], sums[t])


@compiled
def _weigh(signed, many, count, score):
    """One task's scores from its agreements, in place."""
    for i in range(count):
        score[i] = _exp(signed[i] * signed[i] * many) * score[i]


@compiled
def _weigh_sum(values, signed, many, count, score):
    """One task's scores from the sum over all tasks that it has to agree with, in place."""
    for i in range(count):
        score[i] = _exp(signed[i] * signed[i] * many) * _tanh(values[i] * score[i])


@compiled
def _score(values, numbers, tasks, start, count, kind, signed, sums, score):
    """Scores of all tasks at `count` positions from `start`, [T, PIECE]; overwrites `signed` and `sums`."""
    many = np.float32(tasks)
    for t in range(tasks):
        _place(values[t][start:], numbers[LOW, t], numbers[HIGH, t], count, signed[t])
    if kind == PAIRS:
        _agree_in_pairs(signed, tasks, count, sums, score[0])
        for t in range(tasks):
            _round(sums[t], count, score[t])
            _weigh(signed[t], many, count, score[t])
        return
    sums[0] = 0.0
    for t in range(tasks):
        if kind == RAW:
            _add(values[t][start:], count, sums[0])
        else:
            _add(signed[t], count, sums[0])
    for t in range(tasks):
        _round(sums[0], count, score[t])
        _weigh_sum(values[t][start:], signed[t], many, count, score[t])


@compiled
def _share(values, low, high, border, best, count, score, clamped):
    """One task's shares, in place of its scores, and its clamped values."""
    width = np.float32(best - border)
    divisor, live = choose(width > 0, width, ONE), choose(width > 0, ONE, ZERO)
    for i in range(count):
        score[i] = (choose(score[i] > border, score[i], border) - border) / divisor * live
        value = values[i]
        size = _clamp(abs(value), low, high)
        clamped[i] = choose(value > 0, size, choose(value < 0, -size, ZERO))


@compiled
def _add_shares(clamped, shares, factor, count, weighted, total):
    for i in range(count):
        share = np.float64(shares[i])
        weighted[i] += np.float64(clamped[i]) * share * factor
        total[i] += share


@compiled
def _divide(weighted, total, count, merged):
    for i in range(count):
        merged[i] = np.float32(weighted[i] / max(total[i], 1e-12))


@compiled
def balanced(values, numbers, tasks, count, kind, merged):
    """The mean of the clamped values, times their factors, by the shares that their scores give them."""
    signed, score = np.empty((tasks, PIECE), np.float32), np.empty((tasks, PIECE), np.float32)
    sums, weighted, total = np.empty((tasks, PIECE)), np.empty(PIECE), np.empty(PIECE)
    for start in range(0, count, PIECE):
        n = min(PIECE, count - start)
        _score(values, numbers, tasks, start, n, kind, signed, sums, score)
        weighted[:] = 0.0
        total[:] = 0.0
        for t in range(tasks):
            low, high, factor = numbers[LOW, t], numbers[HIGH, t], np.float64(numbers[FACTOR, t])
            border, best = numbers[BORDER, t], numbers[BEST, t]
            _share(values[t][start:], low, high, border, best, n, score[t], signed[t])
            _add_shares(signed[t], score[t], factor, n, weighted, total)
        _divide(weighted, total, n, merged[start:])


@compiled
def _key(number):
    """Its bits as a whole number that orders like it; 0 and −0 are one."""
    bits = np.int32(as_bits(number + ZERO))
    return np.int32(bits ^ (np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@compiled
def _subtract(tuned, weights, count, values):
    largest = np.uint32(0)
    for i in range(count):
        delta = tuned[i] - weights[i]
        largest = max(largest, size_bits(delta))
        values[i] = delta
    return largest


@compiled
def _read(base, base_kind, tasks, kinds, start, count, weights, spare, values):
    """Task vectors of a block, [T, PIECE]; returns the bits of the largest |τ|."""
    largest = np.uint32(0)
    load(base_kind, base, start, count, weights)
    for t in range(len(kinds)):
        load(kinds[t], tasks[t], start, count, spare)
        largest = max(largest, _subtract(spare, weights, count, values[t]))
    return largest


@compiled
def _keys(score, count, into):
    """Keys of one task's scores; returns the largest."""
    largest = np.int32(-0x7FFFFFFF)
    for i in range(count):
        key = _key(score[i])
        into[i] = key
        largest = max(largest, key)
    return largest


@compiled
def _inside(keys, count, low, high, flags):
    for i in range(count):
        flags[i] = np.uint8((keys[i] > low) & (keys[i] < high))


@compiled
def sample_scores(base, base_kind, tasks, kinds, count, numbers, kind, into):
    """Keys of the scores of `count` elements, [T, count]; returns the bits of the largest |τ|."""
    n_tasks, change = len(kinds), np.uint32(0)
    weights, spare = np.empty(PIECE, np.float32), np.empty(PIECE, np.float32)
    values = np.empty((n_tasks, PIECE), np.float32)
    signed, score, sums = np.empty_like(values), np.empty_like(values), np.empty((n_tasks, PIECE))
    for start in range(0, count, PIECE):
        n = min(PIECE, count - start)
        change = max(change, _read(base, base_kind, tasks, kinds, start, n, weights, spare, values))
        _score(values, numbers, n_tasks, 0, n, kind, signed, sums, score)
        for t in range(n_tasks):
            _keys(score[t], n, into[t][start:])
    return change


@compiled
def scan_scores(base, base_kind, tasks, kinds, count, numbers, kind, lows, highs, counts, best, into, held):
    """Adds to `counts` [T, 3] for each task's bracket, as `scan` of brackets, and collects what lies inside it.

    `into` [T, room] gets the collected keys, `held` [T] how many they are, `best` [T] the largest key of all. Returns
    the bits of the largest |τ|, and whether there was room: nothing is complete without.
    """
    n_tasks, change = len(kinds), np.uint32(0)
    weights, spare = np.empty(PIECE, np.float32), np.empty(PIECE, np.float32)
    values = np.empty((n_tasks, PIECE), np.float32)
    signed, score, sums = np.empty_like(values), np.empty_like(values), np.empty((n_tasks, PIECE))
    keys, flags = np.empty(PIECE, np.int32), np.zeros(PIECE, np.uint8)
    eights, some = flags.view(np.uint64), np.empty(PIECE // 8 + 1, np.int32)
    for start in range(0, count, PIECE):
        n = min(PIECE, count - start)
        flags[:] = np.uint8(0)
        change = max(change, _read(base, base_kind, tasks, kinds, start, n, weights, spare, values))
        _score(values, numbers, n_tasks, 0, n, kind, signed, sums, score)
        for t in range(n_tasks):
            best[t] = max(best[t], _keys(score[t], n, keys))
            if highs[t] != OPEN:
                above, at_high, at_low = compare(keys, n, lows[t], highs[t])
                counts[t, 0] += above
                counts[t, 1] += at_high
                counts[t, 2] += at_low
            if held[t] + n + 8 > into.shape[1]:
                return change, False
            _inside(keys, n, lows[t], highs[t], flags)
            held[t] = collect(keys, n, flags, eights, some, into[t], held[t])
    return change, True
