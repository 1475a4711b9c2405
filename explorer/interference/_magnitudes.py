"""Histograms of |τ_t| that answer for every density: logarithmic bins, with the number of entries and their energy.

A bin is an eighth of an octave, read off the float's own bits (exponent and three bits of the fraction), so that
neighbouring bin edges differ by 1/15 to 1/8. The histogram covers 64 octaves, 2^-48 to 2^16; the first and the last
bin also take what lies beyond. It is additive and small: 512 counters and 512 sums of squares per task and tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, pi, sqrt
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

BINS = 512
_PER_OCTAVE = 8
_LOWEST = -48
_BITS = {torch.float32: (torch.int32, 20, 127), torch.float64: (torch.int64, 49, 1023)}
"""Integer view of a float, how far to shift it to keep three bits of the fraction, and the exponent's bias."""

_steps = np.arange(BINS + 1)
EDGES = 2.0 ** (_LOWEST + _steps // _PER_OCTAVE) * (1 + _steps % _PER_OCTAVE / _PER_OCTAVE)
"""Bin b holds EDGES[b] ≤ |τ| < EDGES[b + 1], float64 [513]."""
_LOW_SQUARES = np.concatenate([[0.0], EDGES[1:-1] ** 2])
_HIGH_SQUARES = np.concatenate([EDGES[1:-1] ** 2, [np.inf]])


def histogram(row: Tensor) -> tuple[Tensor, Tensor]:
    """Number of non-zero entries (int64) and sum of their squares (float64) in every bin, [n] -> 2 x [512]."""
    whole, shift, bias = _BITS[row.dtype]
    place = row.abs().view(whole) >> shift
    width = 2 * (bias + 1) * _PER_OCTAVE
    counts = torch.bincount(place, minlength=width)
    counts[0] -= row.numel() - row.count_nonzero()
    energy = torch.bincount(place, row.double().square(), width).double()
    first = (bias + _LOWEST) * _PER_OCTAVE
    return _folded(counts, first), _folded(energy, first)


def _folded(fine: Tensor, first: int) -> Tensor:
    """The bins from `first` on, [512], with all that lies below or above added to the first and the last."""
    bins = fine[first : first + BINS].clone()
    bins[0] += fine[:first].sum()
    bins[-1] += fine[first + BINS :].sum()
    return bins


@dataclass(frozen=True)
class Kept:
    """What the k largest entries hold: norm kept / norm and its bin error, both [D]; exact within ± error."""

    norm: np.ndarray
    error: np.ndarray


def norm_kept(counts: np.ndarray, energy: np.ndarray, kept: np.ndarray) -> Kept:
    """‖the k largest entries‖ / ‖τ‖ from one histogram [512], for each k in `kept` [D]; NaN for a zero vector.

    Whole bins above the k-th largest entry are exact. Of its own bin (c entries, energy e, edges l ≤ |τ| < h) the m
    largest hold at least m e / c and at most min(e, m h², e − (c − m) l²). The middle is given, and half the width.
    """
    size, total = counts[::-1], energy.sum()
    if not total:
        return Kept(np.full(len(kept), np.nan), np.full(len(kept), np.nan))
    upto, energy_upto = np.cumsum(size), np.cumsum(energy[::-1])
    place = np.minimum(np.searchsorted(upto, kept), BINS - 1)
    inside, held = size[place].astype(float), energy[::-1][place]
    part = np.clip(kept - (upto[place] - size[place]), 0, inside)
    above = energy_upto[place] - held
    least = np.divide(part * held, inside, out=np.zeros(len(part)), where=inside > 0)
    high, low = _HIGH_SQUARES[::-1][place], _LOW_SQUARES[::-1][place]
    bound = np.where(part > 0, part * np.where(part > 0, high, 0), 0)
    most = np.maximum(np.minimum(np.minimum(held, bound), held - (inside - part) * low), least)
    ends = np.sqrt(np.clip((above + np.stack([least, most])) / total, 0, 1))
    return Kept(ends.mean(0), (ends[1] - ends[0]) / 2)


def entries_for(counts: np.ndarray, energy: np.ndarray, share: float) -> tuple[float, float]:
    """How many of the largest entries hold `share` of the norm, and the bin error; NaN for a zero vector.

    Of the bin in which the goal is reached, at least (missing energy) / h² and at most (missing energy) / mean are
    needed. The middle is given, and half the width, each end rounded up to whole entries.
    """
    total = energy.sum()
    if not total:
        return float("nan"), float("nan")
    # the last digits of a sum must not cost an entry more
    goal = share**2 * total * (1 - 1e-12)
    upto = np.cumsum(energy[::-1])
    place = int(min(np.searchsorted(upto, goal), BINS - 1))
    held, inside = float(energy[::-1][place]), float(counts[::-1][place])
    missing = goal - (float(upto[place]) - held)
    most = min(np.ceil(missing * inside / held), inside)
    least = min(np.ceil(missing / _HIGH_SQUARES[::-1][place]), most)
    above = float(counts[::-1][:place].sum())
    return above + (least + most) / 2, (most - least) / 2


def gaussian_kept(part: float) -> float:
    """‖the largest entries‖ / ‖x‖ when the fraction `part` of a long vector of independent normal entries is kept.

    √(p + 2 z φ(z)) with z the (1 − p/2) quantile and φ the density of the normal distribution; 0 at 0, 1 at 1.
    """
    if not 0 < part < 1:
        return float(min(max(part, 0.0), 1.0)) if part == part else part
    z = -NormalDist().inv_cdf(part / 2)
    return min(sqrt(part + 2 * z * exp(-z * z / 2) / sqrt(2 * pi)), 1.0)


def gaussian_part_for(share: float) -> float:
    """The fraction of normal entries that holds `share` of the norm: the inverse of `gaussian_kept`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_kept(middle) < share else (low, middle)
    return (low + high) / 2
