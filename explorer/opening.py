"""From a recipe to aligned, readable models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.adapter import Adapter
from explorer.checkpoints.align import Alignment, align
from explorer.checkpoints.given import Given, open_given
from explorer.checkpoints.hub import open_model
from explorer.checkpoints.source import CheckpointSource
from explorer.compute.source import GIVEN_KINDS
from explorer.errors import CheckpointError, InputError, RecipeError, all_problems, near, sentence
from explorer.merging import METHODS, check_add_ons
from explorer.params import check_values
from explorer.recipe import Recipe

T = TypeVar("T")
SHOWN_PROBLEMS = 10


@dataclass(frozen=True)
class OpenModels:
    """A base and its fine-tunes, aligned; `names` are the tensors that the recipe merges under its policy.

    `given` holds the statistics file of every task that has one.
    """

    base: Checkpoint
    tasks: Mapping[str, Checkpoint]
    alignment: Alignment
    names: tuple[str, ...]
    policy: str = "refuse"
    given: Mapping[str, Given] = field(default_factory=dict)

    @property
    def source(self) -> CheckpointSource:
        """The merged tensors, read lazily from the files."""
        return CheckpointSource(self.base, self.tasks, self.names, given=self.given)

    @property
    def reading(self) -> CheckpointSource:
        """As `source`, for one merge: its digest reads no byte."""
        return CheckpointSource(self.base, self.tasks, self.names, given=self.given, by_content=False)

    @property
    def measured(self) -> frozenset[str]:
        """The kinds of statistics that every task has of some merged tensor; reads no values."""
        source = self.source
        tasks = range(len(source.tasks))
        every = {k: [any(source.given_bytes(k, t, n) for n in self.names) for t in tasks] for k in GIVEN_KINDS}
        return frozenset(kind for kind, found in every.items() if all(found))


def open_all(
    base: str | Path, tasks: Mapping[str, str | Path], *, allowed: Sequence[Path] | None = None
) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The base and every task's checkpoint. Raises InputError with every problem at once."""
    base_checkpoint, checkpoints, problems = _opened(base, tasks, allowed, hub=True)
    _raise("models", problems)
    assert base_checkpoint is not None
    return base_checkpoint, checkpoints


def _opened(
    base: str | Path, tasks: Mapping[str, str | Path], allowed: Sequence[Path] | None, *, hub: bool
) -> tuple[Checkpoint | None, dict[str, Checkpoint], list[InputError]]:
    """What can be opened, and why the rest cannot."""
    open_one = partial(open_model, hub=hub)
    base_checkpoint, first = _each(open_one, {"": base}, allowed)
    for held in base_checkpoint.values():
        if isinstance(held, Adapter):
            advice = f"Give {held.settings.trained_on} as the base; the adapter can be a task."
            must, got = "a base must hold whole weights", "a PEFT adapter"
            first.append(CheckpointError(sentence(str(held.path), must, got, advice)))
    checkpoints, others = _each(open_one, tasks, allowed)
    return base_checkpoint.get(""), checkpoints, [*first, *others]


def _each(
    open_one: Callable[..., T], paths: Mapping[str, str | Path], allowed: Sequence[Path] | None
) -> tuple[dict[str, T], list[InputError]]:
    """What can be opened, by name, and why the rest cannot."""
    opened: dict[str, T] = {}
    problems: list[InputError] = []
    for name, path in paths.items():
        try:
            opened[name] = open_one(path, allowed=allowed)
        except InputError as error:
            problems.append(error)
    return opened, problems


def _raise(who: str, problems: Sequence[InputError]) -> None:
    """Nothing for no problem, the problem itself for one, else one error of their common kind with all of them."""
    if not problems:
        return
    kinds = {type(p) for p in problems}
    kind = kinds.pop() if len(kinds) == 1 else InputError
    raise problems[0] if len(problems) == 1 else kind(all_problems(who, [str(p) for p in problems]))


def check_method(recipe: Recipe) -> None:
    """Whether the recipe's method and add-ons exist and take their parameters; reads no file.

    Raises UnknownNameError (near names offered), or ParameterError naming every problem at once.
    """
    method = METHODS.get(recipe.method)
    check_values(method.specs, recipe.values(), who=method.name, tasks=recipe.task_names)
    check_add_ons(recipe.add_ons)


def open_models(recipe: Recipe, *, allowed: Sequence[Path] | None = None, hub: bool = True) -> OpenModels:
    """The recipe's models, aligned under its policy; with `hub`, names of hub models in the local cache too.

    Raises InputError (an unknown method or parameter, a value out of range, checkpoints that cannot be opened: all at
    once), AlignmentError (models that cannot be merged), RecipeError (include / exclude patterns that leave nothing).
    """
    paths = {t.name: t.checkpoint for t in recipe.tasks}
    base, tasks, problems = _opened(recipe.base, paths, allowed, hub=hub)
    given, unread = _each(open_given, {t.name: t.statistics for t in recipe.tasks if t.statistics}, allowed)
    problems += unread
    try:
        check_method(recipe)
    except InputError as error:
        problems.insert(0, error)
    _raise("recipe", problems)
    assert base is not None
    alignment = align(base, tasks)
    names = selected(alignment.require(recipe.policy), recipe)
    _check_given(given, tasks, {n: base.info(n).shape for n in names})
    return OpenModels(base, alignment.tasks, alignment, names, recipe.policy, given)


def _check_given(
    given: Mapping[str, Given], tasks: Mapping[str, Checkpoint], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointError with everything that is wrong with statistics files of the merged tensors."""
    problems = [p for name, g in given.items() for p in g.problems(f"statistics of {name}", shapes, tasks[name])]
    if problems:
        shown = problems[:SHOWN_PROBLEMS]
        more = [f"and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        raise CheckpointError(all_problems("statistics", [*shown, *more]))


def selected(names: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The names that the recipe's include and exclude patterns keep, in order."""
    kept = tuple(
        name
        for name in names
        if (not recipe.include or any(fnmatchcase(name, p) for p in recipe.include))
        and not any(fnmatchcase(name, p) for p in recipe.exclude)
    )
    if not kept:
        unused = [p for p in recipe.include if not any(fnmatchcase(n, p) for n in names)]
        got = f"none with include {list(recipe.include)} and exclude {list(recipe.exclude)}"
        advice = near(unused[0], names) if unused else "Loosen the patterns."
        raise RecipeError(sentence("recipe", "include and exclude must leave a tensor", got, advice))
    return kept


def output_dtype(recipe: Recipe, stored: torch.dtype) -> torch.dtype:
    """The dtype of a merged tensor: the recipe's, or the base's."""
    return getattr(torch, recipe.dtype) if recipe.dtype else stored


def companions_folder(checkpoint: Checkpoint) -> Path:
    """Where a checkpoint's config and tokenizer lie: its own folder, or the folder of its one file."""
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent


def expert_of(models: OpenModels, task: str) -> Checkpoint:
    """A task's own fine-tune, as a model: given as one file it has the base's config, or it could not be merged."""
    expert = models.tasks[task]
    return expert if expert.config else replace(expert, config=models.base.config)
