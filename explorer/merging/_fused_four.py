"""Compiled loops over four tasks of two bytes at once: every value stays in a register from its bits to the merged one.

Fewer tasks are padded with the base under factor and weight 0, which adds nothing. The sums run over the tasks in
order and round as the loops of `_fused_kernels` do, so the bits are the same. `like` says whether the bits are those of
bfloat16 or of float16 (`compiled.halves`). More than four tasks are summed four by four: with `first` above 0 a sum
goes on from what `merged` holds, and `weights` hold the base already.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np

from explorer.compute.compiled import as_bits, as_float, choose, compiled, halves, inlined, size_bits, widen

ZERO, ONE = np.float32(0), np.float32(1)
_SIGN = np.uint32(0x80000000)


@inlined
def cut(delta, low, high):
    """τ, or 0 where |τ| is outside low … high."""
    size = abs(delta)
    return choose(size < low, ZERO, choose(size > high, ZERO, delta))


@inlined
def vote_for(kept, factor, sign):
    """The part of a vote that agrees with the elected sign, as a magnitude; 0 where it does not."""
    vote = kept * factor * sign
    return choose(vote > 0, vote, ZERO)


@compiled
def plain_sum(like, base, tasks, factors, first, start, count, weights, merged):
    """Σ factor · τ of four tasks, from the tasks' bits; the base is unpacked on the way."""
    a = halves(tasks[first], start, count, like)
    b = halves(tasks[first + 1], start, count, like)
    c = halves(tasks[first + 2], start, count, like)
    d = halves(tasks[first + 3], start, count, like)
    fa, fb, fc, fd = factors[first], factors[first + 1], factors[first + 2], factors[first + 3]
    if first == 0:
        w = halves(base, start, count, like)
        for i in range(count):
            weight = widen(w[i])
            total = (widen(a[i]) - weight) * fa
            total += (widen(b[i]) - weight) * fb
            total += (widen(c[i]) - weight) * fc
            merged[i] = total + (widen(d[i]) - weight) * fd
            weights[i] = weight
    else:
        for i in range(count):
            weight = weights[i]
            total = merged[i] + (widen(a[i]) - weight) * fa
            total += (widen(b[i]) - weight) * fb
            total += (widen(c[i]) - weight) * fc
            merged[i] = total + (widen(d[i]) - weight) * fd


@compiled
def trimmed_sum(like, base, tasks, factors, lows, highs, first, start, count, weights, merged):
    """Σ factor · trimmed τ of four tasks; returns the bits of the largest |τ|."""
    a = halves(tasks[first], start, count, like)
    b = halves(tasks[first + 1], start, count, like)
    c = halves(tasks[first + 2], start, count, like)
    d = halves(tasks[first + 3], start, count, like)
    fa, fb, fc, fd = factors[first], factors[first + 1], factors[first + 2], factors[first + 3]
    la, lb, lc, ld = lows[first], lows[first + 1], lows[first + 2], lows[first + 3]
    ha, hb, hc, hd = highs[first], highs[first + 1], highs[first + 2], highs[first + 3]
    if first == 0:
        w = halves(base, start, count, like)
        for i in range(count):
            weights[i] = widen(w[i])
            merged[i] = ZERO
    largest = np.uint32(0)
    for i in range(count):
        weight = weights[i]
        da, db, dc, dd = widen(a[i]) - weight, widen(b[i]) - weight, widen(c[i]) - weight, widen(d[i]) - weight
        largest = max(largest, max(max(size_bits(da), size_bits(db)), max(size_bits(dc), size_bits(dd))))
        total = merged[i] + cut(da, la, ha) * fa
        total += cut(db, lb, hb) * fb
        total += cut(dc, lc, hc) * fc
        merged[i] = total + cut(dd, ld, hd) * fd
    return largest


@compiled
def elected(like, base, tasks, factors, shares, lows, highs, mean, tie, start, count, weights, merged):
    """The mean (or sum) of the trimmed votes that agree with the elected sign; returns the bits of the largest |τ|."""
    w = halves(base, start, count, like)
    a = halves(tasks[0], start, count, like)
    b = halves(tasks[1], start, count, like)
    c = halves(tasks[2], start, count, like)
    d = halves(tasks[3], start, count, like)
    fa, fb, fc, fd = factors[0], factors[1], factors[2], factors[3]
    sa, sb, sc, sd = shares[0], shares[1], shares[2], shares[3]
    la, lb, lc, ld = lows[0], lows[1], lows[2], lows[3]
    ha, hb, hc, hd = highs[0], highs[1], highs[2], highs[3]
    largest = np.uint32(0)
    for i in range(count):
        weight = widen(w[i])
        da, db, dc, dd = widen(a[i]) - weight, widen(b[i]) - weight, widen(c[i]) - weight, widen(d[i]) - weight
        largest = max(largest, max(max(size_bits(da), size_bits(db)), max(size_bits(dc), size_bits(dd))))
        ka, kb, kc, kd = cut(da, la, ha), cut(db, lb, hb), cut(dc, lc, hc), cut(dd, ld, hd)
        total = ZERO + ka * fa
        total += kb * fb
        total += kc * fc
        total += kd * fd
        sign = choose(total > 0, ONE, choose(total == 0, tie, -ONE))
        va, vb, vc, vd = vote_for(ka, fa, sign), vote_for(kb, fb, sign), vote_for(kc, fc, sign), vote_for(kd, fd, sign)
        agreed = ZERO + va
        agreed += vb
        agreed += vc
        agreed += vd
        share = ZERO + choose(va > 0, sa, ZERO)
        share += choose(vb > 0, sb, ZERO)
        share += choose(vc > 0, sc, ZERO)
        share += choose(vd > 0, sd, ZERO)
        divisor = choose(mean, choose(share > 0, share, ONE), ONE)
        merged[i] = agreed / divisor * sign
        weights[i] = weight
    return largest


@inlined
def _kept(delta, low):
    """τ, or 0 where |τ| is below low."""
    return choose(abs(delta) < low, ZERO, delta)


@inlined
def _agreeing(vote, sign_bit):
    """The magnitude of a vote with this sign bit; 0 for a vote of the other sign."""
    turned = as_float(as_bits(vote) ^ sign_bit)
    return choose(turned > 0, turned, ZERO)


@compiled
def elected_mean(like, base, tasks, factors, lows, tie, start, count, weights, merged):
    """`elected` for a mean over the number of agreeing tasks, without upper limits: what plain TIES needs."""
    w = halves(base, start, count, like)
    a = halves(tasks[0], start, count, like)
    b = halves(tasks[1], start, count, like)
    c = halves(tasks[2], start, count, like)
    d = halves(tasks[3], start, count, like)
    fa, fb, fc, fd = factors[0], factors[1], factors[2], factors[3]
    la, lb, lc, ld = lows[0], lows[1], lows[2], lows[3]
    largest = np.uint32(0)
    for i in range(count):
        weight = widen(w[i])
        da, db, dc, dd = widen(a[i]) - weight, widen(b[i]) - weight, widen(c[i]) - weight, widen(d[i]) - weight
        largest = max(largest, max(max(size_bits(da), size_bits(db)), max(size_bits(dc), size_bits(dd))))
        ka, kb, kc, kd = _kept(da, la) * fa, _kept(db, lb) * fb, _kept(dc, lc) * fc, _kept(dd, ld) * fd
        total = ZERO + ka
        total += kb
        total += kc
        total += kd
        sign_bit = as_bits(choose(total == 0, tie, total)) & _SIGN
        va, vb, vc, vd = (
            _agreeing(ka, sign_bit),
            _agreeing(kb, sign_bit),
            _agreeing(kc, sign_bit),
            _agreeing(kd, sign_bit),
        )
        agreed = ZERO + va
        agreed += vb
        agreed += vc
        agreed += vd
        share = choose(va > 0, ONE, ZERO)
        share += choose(vb > 0, ONE, ZERO)
        share += choose(vc > 0, ONE, ZERO)
        share += choose(vd > 0, ONE, ZERO)
        merged[i] = as_float(as_bits(agreed / max(share, ONE)) ^ sign_bit)
        weights[i] = weight
    return largest


@compiled
def elected_balance(like, base, tasks, factors, lows, start, count):
    """How many more elected signs are positive than negative, without upper limits; and the bits of the largest |τ|."""
    w = halves(base, start, count, like)
    a = halves(tasks[0], start, count, like)
    b = halves(tasks[1], start, count, like)
    c = halves(tasks[2], start, count, like)
    d = halves(tasks[3], start, count, like)
    fa, fb, fc, fd = factors[0], factors[1], factors[2], factors[3]
    la, lb, lc, ld = lows[0], lows[1], lows[2], lows[3]
    largest, balance = np.uint32(0), np.int32(0)
    for i in range(count):
        weight = widen(w[i])
        da, db, dc, dd = widen(a[i]) - weight, widen(b[i]) - weight, widen(c[i]) - weight, widen(d[i]) - weight
        largest = max(largest, max(max(size_bits(da), size_bits(db)), max(size_bits(dc), size_bits(dd))))
        total = ZERO + _kept(da, la) * fa
        total += _kept(db, lb) * fb
        total += _kept(dc, lc) * fc
        total += _kept(dd, ld) * fd
        balance = np.int32(balance + choose(total > 0, np.int32(1), np.int32(0)))
        balance = np.int32(balance - choose(total < 0, np.int32(1), np.int32(0)))
    return largest, balance


@compiled
def agreed_sum(like, base, tasks, factors, thresholds, enough, start, count, weights, merged):
    """Σ factor · τ where enough TALL masks claim the position; returns the bits of the largest |τ|."""
    w = halves(base, start, count, like)
    a = halves(tasks[0], start, count, like)
    b = halves(tasks[1], start, count, like)
    c = halves(tasks[2], start, count, like)
    d = halves(tasks[3], start, count, like)
    fa, fb, fc, fd = factors[0], factors[1], factors[2], factors[3]
    ta, tb, tc, td = thresholds[0], thresholds[1], thresholds[2], thresholds[3]
    largest = np.uint32(0)
    for i in range(count):
        weight = widen(w[i])
        da, db, dc, dd = widen(a[i]) - weight, widen(b[i]) - weight, widen(c[i]) - weight, widen(d[i]) - weight
        largest = max(largest, max(max(size_bits(da), size_bits(db)), max(size_bits(dc), size_bits(dd))))
        whole = ZERO + da
        whole += db
        whole += dc
        whole += dd
        claims = choose(abs(da) > abs(whole - da) * ta, ONE, ZERO)
        claims += choose(abs(db) > abs(whole - db) * tb, ONE, ZERO)
        claims += choose(abs(dc) > abs(whole - dc) * tc, ONE, ZERO)
        claims += choose(abs(dd) > abs(whole - dd) * td, ONE, ZERO)
        total = ZERO + da * fa
        total += db * fb
        total += dc * fc
        total += dd * fd
        merged[i] = choose(claims >= enough, total, ZERO)
        weights[i] = weight
    return largest
