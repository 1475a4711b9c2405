"""Random numbers behind the nulls: the same for the same tensor, chunk and task, in torch and in compiled loops.

A null needs no more draws than its standard error asks for. A model of up to `WHOLE` weights, and a chunk of up to
`WHOLE_CHUNK`, draw one for every weight; in larger ones, one weight in `EVERY` carries the null.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from explorer.seeds import stable_seed

BLOCK = 1024
"""Elements that carry the null of a sum together."""
EVERY = 16
WHOLE = 1 << 22
WHOLE_CHUNK = 1 << 16


def every(chunk_elements: int, model_elements: int) -> int:
    """One weight in how many carries the null in a chunk of this size."""
    return 1 if model_elements <= WHOLE or chunk_elements <= WHOLE_CHUNK else EVERY


def seed_words(tensor: str, start: int, task: str) -> tuple[int, int]:
    """The two 32-bit words that the stream of one task in one chunk starts from."""
    seed = stable_seed("null", tensor, start, task)
    return seed % 2**32, (seed >> 32) % 2**32


def first_block(tensor: str, start: int, step: int) -> int:
    """The first block of a chunk that carries the null; every `step`-th after it does."""
    return stable_seed("null", tensor, start) % step


def draws(words: tuple[int, int], at: np.ndarray) -> np.ndarray:
    """The numbers of a stream at these places, uint32: a mixed counter, so that no number needs the one before."""
    x = at.astype(np.uint32) + np.uint32(words[0])
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) ^ np.uint32(words[1])
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x2C1B3C6D)
    return x ^ (x >> np.uint32(15))


def places(words: tuple[int, int], count: int, among: int) -> Tensor:
    """`count` places in 0 … among − 1, each drawn on its own, int64; among ≥ 1."""
    drawn = draws(words, np.arange(count)).astype(np.uint64)
    return torch.from_numpy((drawn * np.uint64(among) >> np.uint64(32)).astype(np.int64))


def blocks_elements(count: int, step: int, first: int) -> int:
    """How many positions `blocks` gives."""
    whole, rest = divmod(count, BLOCK)
    return BLOCK * len(range(first, whole, step)) + (rest if whole % step == first else 0)


def blocks(count: int, step: int, first: int) -> Tensor:
    """The positions of a chunk of `count` in every `step`-th block from block `first` on, int64."""
    at = torch.arange(count)
    return at if step == 1 else at[(at // BLOCK) % step == first]


def flips(words: tuple[int, int], at: Tensor) -> Tensor:
    """True where the sign at these positions is turned, with chance ½ each on its own."""
    return torch.from_numpy(draws(words, at.numpy()) >= np.uint32(1 << 31))
