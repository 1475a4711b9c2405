"""Made-up statistics for methods that need data: Fisher values with zeros among them, Gram matrices of 2-D tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from explorer.compute.source import StateDictSource

StateDict = Mapping[str, Tensor]


def measured(base: StateDict, seed: int) -> dict[str, Tensor]:
    """One task's statistics, under the keys of a statistics file; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, tensor in base.items():
        draws = torch.randn(tensor.shape, generator=generator)
        found[f"fisher/{name}"] = torch.where(draws.abs() < 0.2, 0, draws.square() * 1e-3)
        if tensor.dim() == 2:
            inputs = torch.randn(2 * tensor.shape[1] + 1, tensor.shape[1], generator=generator)
            found[f"gram/{name}"] = inputs.T @ inputs / len(inputs)
    return found


def source_with(
    base: StateDict, tasks: Mapping[str, StateDict], seeds: Sequence[int] | Mapping[str, int] = range(100)
) -> StateDictSource:
    """A source whose tasks have statistics: `seeds` by place, or by the task's name."""
    by_name = seeds if isinstance(seeds, Mapping) else dict(zip(tasks, seeds, strict=False))
    return StateDictSource(base, tasks, given={t: measured(base, by_name[t]) for t in tasks})
