"""Sums whose bits do not depend on how many threads work on them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

BLOCK = 1024
"""Elements summed together before blocks are: fixed, so that the order of additions is fixed."""


def row_sums(values: Tensor) -> Tensor:
    """Sum over the last dimension in float64, [..., n] -> [...]; 0 for n = 0.

    Adds blocks of fixed length first: a plain sum over a long row splits it by the number of threads.
    """
    whole = values.shape[-1] // BLOCK * BLOCK
    blocks = values[..., :whole].reshape(*values.shape[:-1], whole // BLOCK, BLOCK)
    tail = values[..., whole:].sum(-1, dtype=torch.float64)
    return blocks.sum(-1, dtype=torch.float64).sum(-1) + tail


def gram(rows: Tensor) -> Tensor:
    """All dot products of float64 rows, [T, n] -> [T, T], symmetric to the bit."""
    count = rows.shape[0]
    out = torch.zeros((count, count), dtype=torch.float64, device=rows.device)
    for index in range(count):
        out[index, index:] = out[index:, index] = row_sums(rows[index:] * rows[index])
    return out


def pairs(count: int) -> list[tuple[int, int]]:
    """Indices a < b of all pairs among `count` tasks, in order; none for one task."""
    return list(itertools.combinations(range(count), 2))


def ratio(part: float, whole: float) -> float:
    """part / whole; NaN where whole is 0, which means "not defined here"."""
    return float(part) / float(whole) if whole else float("nan")
