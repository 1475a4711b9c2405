"""The models that an incoming recipe names: opened, or those at hand that it may mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.given import open_given
from explorer.checkpoints.hub import open_model
from explorer.errors import InputError
from explorer.incoming import Incoming
from explorer.opening import OpenModels
from explorer.recipe import Recipe, Where, model_name

MOST_READ_BYTES = 8 << 30
"""So much is read at most to find out whether models at hand have the content that a recipe states."""
CONTENT, NAME, OTHER = "the same content", "the same name", "the same name, but other content"


@dataclass(frozen=True)
class Offer:
    """A model at hand in place of one that cannot be opened; `why` says what they have in common."""

    path: str
    why: str


def place_of(task: str | None) -> Where:
    """Where a model stands in a recipe; None is the base."""
    return ("base",) if task is None else ("tasks", task)


def models_of(recipe: Recipe) -> dict[str | None, str]:
    """The path of every model: by task, None for the base."""
    return {None: recipe.base, **{t.name: t.checkpoint for t in recipe.tasks}}


def missing_models(recipe: Recipe, *, allowed: Sequence[Path] | None, hub: bool) -> dict[str | None, str]:
    """The models that cannot be opened and why, by task, None for the base."""
    found: dict[str | None, str] = {}
    for task, path in models_of(recipe).items():
        try:
            open_model(path, allowed=allowed, hub=hub)
        except InputError as error:
            found[task] = str(error)
    return found


def missing_statistics(recipe: Recipe, *, allowed: Sequence[Path] | None) -> dict[str | None, str]:
    """The same for files of statistics."""
    found: dict[str | None, str] = {}
    for entry in (t for t in recipe.tasks if t.statistics):
        try:
            open_given(str(entry.statistics), allowed=allowed)
        except InputError as error:
            found[entry.name] = str(error)
    return found


def offers(
    incoming: Incoming, missing: Iterable[str | None], at_hand: Sequence[str], *, allowed: Sequence[Path] | None
) -> dict[str | None, Offer]:
    """For each missing model one at hand: of the stated content, else of the same name; the first of `at_hand` wins.

    Content is compared where sizes are equal; files whose digest is not remembered are read, up to a bound.
    """
    assert incoming.recipe is not None
    opened: dict[str, Checkpoint] = {}
    for path in dict.fromkeys(at_hand):
        try:
            opened[path] = open_model(path, allowed=allowed, hub=True)
        except InputError:
            continue
    wanted, left, found = models_of(incoming.recipe), [MOST_READ_BYTES], {}
    for task in missing:
        offer = _offer(wanted[task], incoming.inputs.get(task, {}), opened, left)
        if offer is not None:
            found[task] = offer
    return found


def _offer(path: str, stated: Mapping[str, Any], opened: Mapping[str, Checkpoint], left: list[int]) -> Offer | None:
    named = [p for p in opened if model_name(p) == model_name(path)]
    for one in dict.fromkeys([*named, *opened]):
        if _same(opened[one], stated, left):
            return Offer(one, CONTENT)
    return Offer(named[0], OTHER if stated.get("digest") else NAME) if named else None


def _same(checkpoint: Checkpoint, stated: Mapping[str, Any], left: list[int]) -> bool:
    """Whether a model has the stated size and digest; `left` is what may still be read."""
    if not stated.get("digest") or checkpoint.total_bytes != stated.get("bytes"):
        return False
    known = checkpoint.known_digest
    if known is None and checkpoint.total_bytes <= left[0]:
        left[0] -= checkpoint.total_bytes
        known = checkpoint.digest
    return known == stated["digest"]


def with_offers(recipe: Recipe, taken: Mapping[str | None, Offer]) -> Recipe:
    """The recipe with models at hand in place of the missing ones."""
    base = taken[None].path if None in taken else recipe.base
    tasks = (replace(t, checkpoint=taken[t.name].path) if t.name in taken else t for t in recipe.tasks)
    return replace(recipe, base=base, tasks=tuple(tasks))


def changed_inputs(incoming: Incoming, models: OpenModels) -> list[str]:
    """Which models are not what the recipe was exported with, in sentences; reads those whose digest is not known."""
    held: dict[str | None, Checkpoint] = {None: models.base, **{n: c.on_disk for n, c in models.tasks.items()}}
    return [
        f"{'The base' if task is None else f'The model of {task}'} is not the one that this recipe was exported with: "
        "its content differs, and so will the merge."
        for task, checkpoint in held.items()
        if (stated := incoming.inputs.get(task, {}).get("digest")) and checkpoint.digest != stated
    ]
