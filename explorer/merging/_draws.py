"""Random numbers that depend on a seed and a position only, so a mask is the same however a tensor is cut.

A generator would have to start at the tensor's first element; a hash of the position needs no start. The hash uses
whole-number arithmetic that wraps, which every device computes alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_FIRST, _SECOND, _THIRD = 0x7FEB352D, 0x846CA68B, 0x2C1B3C6D


def draws(seed: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Evenly spread whole numbers in −2³¹ … 2³¹ − 1 for the positions start … start + count; int32 [count].

    `seed` has 63 bits. Positions 2³² apart share their number.
    """
    numbers = torch.arange(count, dtype=torch.int32, device=device).add_(_wrapped(start + seed))
    _mix(numbers, 16, _FIRST)
    numbers.bitwise_xor_(_wrapped(seed >> 32))
    _mix(numbers, 15, _SECOND)
    _mix(numbers, 16, _THIRD)
    return _shifted(numbers, 15)


def keep(seed: int, start: int, count: int, density: float, device: torch.device | str = "cpu") -> Tensor:
    """True with probability `density` in [0, 1] at each position, independently; bool [count]. 1 keeps all."""
    limit = round(density * 2**32) - 2**31
    if limit >= 2**31:
        return torch.ones(count, dtype=torch.bool, device=device)
    return draws(seed, start, count, device) < limit


def uniform(seed: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Multiples of 2⁻²⁴ in [0, 1), independent; float32 [count]."""
    return draws(seed, start, count, device).bitwise_right_shift_(8).add_(1 << 23).to(torch.float32).mul_(2**-24)


def row_length(shape: Sequence[int]) -> int:
    """Entries of a row, of which the first dimension counts how many there are; scalars and vectors are one row."""
    return math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)


def chances(density: float, spread: float, columns: int, **like: Any) -> Tensor:
    """Chances of a row's entries to be kept, [columns]: density − spread for the smallest to density + spread.

    Linear in the rank; a single entry has the density. `like`: dtype and device.
    """
    if columns == 1 or spread == 0:
        return torch.full((columns,), density, **like)
    return torch.linspace(density - spread, density + spread, columns, **like)


def _mix(numbers: Tensor, shift: int, factor: int) -> None:
    _shifted(numbers, shift).mul_(_wrapped(factor))


def _shifted(numbers: Tensor, shift: int) -> Tensor:
    """numbers ^= numbers >> shift, with zeros coming in from the left; in place."""
    return numbers.bitwise_xor_((numbers >> shift).bitwise_and_((1 << (32 - shift)) - 1))


def _wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
