"""What a merge reads: a source with its tasks in the method's order, and the check that its values are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.compute.source import Chunk, Source, base_chunk
from explorer.errors import CheckpointError, ParameterError, RecipeError, all_problems, sentence
from explorer.merging._api import Method

GIVEN_WORDS = {"fisher": "Fisher", "gram": "Gram"}
_GATHER = "Run `python -m explorer gather RECIPE OUT_DIR`, then merge by the recipe that it writes."


@dataclass
class Ordered:
    """A source with its tasks in another order; the same digest, because statistics are kept by task name."""

    source: Source
    order: tuple[int, ...]
    tasks: tuple[str, ...]
    names: tuple[str, ...]
    device: torch.device

    @property
    def digest(self) -> str:
        """The digest of the source itself."""
        return self.source.digest

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self.source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype of the base's tensor."""
        return self.source.dtype(name)

    def base(self, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_0."""
        return self.source.base(name, start, stop)

    def task(self, index: int, name: str, start: int, stop: int) -> Tensor:
        """Flat slice of θ_t, t counted in the new order."""
        return self.source.task(self.order[index], name, start, stop)

    def given(self, kind: str, index: int, name: str) -> Tensor | None:
        """A statistic of θ_t for one tensor, t counted in the new order, or None."""
        return self.source.given(kind, self.order[index], name)

    def given_bytes(self, kind: str, index: int, name: str) -> int:
        """Size of what `given` would return; 0 for None."""
        return self.source.given_bytes(kind, self.order[index], name)

    def holds_delta(self, index: int, name: str) -> bool:
        """Whether `task` gives τ_t, t counted in the new order."""
        return self.source.holds_delta(self.order[index], name)

    def unchanged(self, index: int, name: str) -> bool:
        """Whether θ_t is known to be θ_0, t counted in the new order."""
        return self.source.unchanged(self.order[index], name)


def ordered(source: Source, order: tuple[int, ...]) -> Source:
    """The source with task `order[i]` in place i; the source itself when nothing moves."""
    if order == tuple(range(len(order))):
        return source
    tasks = tuple(source.tasks[i] for i in order)
    return Ordered(source, order, tasks, source.names, source.device)


def given_at(source: Source, kinds: Sequence[str], name: str) -> dict[str, Tensor | None]:
    """Each kind's statistics of one tensor for all tasks, [T, ...], or None where no task has any."""
    found: dict[str, Tensor | None] = {}
    for kind in kinds:
        held = [h for t in range(len(source.tasks)) if (h := source.given(kind, t, name)) is not None]
        found[kind] = torch.stack([h.to(held[0].dtype) for h in held]) if held else None
    return found


def require_tasks(method: Method, tasks: Sequence[str]) -> None:
    """Raise RecipeError where a method takes fewer or more tasks than there are."""
    if len(tasks) < method.min_tasks:
        must = f"needs at least {method.min_tasks} task{'s' if method.min_tasks > 1 else ''}"
        raise RecipeError(sentence(method.name, must, len(tasks), "Add a fine-tuned checkpoint."))
    if method.max_tasks is not None and len(tasks) > method.max_tasks:
        must = f"takes at most {method.max_tasks} task{'s' if method.max_tasks > 1 else ''}"
        raise RecipeError(sentence(method.name, must, len(tasks), "Leave some out, or use another method."))


def require_given(who: str, source: Source, kinds: Sequence[str]) -> None:
    """Raise RecipeError naming all tasks that lack statistics which a method needs, or that lack some tensors'.

    A tensor of which no task has a statistic is no fault: the method says what it does with it.
    """
    problems = []
    for kind in kinds:
        able = [n for n in source.names if kind != "gram" or len(source.shape(n)) == 2]
        have = [{n for n in able if source.given_bytes(kind, t, n)} for t in range(len(source.tasks))]
        measured = set().union(*have)
        without = [task for task, names in zip(source.tasks, have, strict=True) if not names]
        if without and able:
            must = f"every task must have {GIVEN_WORDS[kind]} statistics"
            problems.append(sentence(who, must, f"none for {', '.join(without)}", _GATHER))
            continue
        for task, names in zip(source.tasks, have, strict=True):
            if lacking := sorted(measured - names):
                must = f"all tasks must have {GIVEN_WORDS[kind]} statistics of the same tensors"
                problems.append(sentence(who, must, f"none of {lacking[0]} for {task}", _GATHER))
    if problems:
        raise RecipeError(all_problems(who, problems))


def require_some_weight(who: str, weights: Sequence[float]) -> None:
    """Raise ParameterError when the weights of an average are 0 for every task."""
    if sum(weights) == 0:
        must = "weight must be above 0 for at least one task"
        raise ParameterError(sentence(who, must, "0 for all", "Raise one of them."))


def require_finite_base(base: Tensor, chunk: Chunk) -> None:
    """Raise CheckpointError when a chunk of the base holds NaN or an infinity."""
    if not bool(torch.isfinite(base).all()):
        raise _non_finite("the base", chunk.name, int((~torch.isfinite(base)).sum()))


def locate_non_finite(source: Source, chunk: Chunk) -> None:
    """Raise CheckpointError naming who holds a value that is no finite number; do nothing when nobody does."""
    require_finite_base(base_chunk(source, chunk), chunk)
    for index, task in enumerate(source.tasks):
        bad = ~torch.isfinite(source.task(index, chunk.name, chunk.start, chunk.stop))
        if bool(bad.any()):
            raise _non_finite(f"task {task}", chunk.name, int(bad.sum()))


def _non_finite(who: str, name: str, count: int) -> CheckpointError:
    got = f"{count} NaN or infinite value{'s' if count > 1 else ''} in tensor {name}"
    return CheckpointError(sentence(who, "all weights must be finite numbers", got, "Use a checkpoint that is whole."))
