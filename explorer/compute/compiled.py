"""Numbers as compiled loops read and write them: bfloat16 and float16 by their bits, from memory addresses.

Imports numba: to be imported only when loops are loaded (`readiness`, which also says where they are kept).
"""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import carray, config, njit, types
from numba.extending import intrinsic

from explorer.compute.readiness import folder

BF16, F16, F32 = 0, 1, 2

_FLOATS = {"nogil": True, "error_model": "numpy", "boundscheck": False}
inlined = njit(**_FLOATS, inline="always")


def compiled(function, **more):
    """Compile when first called; keep the result for the next start, if its folder can be written."""
    kept, options = folder(), {**_FLOATS, **more}
    if kept is None:
        return njit(**options)(function)
    before, config.CACHE_DIR = config.CACHE_DIR, str(kept)
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # no place to keep it
        return njit(**options)(function)
    finally:
        config.CACHE_DIR = before


def regrouped(function):
    """As `compiled`, for a long sum: its terms may be added in groups, always the same ones for one processor."""
    return compiled(function, fastmath={"reassoc", "contract"})


@intrinsic
def as_float(typing, number):
    """The float32 with these 32 bits."""
    from llvmlite import ir

    return types.float32(types.uint32), lambda _, builder, __, given: builder.bitcast(given[0], ir.FloatType())


@intrinsic
def as_bits(typing, number):
    """The 32 bits of a float32."""
    from llvmlite import ir

    return types.uint32(types.float32), lambda _, builder, __, given: builder.bitcast(given[0], ir.IntType(32))


@intrinsic
def pointer(typing, address):
    """A memory address as a pointer."""
    from llvmlite import ir

    kind = ir.IntType(8).as_pointer()
    return types.voidptr(types.int64), lambda _, builder, __, given: builder.inttoptr(given[0], kind)


@intrinsic
def _pointer_to(typing, address, like):
    """A memory address as a pointer to values of the type of `like`."""

    def codegen(context, builder, signature, given):
        return builder.inttoptr(given[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.int64, like), codegen


@intrinsic
def choose(typing, condition, yes, no):
    """`yes` where the condition holds, else `no`: without a branch, which would keep a loop from vectorising."""
    return yes(types.boolean, yes, yes), lambda _, builder, __, given: builder.select(*given)


@intrinsic
def widen(typing, number):
    """A float32 as it is; an unsigned 16-bit pattern as the bfloat16, a signed one as the float16 it stands for."""
    from llvmlite import ir

    def codegen(_, builder, __, given):
        if number == types.float32:
            return given[0]
        if number == types.int16:
            return builder.fpext(builder.bitcast(given[0], ir.HalfType()), ir.FloatType())
        bits = builder.shl(builder.zext(given[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(number), codegen


@inlined
def size_bits(number):
    return np.uint32(as_bits(number) & np.uint32(0x7FFFFFFF))


@inlined
def _to_bf16(number):
    bits = as_bits(number)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))


@intrinsic
def _extended(typing, half):
    """The float32 of a float16, given by its bits, by the processor's own instruction."""
    from llvmlite import ir

    def codegen(_, builder, __, given):
        return builder.fpext(builder.bitcast(given[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def _shortened(typing, number):
    """The bits of a float32 rounded to float16, to nearest even, by the processor's own instruction."""
    from llvmlite import ir

    def codegen(_, builder, __, given):
        return builder.bitcast(builder.fptrunc(given[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


@inlined
def _extended_by_hand(half):
    wide = np.uint32(np.uint32(half & np.uint16(0x7FFF)) << np.uint32(13))
    sign = np.uint32(np.uint32(half & np.uint16(0x8000)) << np.uint32(16))
    normal = np.uint32(wide + np.uint32(112 << 23))
    special = np.uint32(normal + np.uint32(112 << 23))
    tiny = as_bits(as_float(np.uint32(wide + np.uint32(113 << 23))) - as_float(np.uint32(113 << 23)))
    exponent = np.uint32(wide & np.uint32(0x0F800000))
    found = choose(exponent == 0, tiny, choose(exponent == np.uint32(0x0F800000), special, normal))
    return as_float(np.uint32(found | sign))


@inlined
def _shortened_by_hand(number):
    size = size_bits(number)
    sign = np.uint32(np.uint32(as_bits(number) >> np.uint32(16)) & np.uint32(0x8000))
    odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
    round_up = np.uint32(np.uint32(size + np.uint32(0xFFF)) + odd)
    normal = np.uint32(np.uint32(round_up >> np.uint32(13)) - np.uint32(112 << 10))
    # Below 2⁻¹⁴ the sum with 0.5 rounds to the spacing of the smallest halves, and leaves them in the lowest bits.
    tiny = np.uint32(as_bits(as_float(size) + np.float32(0.5)) - np.uint32(126 << 23))
    return np.uint16(choose(size < np.uint32(113 << 23), tiny, normal) | sign)


CONVERTS = bool(get_host_cpu_features().get("f16c"))
"""Whether the processor converts float16 itself; elsewhere the bits are moved one by one, with the same result."""
_from_f16 = _extended if CONVERTS else _extended_by_hand
_to_f16 = _shortened if CONVERTS else _shortened_by_hand
LIKE_BF16, LIKE_F16 = np.uint16(0), np.int16(0) if CONVERTS else np.uint16(0)
"""What `halves` takes: the type alone tells. Loops over float16 bits are for processors that convert them."""


@compiled
def halves(address, start, count, like):
    """The 16-bit patterns from an address on, of the type of `like`, for `widen`."""
    return carray(_pointer_to(address + 2 * start, like), count)


@compiled
def load(kind, address, start, count, into):
    if kind == BF16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            into[i] = widen(halves[i])
    elif kind == F16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            into[i] = _from_f16(halves[i])
    else:
        singles = carray(pointer(address + 4 * start), count, np.float32)
        for i in range(count):
            into[i] = singles[i]


@compiled
def store(kind, address, start, count, base, merged):
    """Base plus merged task vector, rounded to nearest even; the base's own bits where that vector is 0.

    Returns the bits of the largest |weight|, which tell a NaN or an infinity too.
    """
    largest = np.uint32(0)
    if kind == BF16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            weight = choose(merged[i] == 0, base[i], merged[i] + base[i])
            largest = max(largest, size_bits(weight))
            halves[i] = _to_bf16(weight)
    elif kind == F16:
        halves = carray(pointer(address + 2 * start), count, np.uint16)
        for i in range(count):
            weight = choose(merged[i] == 0, base[i], merged[i] + base[i])
            largest = max(largest, size_bits(weight))
            halves[i] = _to_f16(weight)
    else:
        singles = carray(pointer(address + 4 * start), count, np.float32)
        for i in range(count):
            weight = choose(merged[i] == 0, base[i], merged[i] + base[i])
            largest = max(largest, size_bits(weight))
            singles[i] = weight
    return largest
