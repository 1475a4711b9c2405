"""Aligned checkpoints on disk as a source of flat slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from explorer.checkpoints.adapted import AdaptedCheckpoint
from explorer.checkpoints.given import Given
from explorer.checkpoints.handle import Checkpoint
from explorer.checkpoints.rows import differs_in_rows, read_rows
from explorer.errors import AlignmentError, all_problems, sentence
from explorer.seeds import digest_of


class CheckpointSource:
    """Checkpoints on disk as a `Source`: every slice is read when it is asked for, and nothing is kept.

    `names` must be aligned (see `align`): float tensors of the base's shape, but for the number of rows of embeddings
    and output heads: rows beyond the base's are left out, rows that a task lacks are the base's own.
    `given` holds the statistics file of each task that has one. With `by_content` False the digest tells the files
    apart by path, size and times, and no byte is read for it: enough for what lives no longer than one merge.
    Raises AlignmentError naming every tensor that is not.
    """

    def __init__(
        self,
        base: Checkpoint,
        tasks: Mapping[str, Checkpoint],
        names: Sequence[str],
        *,
        given: Mapping[str, Given] | None = None,
        by_content: bool = True,
    ) -> None:
        self._by_content = by_content
        self.tasks = tuple(tasks)
        self.names = tuple(sorted(names))
        self.device = torch.device("cpu")
        self._base = base
        self._tasks = tuple(tasks.values())
        self._given = tuple((given or {}).get(task) for task in tasks)
        self._check()

    def _check(self) -> None:
        problems = []
        for task, checkpoint in zip(("base", *self.tasks), (self._base, *self._tasks), strict=True):
            for name in self.names:
                mine, theirs = self._base.tensors.get(name), checkpoint.tensors.get(name)
                if mine and theirs and mine.is_float and theirs.is_float and _fits(name, mine.shape, theirs.shape):
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
        if not self._by_content:
            held = (self._base, *self._tasks, *(g.file for g in self._given if g))
            return digest_of("files", self.tasks, self.names, *(c.stamps for c in held))
        parts = [f"{task}={c.digest}" for task, c in zip(self.tasks, self._tasks, strict=True)]
        files = [f"{task}={g.digest}" for task, g in zip(self.tasks, self._given, strict=True) if g]
        return digest_of("checkpoints", self._base.digest, *parts, *self.names, *(["given", *files] if files else []))

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
        checkpoint, own = self._tasks[index], self._base.info(name)
        if isinstance(checkpoint, AdaptedCheckpoint) and checkpoint.holds_delta(name):
            return checkpoint.read_delta(name, start, stop)
        held = checkpoint.info(name)
        if start == stop:
            return torch.empty(0, dtype=held.dtype)  # its dtype is wanted, and no file need be touched
        if held.numel >= own.numel:
            return checkpoint.read_flat(name, start, stop)
        return read_rows(
            lambda a, b: self._base.read_flat(name, a, b),
            lambda a, b: checkpoint.read_flat(name, a, b),
            held.numel,
            start,
            stop,
        )

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """A statistic of θ_t for one tensor, read from its statistics file, or None."""
        held = self._given[index]
        return held.read(kind, name) if held else None

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """Size of what `given` would return; 0 for None."""
        held = self._given[index]
        return held.size_bytes(kind, name) if held else 0

    def holds_delta(self, index: int, name: str) -> bool:
        """True where the task is an adapter that changes this tensor."""
        checkpoint = self._tasks[index]
        return isinstance(checkpoint, AdaptedCheckpoint) and checkpoint.holds_delta(name)

    def unchanged(self, index: int, name: str) -> bool:
        """True where the task is an adapter that leaves this tensor alone."""
        checkpoint = self._tasks[index]
        return isinstance(checkpoint, AdaptedCheckpoint) and not checkpoint.changes(name)


def _fits(name: str, base: tuple[int, ...], task: tuple[int, ...]) -> bool:
    return base == task or differs_in_rows(name, base, task)
