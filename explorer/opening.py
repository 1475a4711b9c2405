"""From a recipe to aligned, readable models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from explorer.checkpoints import Checkpoint, open_checkpoint
from explorer.checkpoints.adapter import Adapter
from explorer.checkpoints.align import Alignment, align
from explorer.checkpoints.source import CheckpointSource
from explorer.errors import CheckpointError, InputError, RecipeError, all_problems, near, sentence
from explorer.merging import METHODS
from explorer.params import check_values
from explorer.recipe import Recipe


@dataclass(frozen=True)
class OpenModels:
    """A base and its fine-tunes, aligned; `names` are the tensors that the recipe merges."""

    base: Checkpoint
    tasks: Mapping[str, Checkpoint]
    alignment: Alignment
    names: tuple[str, ...]

    @property
    def source(self) -> CheckpointSource:
        """The merged tensors, read lazily from the files."""
        return CheckpointSource(self.base, self.tasks, self.names)


def open_all(
    base: str | Path, tasks: Mapping[str, str | Path], *, allowed: Sequence[Path] | None = None
) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The base and every task's checkpoint. Raises InputError with every problem at once."""
    base_checkpoint, checkpoints, problems = _opened(base, tasks, allowed)
    _raise("models", problems)
    assert base_checkpoint is not None
    return base_checkpoint, checkpoints


def _opened(
    base: str | Path, tasks: Mapping[str, str | Path], allowed: Sequence[Path] | None
) -> tuple[Checkpoint | None, dict[str, Checkpoint], list[InputError]]:
    """What can be opened, and why the rest cannot."""
    problems: list[InputError] = []

    def opened(path: str | Path) -> Checkpoint | None:
        try:
            return open_checkpoint(Path(path), allowed=allowed)
        except InputError as error:
            problems.append(error)
            return None

    base_checkpoint = opened(base)
    if isinstance(base_checkpoint, Adapter):
        advice = f"Give {base_checkpoint.settings.trained_on} as the base; the adapter can be a task."
        must, got = "a base must hold whole weights", "a PEFT adapter"
        problems.append(CheckpointError(sentence(str(base_checkpoint.path), must, got, advice)))
    checkpoints = {name: opened(path) for name, path in tasks.items()}
    return base_checkpoint, {name: c for name, c in checkpoints.items() if c is not None}, problems


def _raise(who: str, problems: Sequence[InputError]) -> None:
    """Nothing for no problem, the problem itself for one, else one error of their common kind with all of them."""
    if not problems:
        return
    kinds = {type(p) for p in problems}
    kind = kinds.pop() if len(kinds) == 1 else InputError
    raise problems[0] if len(problems) == 1 else kind(all_problems(who, [str(p) for p in problems]))


def check_method(recipe: Recipe) -> None:
    """Whether the recipe's method exists and takes its parameters for its tasks; reads no file.

    Raises UnknownNameError (near names offered), or ParameterError naming every problem at once.
    """
    method = METHODS.get(recipe.method)
    check_values(method.specs, recipe.values(), who=method.name, tasks=recipe.task_names)


def open_models(recipe: Recipe, *, allowed: Sequence[Path] | None = None) -> OpenModels:
    """The recipe's models, aligned under its policy.

    Raises InputError (an unknown method or parameter, a value out of range, checkpoints that cannot be opened: all at
    once), AlignmentError (models that cannot be merged), RecipeError (include / exclude patterns that leave nothing).
    """
    base, tasks, problems = _opened(recipe.base, {t.name: t.checkpoint for t in recipe.tasks}, allowed)
    try:
        check_method(recipe)
    except InputError as error:
        problems.insert(0, error)
    _raise("recipe", problems)
    assert base is not None
    alignment = align(base, tasks)
    names = selected(alignment.require(recipe.policy), recipe)
    return OpenModels(base, alignment.tasks, alignment, names)


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
