"""Compiled loops for chances that go with a value's rank within its row: ranks are counted, so no row is sorted.

Magnitudes are laid into twice as many buckets as the row is long, by a map that never reverses their order: even below
the row's usual magnitude, even in the logarithm above it. What shares a bucket then lies side by side and is put right
by insertion, of which there is little; where there is much, and in rows whose buckets would not fit a cache, digits
are counted instead. Every way gives the exact order, equal magnitudes by position.
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
    inlined,
    load,
    pointer,
    size_bits,
    store,
    widen,
)
from explorer.merging._fused_kernels import BLOCK, add_all, combine
from explorer.merging._fused_options import DIVIDES, FACTOR

SHORT, LONG = 32, 1 << 16
"""Rows of up to SHORT values are ordered by insertion, those of LONG and more by digits."""
_INFINITY = np.uint32(0x7F800000)
_LARGEST = np.float32(np.finfo(np.float32).max)


@compiled
def _changes(source, base, count, delta):
    """τ = θ − θ₀; returns the bits of the largest |τ|. `source` holds bfloat16 bits or float32."""
    largest = np.uint32(0)
    for i in range(count):
        change = widen(source[i]) - base[i]
        largest = max(largest, size_bits(change))
        delta[i] = change
    return largest


@compiled
def _usual(delta, count):
    """The magnitude that some values of a row have on average, in the logarithm; zeros do not count."""
    total, some = 0, 0
    for i in range(0, count, max(1, count >> 6)):
        bits = size_bits(delta[i])
        total += np.int64(bits)
        some += np.int64(bits > 0)
    return as_float(np.uint32(total // max(some, 1)))


@compiled
def _buckets(delta, count, keys):
    """A bucket in 0 … 2 · count for every value of a row; a smaller magnitude never gets a higher one."""
    usual = _usual(delta, count)
    zero = np.int32(as_bits(usual))
    largest = np.uint32(0)
    for i in range(count):
        largest = max(largest, size_bits(delta[i]))
    span = np.int32(as_bits(as_float(largest) + usual)) - zero
    scale = np.float32((2 * count - 1) / max(span, 1))
    for i in range(count):
        keys[i] = np.uint32(np.int32(np.float32(np.int32(np.int32(as_bits(abs(delta[i]) + usual)) - zero)) * scale))


@inlined
def _item(number, position):
    """Magnitude and position in one whole number, which orders by the one and then by the other."""
    return np.int64(np.int64(np.int64(size_bits(number)) << np.int64(32)) | np.int64(position))


@compiled
def _place(delta, keys, count, counts, items):
    """Items of all values, in the order of their buckets, and of their positions within a bucket."""
    used = 2 * count + 1
    for i in range(used):
        counts[i] = np.uint32(0)
    for i in range(count):
        key = keys[i]
        counts[key] = np.uint32(counts[key] + np.uint32(1))
    before = np.uint32(0)
    for i in range(used):
        own = counts[i]
        counts[i] = before
        before = np.uint32(before + own)
    for i in range(count):
        key = keys[i]
        place = counts[key]
        counts[key] = np.uint32(place + np.uint32(1))
        items[place] = _item(delta[i], i)


@compiled
def _is_ordered(items, start, stop):
    wrong = np.int64(0)
    for i in range(start, stop):
        wrong |= items[np.uint64(i)] - items[np.uint64(i - 1)]
    return wrong >= 0


@compiled
def _insert(items, count, most):
    """Put nearly ordered items in order; False when that takes more than `most` steps, with the work half done."""
    for start in range(1, count, 64):
        stop = min(start + 64, count)
        if _is_ordered(items, start, stop):
            continue
        for i in range(start, stop):
            item, place = items[i], i
            while place > 0 and items[place - 1] > item:
                items[place] = items[place - 1]
                place -= 1
            items[place] = item
            most -= i - place
            if most < 0:
                return False
    return True


@compiled
def _by_digits(items, count, spare, counts):
    """Put items in order by counting four digits of their magnitudes; they begin in the order of their positions."""
    for shift in (32, 40, 48, 56):
        counts[:] = 0
        for i in range(count):
            counts[np.uint64(items[i] >> shift) & np.uint64(255)] += 1
        before = 0
        for digit in range(256):
            before, counts[digit] = before + counts[digit], before
        for i in range(count):
            digit = np.uint64(items[i] >> shift) & np.uint64(255)
            spare[counts[digit]] = items[i]
            counts[digit] += 1
        items[:count] = spare[:count]


@compiled
def _list(delta, count, items):
    """Items of all values, in the order of their positions."""
    for i in range(count):
        items[i] = _item(delta[i], i)


@compiled
def order(delta, count, scratch):
    """The items of a row, smallest magnitude first; they lie in `scratch`."""
    keys, counts, items, spare, digits = scratch
    if SHORT < count < LONG:
        _buckets(delta, count, keys)
        _place(delta, keys, count, counts, items)
        if _insert(items, count, 8 * count):
            return items
    _list(delta, count, items)
    if count <= SHORT:
        _insert(items, count, count * count)
    else:
        _by_digits(items, count, spare, digits)
    return items


@compiled
def scratch_for(columns):
    """Room for `order` of rows of this length."""
    keys, counts = np.empty(columns, np.uint32), np.empty(2 * columns + 1, np.uint32)
    return keys, counts, np.empty(columns, np.int64), np.empty(columns, np.int64), np.empty(256, np.int64)


@compiled
def _assign(items, count, table, chances):
    for i in range(count):
        chances[np.uint32(items[i])] = table[i]


@compiled
def _rank(delta, count, table, scratch, chances):
    """The chance of every value of a block of whole rows, by its rank within its row."""
    columns = len(table)
    if table[0] == table[columns - 1]:
        chances[:count] = table[0]
        return
    for row in range(0, count, columns):
        items = order(delta[row : row + columns], columns, scratch)
        _assign(items, columns, table, chances[row : row + columns])


@compiled
def _drawn(delta, chances, count, values, t, begin, seed_high, divides):
    """Values whose draw (the numbers of `_draws`) is below their chance, divided by it or not; 0 for the others."""
    for i in range(count):
        x = np.uint32(begin + np.uint32(i))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ seed_high)
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x2C1B3C6D))
        x = np.uint32(x ^ np.uint32(x >> np.uint32(15)))
        draw = np.float32(np.int32(np.int32(np.int32(x) >> np.int32(8)) + np.int32(1 << 23))) * np.float32(2**-24)
        chance = chances[i]
        grown = delta[i] / choose(divides, chance, np.float32(1))
        # Division alone must not make a finite change infinite.
        grown = choose(grown > _LARGEST, _LARGEST, choose(grown < -_LARGEST, -_LARGEST, grown))
        values[t, i] = choose(draw < chance, grown, np.float32(0))


@compiled
def _take(kind, address, start, count, base, spare, delta):
    """τ of one task's block; returns the bits of the largest |τ|."""
    if kind == BF16:
        return _changes(carray(pointer(address + 2 * start), count, np.uint16), base, count, delta)
    load(kind, address, start, count, spare)
    return _changes(spare, base, count, delta)


@compiled
def merge_rows(
    tables, base, base_kind, tasks, kinds, outs, out_kind, count, position, options, numbers, scalars, limits, seeds
):
    """As `merge`, after dropping by chance: `tables` [T, columns] are the chances of a row's values, smallest first.

    A block holds whole rows. Stops, with nothing complete, at a task vector that is not finite.
    """
    n_tasks, columns = len(kinds), tables.shape[1]
    block = columns * max(1, BLOCK // columns)
    values, delta, chances = (
        np.empty((n_tasks, block), np.float32),
        np.empty(block, np.float32),
        np.empty(block, np.float32),
    )
    weights, merged = np.empty(block, np.float32), np.empty(block, np.float32)
    spare, other = np.empty(block, np.float32), np.empty(block, np.float32)
    scratch, divides = scratch_for(columns), options[DIVIDES] > 0
    change, size = np.uint32(0), np.uint32(0)
    for start in range(0, count, block):
        n = min(block, count - start)
        load(base_kind, base, start, n, weights)
        for t in range(n_tasks):
            change = max(change, _take(kinds[t], tasks[t], start, n, weights, spare, delta))
            if change >= _INFINITY:
                return change, size, 0
            _rank(delta, n, tables[t], scratch, chances)
            _drawn(delta, chances, n, values, t, np.uint32(position + start + seeds[t, 0]), seeds[t, 1], divides)
        add_all(values, numbers[FACTOR], n_tasks, n, merged)
        combine(values, numbers, n_tasks, n, options, scalars, merged, spare, other)
        size = max(size, store(out_kind, outs[0], start, n, weights, merged))
    return change, size, 0
