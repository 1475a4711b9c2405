"""What a metric `on="matrix"` sees: one whole matrix of every task, with one decomposition per task shared by all.

Only tensors that are linear maps count: 2-D ones, and kernels of convolutions as output channels x everything else.
Biases and norms are no matrices; lookup tables and heads with more than `MOST_ROWS` rows are left out, because
their rows are words, most of which no task has seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from explorer.checkpoints.groups import Group
from explorer.compute.singular import Singular, decompose
from explorer.seeds import stable_seed

MOST_ROWS = 4096
"""Rows (words) up to which an embedding or a head is treated as a matrix."""
EQUAL_SHARE = "singular directions kept of each task; 0: an equal share of the rank, ⌊min(m, n) / T⌋, at least 1"
MOST_RANK = 4096


def matrix_shape(shape: tuple[int, ...], group: Group) -> tuple[int, int] | str:
    """Rows and columns of a tensor seen as a matrix, or in words why it is none."""
    if len(shape) < 2 or 0 in shape or min(shape[0], prod(shape[1:])) < 2:
        return "no matrix"
    if group.kind in ("embedding", "head") and shape[0] > MOST_ROWS:
        return f"table of more than {MOST_ROWS} rows"
    return shape[0], prod(shape[1:])


@dataclass(eq=False)
class MatrixContext:
    """One matrix of every task: `deltas` [T, m, n], and what several metrics need of it, computed once.

    `known` holds the decompositions made so far; the merged one is that of Σ τ_t.
    """

    tensor: str
    tasks: tuple[str, ...]
    deltas: Tensor = field(repr=False)
    known: dict[object, Singular] = field(default_factory=dict, repr=False)

    @property
    def side(self) -> int:
        """The smaller side, which is the largest rank."""
        return min(self.deltas.shape[1:])

    @property
    def sketched(self) -> Tensor:
        """1 where the decomposition of some task leaves part of it unseen, else 0."""
        return torch.tensor(int(any(not self.singular(t).exact for t in range(len(self.tasks)))))

    def singular(self, task: int) -> Singular:
        """Singular values and vectors of τ_t."""
        if task not in self.known:
            self.known[task] = decompose(self.deltas[task], stable_seed("sketch", self.tensor, self.tasks[task]))
        return self.known[task]

    def merged(self) -> Singular:
        """Singular values and vectors of Σ τ_t."""
        if "merged" not in self.known:
            total = self.deltas.sum(0, dtype=torch.float64)
            self.known["merged"] = decompose(total, stable_seed("sketch", self.tensor))
        return self.known["merged"]

    def generator(self, task: str) -> torch.Generator:
        """A fresh CPU generator for the null of one task: the same for the same tensor and task name."""
        return torch.Generator().manual_seed(stable_seed("null", self.tensor, task))

    def kept(self, rank: int) -> int:
        """Directions kept of each task: `rank`, or for 0 an equal share of the smaller side; never more than it."""
        return min(rank or max(1, self.side // max(1, len(self.tasks))), self.side)
