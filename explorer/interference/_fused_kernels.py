"""The compiled pass of a survey: every sum of the elementwise metrics from one reading of a chunk.

Blocks stay in the first-level cache. A block is read once per model, widened to float32, and all sums are taken from
there; blocks that no task changed are skipped. Floating-point sums are formed in float64 block by block, in a fixed
order. Imports numba, so only `_fused` imports it, when loops are at hand.
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from numba import carray

from explorer.compute.compiled import BF16, F32, choose, compiled, load, pointer, size_bits, widen
from explorer.interference._fused_levels import count_levels, take_levels
from explorer.interference._fused_planes import BLOCK, WORDS, count_ones, count_pair, count_votes, planes_of, signs_of
from explorer.interference._fused_sizes import add_histogram, dots, size_dots, sizes, squares, take_histogram

GRAM, SIGNS, MASS, MASKS, NORMS, SIZES, HISTOGRAM = range(7)
"""Places in `needs`: which sums are wanted, in the order of `_fused.NEEDS`."""
_ZERO = np.float32(0)


@compiled
def _subtract(source, base, count, into):
    """τ = θ − θ_0 of one block; returns the bits of the largest |τ|. `source` holds bfloat16 bits or float32."""
    largest = np.uint32(0)
    for i in range(count):
        delta = widen(source[i]) - base[i]
        largest = max(largest, size_bits(delta))
        into[i] = delta
    return largest


@compiled
def _delta(kind, address, direct, start, count, weights, nothing, spare, into):
    """One task's block as float32; the rest of the block is 0. `direct`: the source holds τ itself."""
    base = nothing if direct else weights
    if kind == BF16:
        largest = _subtract(carray(pointer(address + 2 * start), count, np.uint16), base, count, into)
    else:
        load(kind, address, start, count, spare)
        largest = _subtract(spare, base, count, into)
    into[count:] = _ZERO
    return largest


@compiled
def _add_four(a, b, c, d, la, lb, lc, ld, totals, masses):
    """Adds four tasks, in order, where their magnitude bits are above a limit, and their sizes."""
    for i in range(BLOCK):
        va = np.float64(choose(np.int32(size_bits(a[i])) > la, a[i], _ZERO))
        vb = np.float64(choose(np.int32(size_bits(b[i])) > lb, b[i], _ZERO))
        vc = np.float64(choose(np.int32(size_bits(c[i])) > lc, c[i], _ZERO))
        vd = np.float64(choose(np.int32(size_bits(d[i])) > ld, d[i], _ZERO))
        totals[i] = totals[i] + va + vb + vc + vd
        masses[i] = masses[i] + abs(va) + abs(vb) + abs(vc) + abs(vd)


@compiled
def _mass(values, limits, totals, masses):
    """Σ|τ| and Σ|Σ τ| over a block, of the entries above each task's limit."""
    totals[:] = 0.0
    masses[:] = 0.0
    for t in range(0, len(values), 4):
        la, lb, lc, ld = limits[t], limits[t + 1], limits[t + 2], limits[t + 3]
        _add_four(values[t], values[t + 1], values[t + 2], values[t + 3], la, lb, lc, ld, totals, masses)
    return sizes(masses), sizes(totals)


@compiled
def _drawn(low, high, i):
    """The i-th random number of a stream, 32 bits; the numbers of `_nulls.draws`."""
    x = np.uint32(low + np.uint32(i))
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ high)
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x846CA68B))
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x2C1B3C6D))
    return np.uint32(x ^ np.uint32(x >> np.uint32(15)))


@compiled
def _flipped(values, low, high, start, into):
    """One task's block under random signs: −τ where the draw's top bit is set."""
    for i in range(BLOCK):
        into[i] = choose(_drawn(low, high, start + i) >= np.uint32(1 << 31), -values[i], values[i])


@compiled
def _together(values, tasks, totals, into):
    """The multi-task vector of a block: added in float64, in order, and rounded once."""
    totals[:] = 0.0
    for t in range(0, tasks, 4):
        a, b, c, d = values[t], values[t + 1], values[t + 2], values[t + 3]
        for i in range(BLOCK):
            totals[i] = totals[i] + np.float64(a[i]) + np.float64(b[i]) + np.float64(c[i]) + np.float64(d[i])
    for i in range(BLOCK):
        into[i] = np.float32(totals[i])


@compiled
def _count_signs(values, limits, down, kept, counters, both, opposite, signs, votes):
    """Counts of one density: pairs kept by both, with opposite signs, entries up and down, and votes."""
    tasks = len(down)
    for t in range(tasks):
        planes_of(values[t], limits[t], kept[t])
    for a in range(tasks):
        for b in range(a, tasks):
            shared, crossed = count_pair(kept[a], kept[b], down[a], down[b])
            both[a, b] += shared
            opposite[a, b] += crossed
        low = count_pair(kept[a], down[a], down[a], down[a])[0]
        signs[a, 0] += count_ones(kept[a]) - low
        signs[a, 1] += low
    count_votes(kept, down, tasks, counters[0], counters[1], votes)


@compiled
def _count_changed(values, tasks, planes, start, counts, live):
    """Adds to `counts` [T + 1] what each task and any task changed, and lists the places where `live` has room."""
    anywhere = planes[tasks]
    anywhere[:] = np.uint64(0)
    for t in range(tasks):
        planes_of(values[t], np.int32(0), planes[t])
        counts[t] += count_ones(planes[t])
        for w in range(WORDS):
            anywhere[w] |= planes[t, w]
    if len(live):
        place = counts[tasks]
        for i in range(BLOCK):
            if (anywhere[i // 64] >> np.uint64(i % 64)) & np.uint64(1):
                live[place] = start + i
                place += 1
    counts[tasks] += count_ones(anywhere)


@compiled
def collect(
    base, base_kind, tasks, kinds, direct, count, needs, limits, seeds, every, offset, sets, work, sums, counts, live
):
    """Every sum wanted of one chunk of `count` elements from address to address; returns bits of the largest |τ|.

    `limits` [J, T₄]: magnitude bits that an entry must exceed, per density and task. Every `every`-th block from block
    `offset` on carries the null of the mass. Shapes of `work`, `sums` and `counts` are those of `_fused`.
    """
    weights, nothing, spare, values, flips, totals, masses, planes, kept, counters, room, down = work
    gram, base_squared, mass, lengths, table, histogram = sums
    changed, both, opposite, signs, votes, reached = counts
    n_tasks, change = len(kinds), np.uint32(0)
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        load(base_kind, base, start, n, weights)
        if n < BLOCK:
            weights[n:] = _ZERO
        if needs[NORMS]:
            base_squared[0] += squares(weights)
        largest = np.uint32(0)
        for t in range(n_tasks):
            found = _delta(kinds[t], tasks[t], direct[t], start, n, weights, nothing, spare, values[t])
            largest = max(largest, found)
        change = max(change, largest)
        if largest == 0:
            continue
        _count_changed(values, n_tasks, planes, start, changed, live)
        _add_products(values, n_tasks, needs, gram)
        length = 0.0
        if needs[SIZES] or needs[MASS]:
            for t in range(n_tasks):
                size = sizes(values[t])
                lengths[t] += size
                length += size
        if needs[HISTOGRAM]:
            for t in range(n_tasks):
                add_histogram(values[t], n, room[0], masses, table[t])
        if needs[SIGNS]:
            for t in range(n_tasks):
                signs_of(values[t], down[t])
            for j in range(len(limits)):
                _count_signs(values, limits[j], down, kept, counters, both[j], opposite[j], signs[j], votes[j])
        if needs[MASS] or needs[MASKS]:
            _together(values, n_tasks, totals, spare)
        if needs[MASS]:
            drawn = (start // BLOCK) % every == offset
            _add_mass(values, limits, seeds, start, drawn, length, flips, totals, masses, mass)
        if needs[MASKS]:
            count_levels(values, spare, n_tasks, sets[0], sets[1], room)
    take_levels(room, reached)
    for t in range(len(table)):
        take_histogram(table[t], changed[t], histogram[t])
    return change


@compiled
def _add_products(values, tasks, needs, gram):
    """Adds to `gram` [3, T, T], upper triangles: Σ a b, Σ a² b² and Σ |a b|."""
    for a in range(tasks):
        for b in range(a, tasks):
            if needs[SIZES] and a != b:
                dot, square, size = size_dots(values[a], values[b])
                gram[2, a, b] += size
            elif needs[GRAM]:
                dot, square = dots(values[a], values[b])
            elif (needs[NORMS] or needs[SIZES]) and a == b:
                dot, square = squares(values[a]), 0.0
            else:
                continue
            gram[0, a, b] += dot
            gram[1, a, b] += square


@compiled
def _add_mass(values, limits, seeds, start, drawn, length, flips, totals, masses, mass):
    """Adds to `mass` [J, 4]: Σ|τ|, Σ|Σ τ|, and where the block carries the null the same under random signs.

    `totals` holds the sum of all tasks, and is written over; `length` is Σ|τ| of the whole block.
    """
    for j in range(len(limits)):
        if j == 0 and not limits[0].any():
            mass[0, 0] += length
            mass[0, 1] += sizes(totals)
        else:
            all_of_it, rest = _mass(values, limits[j], totals, masses)
            mass[j, 0] += all_of_it
            mass[j, 1] += rest
        if drawn:
            if j == 0:
                for t in range(len(seeds)):
                    _flipped(values[t], seeds[t, 0], seeds[t, 1], start, flips[t])
            all_of_it, rest = _mass(flips, limits[j], totals, masses)
            mass[j, 2] += all_of_it
            mass[j, 3] += rest


@compiled
def _places(low, high, start, count, among, live, into):
    """Random places of a chunk: among all its elements, or among those in `live`; the numbers of `_nulls.places`."""
    for i in range(count):
        into[i] = np.int32((np.uint64(_drawn(low, high, start + i)) * np.uint64(among)) >> np.uint64(32))
    if len(live):
        for i in range(count):
            into[i] = live[np.uint32(into[i])]


@compiled
def _gather(kind, address, places, count, n, halves, into):
    """The elements at these places of a chunk of n, as float32."""
    if kind == F32:
        source = carray(pointer(address), n, np.float32)
        for i in range(count):
            into[i] = source[np.uint32(places[i])]
    else:
        bits = carray(pointer(address), n, np.uint16)
        for i in range(count):
            halves[i] = bits[np.uint32(places[i])]
        load(kind, halves.ctypes.data, 0, count, into)


@compiled
def null_levels(base, base_kind, tasks, kinds, direct, count, draws, seeds, live, drawn, sets, work, reached):
    """Adds to `reached` [R, 40] the levels of `draws` positions, where every task has an entry drawn on its own."""
    weights, nothing, spare, values, _, totals, _, _, _, _, room, _ = work
    halves, places = drawn
    among = len(live) if len(live) else count
    for start in range(0, draws, BLOCK):
        n = min(BLOCK, draws - start)
        for t in range(len(kinds)):
            low, high = seeds[t]
            _places(low, high, start, n, among, live, places)
            _gather(base_kind, base, places, n, count, halves, weights)
            _gather(kinds[t], tasks[t], places, n, count, halves, spare)
            _subtract(spare, nothing if direct[t] else weights, n, values[t])
            values[t][n:] = _ZERO
        _together(values, len(kinds), totals, spare)
        count_levels(values, spare, len(kinds), sets[0], sets[1], room)
    take_levels(room, reached)
