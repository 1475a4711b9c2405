"""Aligned checkpoints on disk as a source of flat slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from explorer.checkpoints.adapted import AdaptedCheckpoint
from explorer.checkpoints.handle import Checkpoint
from explorer.errors import AlignmentError, all_problems, sentence
from explorer.seeds import digest_of


class CheckpointSource:
    """Checkpoints on disk as a `Source`: every slice is read when it is asked for, and nothing is kept.

    `names` must be aligned (see `align`): float tensors of the same shape everywhere.
    Raises AlignmentError naming every tensor that is not.
    """

    def __init__(self, base: Checkpoint, tasks: Mapping[str, Checkpoint], names: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.names = tuple(sorted(names))
        self.device = torch.device("cpu")
        self._base = base
        self._tasks = tuple(tasks.values())
        self._check()

    def _check(self) -> None:
        problems = []
        for task, checkpoint in zip(("base", *self.tasks), (self._base, *self._tasks), strict=True):
            for name in self.names:
                mine, theirs = self._base.tensors.get(name), checkpoint.tensors.get(name)
                if mine and theirs and mine.is_float and theirs.is_float and mine.shape == theirs.shape:
                    continue
                got = "none" if theirs is None else f"{theirs.dtype}, {theirs.shape}"
                must = f"{name} must be a float tensor of the base's shape"
                problems.append(sentence(task, must, got, "Use the names that align() found mergeable."))
        if problems:
            raise AlignmentError(all_problems("checkpoints", problems))

    def __repr__(self) -> str:
        return f"CheckpointSource({self._base.name!r}, {list(self.tasks)}, {len(self.names)} tensors)"

    @property
    def digest(self) -> str:
        """Changes with the files' content, the tasks' names or order, or the tensors; reads the files once."""
        parts = [f"{task}={c.digest}" for task, c in zip(self.tasks, self._tasks, strict=True)]
        return digest_of("checkpoints", self._base.digest, *parts, *self.names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._base.info(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        return self._base.info(name).dtype

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice [stop - start] of θ_0, stored dtype."""
        return self._base.read_flat(name, start, stop)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice [stop - start] of θ_t, stored dtype; of an adapter's exact ΔW where `holds_delta`."""
        checkpoint = self._tasks[index]
        if isinstance(checkpoint, AdaptedCheckpoint) and checkpoint.holds_delta(name):
            return checkpoint.read_delta(name, start, stop)
        return checkpoint.read_flat(name, start, stop)

    def holds_delta(self, index: int, name: str) -> bool:
        """True where the task is an adapter that changes this tensor."""
        checkpoint = self._tasks[index]
        return isinstance(checkpoint, AdaptedCheckpoint) and checkpoint.holds_delta(name)

    def unchanged(self, index: int, name: str) -> bool:
        """True where the task is an adapter that leaves this tensor alone."""
        checkpoint = self._tasks[index]
        return isinstance(checkpoint, AdaptedCheckpoint) and not checkpoint.changes(name)
