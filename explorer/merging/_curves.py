"""exp and tanh made of sums, products and quotients alone, so that compiled loops and torch give the same bits.

A library's own are as exact, but differ between libraries, devices and versions in the last bit. Wider numbers than
float32 take torch's: no compiled loop reads them.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 88.0
"""exp is not taken of more: a float32 would be infinite."""
ROUND = 12582912.0
"""1.5 · 2²³: adding and subtracting it rounds a float32 to the nearest whole number."""
LOG2_E, LN2_HIGH, LN2_LOW = 1.44269504, 0.693359375, -2.12194440e-4
TAYLOR = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)


def exp(values: Tensor) -> Tensor:
    """eˣ for x in −80 … 88, above as for 88; to about one unit of the last place.

    x = n ln 2 + r with whole n; Taylor's sum of eʳ up to r⁷, times 2ⁿ.
    """
    if values.dtype != torch.float32:
        return values.exp()
    cut = values.clamp(max=MOST)
    whole = (cut * LOG2_E + ROUND) - ROUND
    rest = (cut - whole * LN2_HIGH) - whole * LN2_LOW
    total = torch.full_like(rest, TAYLOR[0])
    for term in TAYLOR[1:]:
        total = total * rest + term
    return total * ((whole.to(torch.int32) + 127) << 23).view(torch.float32)


def tanh_within_1(values: Tensor) -> Tensor:
    """tanh x for |x| up to about 1, to a few units of the last place: Lambert's continued fraction, five levels."""
    if values.dtype != torch.float32:
        return values.tanh()
    square = values * values
    over = (square + 105) * square + 945
    under = (square * 15 + 420) * square + 945
    return values * over / under


def tanh(values: Tensor) -> Tensor:
    """tanh x for every x, to a few units of the last place: tanh 2y = 2 tanh y / (1 + tanh² y), three times."""
    if values.dtype != torch.float32:
        return values.tanh()
    found = tanh_within_1(values.clamp(-9, 9) * 0.125)
    for _ in range(3):
        found = (found + found) / (found * found + 1)
    return found
