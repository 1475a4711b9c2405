"""Every setting that was evaluated: what it was, when, and what it scored; named, starred, pinned, deleted.

A `History` is a small immutable value; every function takes one and gives a new one. Each setting belongs to a set of
models and held-out examples (`models`, a digest), so settings of other models are kept apart.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from explorer.errors import InputError, sentence
from explorer.recipe import Recipe
from explorer.seeds import digest_of

MAX_SETTINGS = 200
"""Settings kept per set of models. The oldest go first, but never one that is starred or pinned."""
MAX_STARRED = 100
MAX_MODELS = 8
MAX_NAME = 60
MAX_REMOVED = 400
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")


@dataclass(frozen=True)
class TaskCount:
    """What a setting scored on one task, on `n` of the `n_total` examples: `correct` of them, or score · n.

    `expert`: the task's own fine-tune on the same examples, 0-1; NaN where it is not known.
    """

    task: str
    n: int
    n_total: int
    correct: float
    expert: float = math.nan

    @property
    def score(self) -> float:
        """correct / n, more is better; NaN before the first example."""
        return self.correct / self.n if self.n else math.nan

    @property
    def normalized_accuracy(self) -> float:
        """score / the expert's; NaN where the expert is unknown or not above 0."""
        return self.score / self.expert if self.expert > 0 else math.nan


@dataclass(frozen=True)
class Setting:
    """One evaluated setting. `when`: seconds since 1970, UTC, of its newest scores."""

    recipe: Recipe
    models: str
    when: float
    scores: tuple[TaskCount, ...] = ()
    name: str = ""
    starred: bool = False
    pinned: bool = False

    @cached_property
    def id(self) -> str:
        """The same for the same setting of the same models; the order of parameters does not count."""
        return digest_of(self.models, json.dumps(settings_of(self.recipe), sort_keys=True, default=str))

    @property
    def complete(self) -> bool:
        """Whether every task's whole split was answered; else its accuracies are estimates."""
        return bool(self.scores) and all(s.n == s.n_total for s in self.scores)

    @property
    def normalized(self) -> float:
        """Mean over tasks of accuracy / the expert's; NaN where no expert is known."""
        known = [s.normalized_accuracy for s in self.scores if not math.isnan(s.normalized_accuracy)]
        return sum(known) / len(known) if known else math.nan

    @property
    def score(self) -> float:
        """Mean score over tasks."""
        return sum(s.score for s in self.scores) / len(self.scores) if self.scores else math.nan

    @property
    def worst(self) -> TaskCount | None:
        """The task with the lowest accuracy relative to its expert; None where no expert is known."""
        known = [s for s in self.scores if not math.isnan(s.normalized_accuracy)]
        return min(known, key=lambda s: s.normalized_accuracy, default=None)


@dataclass(frozen=True)
class History:
    """Settings of every set of models, oldest first.

    `removed`: ids that were deleted, so that no copy in a browser brings them back.
    """

    settings: tuple[Setting, ...] = ()
    removed: tuple[str, ...] = ()

    def of(self, models: str) -> tuple[Setting, ...]:
        """The settings of one set of models, oldest first."""
        return tuple(s for s in self.settings if s.models == models)

    def get(self, id: str) -> Setting:
        """A setting by its id. Raises InputError when there is none."""
        found = next((s for s in self.settings if s.id == id), None)
        if found is None:
            advice = "It may have been deleted in another tab; choose one that is listed."
            raise InputError(sentence("history", "must be a kept setting", repr(id), advice))
        return found

    def pinned(self, models: str) -> Setting | None:
        """The setting of these models that others are compared with, or None."""
        return next((s for s in self.of(models) if s.pinned), None)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What a recipe sets, without the models it is set for, as plain values."""
    return {
        "method": recipe.method,
        "parameters": dict(recipe.parameters),
        "tasks": {t.name: dict(t.parameters) for t in recipe.tasks},
        "add_ons": [{name: dict(values)} for name, values in recipe.add_ons],
        "dtype": recipe.dtype,
        "seed": recipe.seed,
    }


def plain_name(text: str) -> str:
    """A name as it may be shown: no control or direction characters, one line, at most MAX_NAME characters."""
    return " ".join(_NOT_SHOWN.sub(" ", text).split())[:MAX_NAME].strip()


def note(history: History, setting: Setting) -> History:
    """The history with an evaluated setting as its newest.

    The same setting again keeps its name, star and pin; an estimate does not replace complete scores.
    """
    id = setting.id
    before = next((s for s in history.settings if s.id == id), None)
    if before is not None:
        scores = before.scores if before.complete and not setting.complete else setting.scores
        setting = replace(setting, scores=scores, name=before.name, starred=before.starred, pinned=before.pinned)
    others = tuple(s for s in history.settings if s.id != id)
    return _bounded(History((*others, setting), tuple(r for r in history.removed if r != id)))


def joined(history: History, kept: Sequence[Setting]) -> History:
    """The history with what a browser has kept, in order of time. What was deleted here stays away.

    A setting that both know has its scores from here, and a name, star or pin that either gave it. The bounds hold
    again afterwards: beyond MAX_STARRED the oldest of the browser's lose their star, and a pin of here goes first.
    """
    known = {s.id: s for s in history.settings}
    pinned = {s.models for s in history.settings if s.pinned}
    room = {m: MAX_STARRED - sum(s.starred for s in history.of(m)) for m in {s.models for s in kept}}
    whole = dict(known)
    for theirs in sorted(kept, key=lambda s: s.when, reverse=True):
        if theirs.id in history.removed:
            continue
        mine, models = whole.get(theirs.id, replace(theirs, name="", starred=False, pinned=False)), theirs.models
        starred = theirs.starred and not mine.starred and room[models] > 0
        pin = theirs.pinned and models not in pinned
        room[models] -= starred
        pinned |= {models} if pin else set()
        name, starred, pin = mine.name or theirs.name, mine.starred or starred, mine.pinned or pin
        whole[theirs.id] = replace(mine, name=name, starred=starred, pinned=pin)
    return _bounded(replace(history, settings=tuple(sorted(whole.values(), key=lambda s: s.when))))


def rename(history: History, id: str, name: str) -> History:
    """The history with a setting under another name; an empty one takes the name away. Raises InputError."""
    return _changed(history, id, name=plain_name(name))


def star(history: History, id: str, *, starred: bool = True) -> History:
    """The history with a setting starred, so that it is never dropped, or not. Raises InputError beyond MAX_STARRED."""
    one = history.get(id)
    if starred and not one.starred and sum(s.starred for s in history.of(one.models)) >= MAX_STARRED:
        must = f"at most {MAX_STARRED} settings can be starred"
        raise InputError(sentence("history", must, f"{MAX_STARRED} already", "Take the star off another one first."))
    return _changed(history, id, starred=starred)


def delete(history: History, id: str) -> History:
    """The history without a setting. Raises InputError when there is none."""
    history.get(id)
    left = tuple(s for s in history.settings if s.id != id)
    return History(left, (*history.removed, id)[-MAX_REMOVED:])


def pin(history: History, id: str) -> History:
    """The history with one setting pinned as A, and no other of its models. Raises InputError."""
    return _changed(unpin(history, history.get(id).models), id, pinned=True)


def unpin(history: History, models: str) -> History:
    """The history without a pinned setting for these models."""
    freed = (replace(s, pinned=False) if s.models == models and s.pinned else s for s in history.settings)
    return replace(history, settings=tuple(freed))


def _changed(history: History, id: str, **changes: Any) -> History:
    history.get(id)
    return replace(history, settings=tuple(replace(s, **changes) if s.id == id else s for s in history.settings))


def _bounded(history: History) -> History:
    """At most MAX_MODELS sets of models, the last used ones, and MAX_SETTINGS of each."""
    latest: Mapping[str, int] = {s.models: place for place, s in enumerate(history.settings)}
    used = sorted(latest, key=lambda m: latest[m])[-MAX_MODELS:]
    dropped: set[int] = {id(s) for s in history.settings if s.models not in used}
    for models in used:
        own = history.of(models)
        free = [s for s in own[:-1] if not (s.starred or s.pinned)]
        dropped |= {id(s) for s in free[: max(0, len(own) - MAX_SETTINGS)]}
    return replace(history, settings=tuple(s for s in history.settings if id(s) not in dropped))
