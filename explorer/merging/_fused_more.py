"""Compiled loops over more than four tasks of two bytes, four at a time: votes are read again once they are counted.

Reading a task's bits twice costs less than keeping its values; both sums still run over the tasks in order. Also the
choice among all the fast loops.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np

from explorer.compute.compiled import BF16, CONVERTS, F16, LIKE_BF16, LIKE_F16, choose, compiled, halves, widen
from explorer.merging._fused_four import (
    agreed_sum,
    cut,
    elected,
    elected_balance,
    elected_mean,
    plain_sum,
    trimmed_sum,
    vote_for,
)
from explorer.merging._fused_options import (
    COMBINE,
    CONSENSUS,
    ELECT_MEAN,
    ELECTION,
    FACTOR,
    FAST,
    HIGH,
    LOW,
    MASK,
    MIN_TASKS,
    PLAIN,
    SUM,
    TIES_POSITIVE,
    TRIMS,
    WEIGHT,
)

ZERO, ONE = np.float32(0), np.float32(1)


@compiled
def _agreeing(like, tasks, factors, shares, lows, highs, first, start, count, weights, signs, agreed, share):
    """Adds four tasks' trimmed votes that agree with the elected signs, as magnitudes, and their shares."""
    a = halves(tasks[first], start, count, like)
    b = halves(tasks[first + 1], start, count, like)
    c = halves(tasks[first + 2], start, count, like)
    d = halves(tasks[first + 3], start, count, like)
    fa, fb, fc, fd = factors[first], factors[first + 1], factors[first + 2], factors[first + 3]
    sa, sb, sc, sd = shares[first], shares[first + 1], shares[first + 2], shares[first + 3]
    la, lb, lc, ld = lows[first], lows[first + 1], lows[first + 2], lows[first + 3]
    ha, hb, hc, hd = highs[first], highs[first + 1], highs[first + 2], highs[first + 3]
    for i in range(count):
        weight, sign = weights[i], signs[i]
        va = vote_for(cut(widen(a[i]) - weight, la, ha), fa, sign)
        vb = vote_for(cut(widen(b[i]) - weight, lb, hb), fb, sign)
        vc = vote_for(cut(widen(c[i]) - weight, lc, hc), fc, sign)
        vd = vote_for(cut(widen(d[i]) - weight, ld, hd), fd, sign)
        total = agreed[i] + va
        total += vb
        total += vc
        agreed[i] = total + vd
        mine = share[i] + choose(va > 0, sa, ZERO)
        mine += choose(vb > 0, sb, ZERO)
        mine += choose(vc > 0, sc, ZERO)
        share[i] = mine + choose(vd > 0, sd, ZERO)


@compiled
def elected_more(
    like, base, tasks, factors, shares, lows, highs, mean, tie, start, count, weights, merged, signs, share
):
    """`elected` of any number of tasks."""
    largest = np.uint32(0)
    for first in range(0, len(factors), 4):
        found = trimmed_sum(like, base, tasks, factors, lows, highs, first, start, count, weights, merged)
        largest = max(largest, found)
    for i in range(count):
        signs[i] = choose(merged[i] > 0, ONE, choose(merged[i] == 0, tie, -ONE))
        merged[i] = ZERO
        share[i] = ZERO
    for first in range(0, len(factors), 4):
        _agreeing(like, tasks, factors, shares, lows, highs, first, start, count, weights, signs, merged, share)
    for i in range(count):
        divisor = choose(mean, choose(share[i] > 0, share[i], ONE), ONE)
        merged[i] = merged[i] / divisor * signs[i]
    return largest


@compiled
def _claiming(like, tasks, factors, thresholds, first, start, count, weights, whole, total, claims):
    """Adds four tasks' scaled values, and how many of them claim the position by their TALL mask."""
    a = halves(tasks[first], start, count, like)
    b = halves(tasks[first + 1], start, count, like)
    c = halves(tasks[first + 2], start, count, like)
    d = halves(tasks[first + 3], start, count, like)
    fa, fb, fc, fd = factors[first], factors[first + 1], factors[first + 2], factors[first + 3]
    ta, tb, tc, td = thresholds[first], thresholds[first + 1], thresholds[first + 2], thresholds[first + 3]
    for i in range(count):
        weight, sum_of_all = weights[i], whole[i]
        da, db, dc, dd = widen(a[i]) - weight, widen(b[i]) - weight, widen(c[i]) - weight, widen(d[i]) - weight
        mine = claims[i] + choose(abs(da) > abs(sum_of_all - da) * ta, ONE, ZERO)
        mine += choose(abs(db) > abs(sum_of_all - db) * tb, ONE, ZERO)
        mine += choose(abs(dc) > abs(sum_of_all - dc) * tc, ONE, ZERO)
        claims[i] = mine + choose(abs(dd) > abs(sum_of_all - dd) * td, ONE, ZERO)
        scaled = total[i] + da * fa
        scaled += db * fb
        scaled += dc * fc
        total[i] = scaled + dd * fd


@compiled
def agreed_more(like, base, tasks, factors, thresholds, enough, start, count, weights, merged, total, claims):
    """`agreed_sum` of any number of tasks."""
    largest, ones = np.uint32(0), np.ones(len(factors), np.float32)
    none, all_sizes = np.zeros(len(factors), np.float32), np.full(len(factors), np.float32(np.inf))
    for first in range(0, len(factors), 4):
        found = trimmed_sum(like, base, tasks, ones, none, all_sizes, first, start, count, weights, merged)
        largest = max(largest, found)
    for i in range(count):
        total[i] = ZERO
        claims[i] = ZERO
    for first in range(0, len(factors), 4):
        _claiming(like, tasks, factors, thresholds, first, start, count, weights, merged, total, claims)
    for i in range(count):
        merged[i] = choose(claims[i] >= enough, total[i], ZERO)
    return largest


@compiled
def _fast(like, base, tasks, options, numbers, start, count, weights, merged, spare, other):
    many, change = len(tasks), np.uint32(0)
    factors, lows, highs, shares = numbers[FACTOR], numbers[LOW], numbers[HIGH], numbers[WEIGHT]
    tie = np.float32(1 if options[TIES_POSITIVE] else -1)
    enough, mean = np.float32(options[MIN_TASKS]), options[COMBINE] == ELECT_MEAN
    if options[COMBINE] == CONSENSUS:
        masks = numbers[MASK]
        if many > 4:
            return agreed_more(like, base, tasks, factors, masks, enough, start, count, weights, merged, spare, other)
        return agreed_sum(like, base, tasks, factors, masks, enough, start, count, weights, merged)
    if not options[TRIMS]:
        for first in range(0, many, 4):
            plain_sum(like, base, tasks, factors, first, start, count, weights, merged)
        return change
    if options[COMBINE] == SUM or options[COMBINE] == ELECTION:
        for first in range(0, many, 4):
            found = trimmed_sum(like, base, tasks, factors, lows, highs, first, start, count, weights, merged)
            change = max(change, found)
        return change
    if many > 4:
        return elected_more(
            like, base, tasks, factors, shares, lows, highs, mean, tie, start, count, weights, merged, spare, other
        )
    if options[FAST] == PLAIN:
        return elected_mean(like, base, tasks, factors, lows, tie, start, count, weights, merged)
    return elected(like, base, tasks, factors, shares, lows, highs, mean, tie, start, count, weights, merged)


@compiled
def fast(kind, base, tasks, options, numbers, start, count, weights, merged, spare, other):
    """One merged block four tasks at a time, undivided; returns the bits of the largest |τ| (0 for the plain sum).

    `kind` is that of all the models, BF16 or F16; `tasks` are padded to a multiple of four.
    """
    if kind == BF16:
        return _fast(LIKE_BF16, base, tasks, options, numbers, start, count, weights, merged, spare, other)
    return _fast(LIKE_F16, base, tasks, options, numbers, start, count, weights, merged, spare, other)


@compiled
def fast_balance(kind, base, tasks, factors, lows, start, count):
    """`elected_balance` of models that are all of this kind."""
    if kind == BF16:
        return elected_balance(LIKE_BF16, base, tasks, factors, lows, start, count)
    return elected_balance(LIKE_F16, base, tasks, factors, lows, start, count)


@compiled
def is_fast(base_kind, kinds):
    """Whether base and tasks are all of one kind that the fast loops read."""
    alike = base_kind == BF16 or (CONVERTS and base_kind == F16)
    for t in range(len(kinds)):
        alike &= kinds[t] == base_kind
    return alike
