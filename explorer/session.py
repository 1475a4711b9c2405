"""What one person has on the table: models, the current recipe, and the way back.

A `Session` is a small immutable value. Every function here takes one and gives a new one; heavy things (arenas,
modules, scores) live in the `Workbench` under digests.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from explorer.errors import InputError, RecipeError, near, sentence
from explorer.history import History
from explorer.recipe import Recipe, TaskEntry

if TYPE_CHECKING:
    from explorer.merging import AddOn

MAX_HISTORY = 200
MAX_LINK_BYTES = 64_000


@dataclass(frozen=True)
class Move:
    """One evaluated setting: what it was, and what it scored."""

    recipe: Recipe
    label: str
    normalized: float
    worst: float
    worst_task: str
    accuracies: Mapping[str, float] = field(default_factory=dict)
    complete: bool = False


@dataclass(frozen=True)
class Session:
    """The models and the recipe of one browser tab, with undo, redo and a trail of evaluated settings.

    `trail` is the way of this visit with these models; `history` outlives both.
    """

    recipe: Recipe
    past: tuple[Recipe, ...] = ()
    future: tuple[Recipe, ...] = ()
    trail: tuple[Move, ...] = ()
    history: History = field(default_factory=History)

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier recipe."""
        return bool(self.past)

    @property
    def can_redo(self) -> bool:
        """Whether an undone recipe can come back."""
        return bool(self.future)


def change(session: Session, recipe: Recipe) -> Session:
    """The session with a new recipe; the old one can be undone. An equal recipe changes nothing."""
    if recipe == session.recipe:
        return session
    return replace(session, recipe=recipe, past=(*session.past, session.recipe)[-MAX_HISTORY:], future=())


def undo(session: Session) -> Session:
    """One recipe back; unchanged at the beginning."""
    if not session.past:
        return session
    return replace(session, recipe=session.past[-1], past=session.past[:-1], future=(session.recipe, *session.future))


def redo(session: Session) -> Session:
    """One undone recipe forward; unchanged at the end."""
    if not session.future:
        return session
    return replace(session, recipe=session.future[0], past=(*session.past, session.recipe), future=session.future[1:])


def with_models(session: Session, recipe: Recipe) -> Session:
    """The session after models were added or removed: another merge, so the trail starts anew."""
    return replace(change(session, recipe), trail=())


def restore(session: Session, id: str) -> Session:
    """The session with a setting of its history as the recipe; it can be undone. Raises InputError when not kept."""
    return change(session, session.history.get(id).recipe)


def remember(session: Session, move: Move) -> Session:
    """The session with an evaluated setting on its trail; the same setting again replaces its earlier estimate."""
    trail = session.trail
    if trail and trail[-1].recipe == move.recipe:
        trail = trail[:-1]
    return replace(session, trail=(*trail, move)[-MAX_HISTORY:])


def add_task(recipe: Recipe, name: str, checkpoint: str) -> Recipe:
    """The recipe with one more task. Raises InputError when the name is taken."""
    if name in recipe.task_names:
        raise InputError(sentence("models", "every task needs its own name", repr(name), "Choose another name."))
    return replace(recipe, tasks=(*recipe.tasks, TaskEntry(name, checkpoint)))


def remove_task(recipe: Recipe, name: str) -> Recipe:
    """The recipe without one task. Raises InputError for an unknown task, or for the last one."""
    if name not in recipe.task_names:
        raise InputError(sentence("models", "must be a task of this merge", repr(name), near(name, recipe.task_names)))
    if len(recipe.tasks) == 1:
        raise InputError(
            sentence("models", "at least one task must stay", "a removal of the last one", "Add one first.")
        )
    return replace(recipe, tasks=tuple(t for t in recipe.tasks if t.name != name))


def with_values(
    recipe: Recipe, method: str, common: Mapping[str, Any], per_task: Mapping[str, Mapping[str, float]]
) -> Recipe:
    """The recipe with another method and parameters; `per_task` is parameter -> task -> value."""
    tasks = tuple(
        replace(t, parameters={name: values[t.name] for name, values in per_task.items() if t.name in values})
        for t in recipe.tasks
    )
    return replace(recipe, method=method, parameters=dict(common), tasks=tasks)


def add_ons() -> tuple[AddOn, ...]:
    """The add-ons that any merge can have, in name order."""
    from explorer.merging import ADD_ONS

    return tuple(ADD_ONS)


def to_link(session: Session, view: Mapping[str, Any] | None = None) -> str:
    """The recipe (and what is open on the page) as text for a URL."""
    plain = json.dumps({"recipe": session.recipe.to_dict(), "view": dict(view or {})}, separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(plain.encode(), 9)).decode().rstrip("=")


def from_link(text: str) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and view that `to_link` wrote. Raises RecipeError when the text is damaged or too large."""
    try:
        if len(text) > MAX_LINK_BYTES:
            raise ValueError("too long")
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(packed, 8 * MAX_LINK_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError("too long")
        data = json.loads(plain)
        recipe, view = data["recipe"], data.get("view") or {}
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        advice = "Copy the whole link again."
        raise RecipeError(sentence("link", "must be a link that this app wrote", "a damaged one", advice)) from error
    return Recipe.from_dict(recipe, source="link"), dict(view) if isinstance(view, dict) else {}
