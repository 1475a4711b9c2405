"""Masks over the elements of a tensor, one bit each, and what several tasks' masks have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.errors import AlignmentError, all_problems, sentence

_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
_BLOCK_BYTES = 1 << 16


def _packed_bytes(length: int) -> int:
    return (length + 7) // 8


@dataclass(frozen=True)
class Mask:
    """A boolean tensor of `shape`, packed eight elements to a byte, the first in the highest bit.

    `bits` holds ceil(numel / 8) bytes in row-major order; the bits that pad the last byte are 0. Immutable, hashable.
    Raises ValueError (a programming error) when bits and shape do not fit, or a padding bit is set.
    """

    bits: bytes
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.bits) != _packed_bytes(self.length):
            raise ValueError(
                f"Mask: {self.length} elements need {_packed_bytes(self.length)} bytes; got {len(self.bits)}"
            )
        if self.length % 8 and self.bits[-1] & (0xFF >> self.length % 8):
            raise ValueError(f"Mask: the bits after element {self.length} must be 0; got {self.bits[-1]:08b}")

    @staticmethod
    def from_tensor(values: Tensor) -> Mask:
        """Pack a boolean tensor of any shape. Raises TypeError for another dtype: thresholds belong to the caller."""
        if values.dtype != torch.bool:
            raise TypeError(
                f"Mask: values must be torch.bool; got {values.dtype}. Compare first, as in `delta.abs() > t`."
            )
        flat = values.detach().cpu().reshape(-1).numpy()
        return Mask(np.packbits(flat).tobytes(), tuple(values.shape))

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def packed(self) -> NDArray[np.uint8]:
        """The packed bytes as a read-only array."""
        return np.frombuffer(self.bits, dtype=np.uint8)

    def to_tensor(self) -> Tensor:
        """The boolean tensor again, without the padding."""
        flat = np.unpackbits(self.packed, count=self.length).astype(bool)
        return torch.from_numpy(flat).reshape(self.shape)

    def count(self) -> int:
        """Number of elements that are set."""
        return int(_ONES[self.packed].sum(dtype=np.int64))

    @property
    def density(self) -> float:
        """Fraction of elements that are set, 0-1; 0 for a mask without elements."""
        return self.count() / self.length if self.length else 0.0

    def _with(self, packed: NDArray[np.uint8]) -> Mask:
        return Mask(packed.tobytes(), self.shape)

    def _same_shape(self, other: Mask) -> None:
        if self.shape != other.shape:
            got = f"{list(self.shape)} and {list(other.shape)}"
            raise AlignmentError(sentence("masks", "must have one shape", got, "Use masks of one tensor."))

    def __and__(self, other: Mask) -> Mask:
        """Set in both. Raises AlignmentError for another shape."""
        self._same_shape(other)
        return self._with(self.packed & other.packed)

    def __or__(self, other: Mask) -> Mask:
        """Set in either. Raises AlignmentError for another shape."""
        self._same_shape(other)
        return self._with(self.packed | other.packed)

    def __invert__(self) -> Mask:
        """Set where this one is not; the padding stays 0."""
        flipped = ~self.packed
        if self.length % 8:
            flipped[-1] &= np.uint8(0xFF & ~(0xFF >> self.length % 8))
        return self._with(flipped)

    def __repr__(self) -> str:
        return f"Mask({list(self.shape)}, density {self.density:.4f})"


class MaskSet:
    """One mask per task over the same tensor, in a fixed order of tasks.

    Raises AlignmentError naming every task whose mask has another shape than the first; ValueError when empty.
    """

    def __init__(self, masks: Mapping[str, Mask]) -> None:
        if not masks:
            raise ValueError("MaskSet: needs the mask of at least one task; got none")
        self.tasks = tuple(masks)
        self._masks = tuple(masks.values())
        self.shape = self._masks[0].shape
        problems = [
            sentence(
                f"task {task}", f"mask must have shape {list(self.shape)}", list(mask.shape), "Use one tensor's masks."
            )
            for task, mask in masks.items()
            if mask.shape != self.shape
        ]
        if problems:
            raise AlignmentError(all_problems("masks", problems))

    def __getitem__(self, task: str) -> Mask:
        return self._masks[self.tasks.index(task)]

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        """How many tasks set each element, a block at a time."""
        for start in range(0, _packed_bytes(self.length), _BLOCK_BYTES):
            wanted = min(8 * _BLOCK_BYTES, self.length - 8 * start)
            rows = [np.unpackbits(m.packed[start : start + _BLOCK_BYTES], count=wanted) for m in self._masks]
            yield np.sum(rows, axis=0, dtype=np.int64)

    def agreement(self) -> Tensor:
        """n[i], the number of tasks that set element i, int16 in the masks' shape."""
        blocks = [block.astype(np.int16) for block in self._blocks()] or [np.zeros(0, dtype=np.int16)]
        return torch.from_numpy(np.concatenate(blocks)).reshape(self.shape)

    def agreement_counts(self) -> NDArray[np.int64]:
        """Elements that exactly k tasks set, k = 0 … T; [T + 1], sums to the number of elements.

        k = 0 are the catastrophic elements, 1 the selfish, T the universal ones.
        """
        total = np.zeros(len(self) + 1, dtype=np.int64)
        for block in self._blocks():
            total += np.bincount(block, minlength=len(self) + 1)
        return total

    def consensus(self, min_tasks: int) -> Mask:
        """Elements that at least `min_tasks` tasks set; all of them for 0, none above T."""
        flat = [np.packbits(block >= min_tasks) for block in self._blocks()]
        return Mask(b"".join(part.tobytes() for part in flat), self.shape)

    def intersection(self) -> NDArray[np.int64]:
        """Elements that both tasks set, [T, T]; each task's own count on the diagonal."""
        pairs = [[int(_ONES[a.packed & b.packed].sum(dtype=np.int64)) for b in self._masks] for a in self._masks]
        return np.array(pairs, dtype=np.int64)

    def union(self) -> NDArray[np.int64]:
        """Elements that either task sets, [T, T]."""
        both = self.intersection()
        own = np.diagonal(both)
        return own[:, None] + own[None, :] - both

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union, [T, T], 0-1; NaN where both masks are empty, since nothing can be compared."""
        both, either = self.intersection(), self.union()
        with np.errstate(invalid="ignore"):
            return np.where(either > 0, both / np.maximum(either, 1), np.nan)
