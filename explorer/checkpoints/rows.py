"""Embeddings and output heads that differ in their number of rows alone, as after added tokens: common rows merge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from explorer.checkpoints.groups import group_of
from explorer.errors import sentence

Shape = tuple[int, ...]


def differs_in_rows(name: str, base: Shape, task: Shape) -> bool:
    """Whether two shapes differ in the first dimension alone, of a matrix or bias that has a row per token or label.

    By its name the tensor is an embedding [tokens, width] or an output head [labels, width] or [labels].
    """
    if len(base) != len(task) or base[1:] != task[1:] or base == task or 0 in (*base, *task):
        return False
    kind = group_of(name).kind
    return kind == "head" if len(base) == 1 else len(base) == 2 and kind in ("embedding", "head")


def rows_note(task: str, name: str, base: Shape, theirs: Shape) -> str:
    """What policy common_rows does to one such tensor, for the alignment report and the model card."""
    rows, own = theirs[0], base[0]
    must = f"tensor {name} should have the base's {own} rows"
    if rows > own:
        return sentence(f"task {task}", must, rows, f"Its last {rows - own} rows are dropped.")
    return sentence(f"task {task}", must, rows, f"The base's last {own - rows} rows count as unchanged by it.")


def read_rows(
    base: Callable[[int, int], Tensor], task: Callable[[int, int], Tensor], task_numel: int, start: int, stop: int
) -> Tensor:
    """Flat slice [stop - start] of a task's tensor in the base's shape.

    Rows are in ascending order of the flat index, so the common ones come first: elements from `task_numel` on are
    the base's own, and what the task has beyond the base is never asked for. The dtype is one that holds both
    exactly, so that a row which only the base has differs from it by exactly 0.
    """
    theirs = task(min(start, task_numel), min(stop, task_numel))
    mine = base(start + theirs.numel(), stop)
    dtype = torch.promote_types(theirs.dtype, mine.dtype)
    return torch.cat([theirs.to(dtype), mine.to(dtype)])
