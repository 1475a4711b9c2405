"""Data that one session of the page brings for its tasks: looked at, used, taken away again; no other session's."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explorer.checkpoints import Checkpoint
from explorer.data.earlier import head_of_task, like_task
from explorer.data.guessing import Guess, guess_kinds
from explorer.data.labels import LabelMatch
from explorer.data.making import MADE, Made, Plan, check_plan, labels_of, make_task
from explorer.data.reading import DataFile, open_data
from explorer.errors import DataError, ExplorerError, sentence
from explorer.evaluation import KINDS, EvaluationTask, Field, head_labels
from explorer.opening import expert_of
from explorer.params import Spec
from explorer.recipe import Recipe
from explorer.session import with_models
from explorer.slots import Slot
from explorer.uploads import plain_name
from explorer.workbench import Workbench

LABELS_OF_ROWS = 50_000
"""Rows whose labels are shown before a task is made; it is made from all of them."""


@dataclass(frozen=True)
class Brought:
    """A table that a session has read, and what it might be for one of its tasks."""

    data: DataFile
    guesses: tuple[Guess, ...]

    def guess(self, kind: str) -> Guess | None:
        """The columns that were guessed for a kind."""
        return next((g for g in self.guesses if g.kind == kind), None)


def kind_choices() -> list[tuple[str, str]]:
    """Every task kind as (title, name)."""
    return [(kind.title, kind.name) for kind in KINDS]


def kind_parts(name: str) -> tuple[str, tuple[Field, ...], tuple[Spec, ...]]:
    """What a kind does in one sentence, the fields of its rows, and its parameters."""
    kind = KINDS.get(name)
    return kind.help, kind.fields, kind.specs


def read_named(bench: Workbench, slot: Slot, path: str, **options: Any) -> DataFile:
    """A file or folder inside the allowed ones, or what this session uploaded. Raises DataError, PathError."""
    if not path.strip():
        must, advice = "a file must be named", "Type its path inside an allowed folder, or upload it."
        raise DataError(sentence("data", must, "nothing", advice))
    return open_data(path.strip(), allowed=[*bench.roots, bench.uploads.folder_of(slot.id)], **options)


def brought(bench: Workbench, recipe: Recipe, task: str, data: DataFile) -> Brought:
    """What the table might be, for this task of the recipe. Raises InputError where its model cannot be opened."""
    held = _frozen_head(bench, recipe, task)
    expert = _expert(bench, recipe, task)
    earlier = head_of_task(held) if held else None
    labels = earlier[1] if earlier else head_labels(expert) or ()
    return Brought(data, tuple(guess_kinds(data, expert.config, has_head=held is not None, labels=labels)))


def plan_for(
    bench: Workbench, recipe: Recipe, task: str, kind: str, mapping: Mapping[str, Sequence[str]], **settings: Any
) -> Plan:
    """What to make of a table for this task: with the head and labels that its kind needs.

    `settings`: examples, seed, match_by, parameters. Raises InputError where the models cannot be opened.
    """
    chosen = {f: tuple(columns) for f, columns in mapping.items() if columns}
    plan = Plan(name=task, kind=kind, mapping=chosen, **settings)
    needs = KINDS.get(kind).needs
    if "own_head" in needs:
        expert = _expert(bench, recipe, task)
        return replace(plan, fine_tune=expert, head_labels=head_labels(expert) or ())
    held = _frozen_head(bench, recipe, task) if "head" in needs else None
    return like_task(plan, held) if held is not None else plan


def labels_shown(data: DataFile, plan: Plan) -> LabelMatch | None:
    """The labels of the first rows beside the head's, once the plan fits the table. Raises DataError."""
    check_plan(data, plan)
    return labels_of(data, plan, rows=LABELS_OF_ROWS)


def use_data(bench: Workbench, slot: Slot, data: DataFile, plan: Plan) -> Made:
    """Makes the task in the session's own folder and scores the recipe's task of its name on it; can be undone.

    Raises InputError or OutputError; nothing changes and nothing is kept then.
    """
    folder = bench.uploads.new_folder(slot.id, "task") / plain_name(plan.name)
    try:
        made = make_task(data, folder, plan)
        recipe = with_evaluation(slot.session.recipe, plan.name, str(folder))
        bench.evaluation_tasks(recipe)  # whatever else is wrong is said now
    except BaseException:
        shutil.rmtree(folder.parent, ignore_errors=True)
        raise
    with slot.lock:
        slot.session = with_models(slot.session, with_evaluation(slot.session.recipe, plan.name, str(folder)))
    return made


def remove_data(slot: Slot, task: str) -> None:
    """Score the task on what the app has of its name again, or not at all; can be undone, so the data stay kept."""
    with slot.lock:
        slot.session = with_models(slot.session, with_evaluation(slot.session.recipe, task, None))


def with_evaluation(recipe: Recipe, task: str, folder: str | None) -> Recipe:
    """The recipe with other evaluation data for one task."""
    return replace(
        recipe, tasks=tuple(replace(t, evaluation=folder) if t.name == task else t for t in recipe.tasks)
    )  # fmt: skip


def for_others(bench: Workbench, recipe: Recipe, slot: Slot | None = None) -> Recipe:
    """The recipe without data that sessions brought (those of `slot` may stay): what a link carries, and may bring."""
    root, own = bench.uploads.folder, bench.uploads.folder_of(slot.id) if slot else None

    def private(folder: str | None) -> bool:
        path = Path(folder).expanduser().resolve() if folder else None
        return path is not None and path.is_relative_to(root) and not (own and path.is_relative_to(own))

    tasks = tuple(replace(t, evaluation=None) if private(t.evaluation) else t for t in recipe.tasks)
    return replace(recipe, tasks=tasks)


def scored_on(bench: Workbench, recipe: Recipe) -> dict[str, EvaluationTask]:
    """The evaluation tasks at hand, by the name of the recipe's task. Raises InputError as the workbench."""
    return {t.name: t for t in bench.evaluation_tasks(recipe)}


def how_made(task: EvaluationTask) -> Mapping[str, Any]:
    """What was noted when a task was made from a table; empty for others."""
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads((task.folder / MADE).read_text(encoding="utf-8"))
        return noted if isinstance(noted, dict) else {}
    return {}


def packed(bench: Workbench, slot: Slot, task: str) -> Path | None:
    """The folder of a task's evaluation data as a zip, head and all, for `evaluate`; None where it has none."""
    found = scored_on(bench, slot.session.recipe).get(task)
    if found is None:
        return None
    where = bench.uploads.folder_of(slot.id) / "zips" / found.digest / plain_name(task)
    archive = where.with_name(f"{where.name}.zip")
    if not archive.is_file():
        where.parent.mkdir(parents=True, exist_ok=True)
        shutil.make_archive(str(where), "zip", found.folder.parent, found.folder.name)
    return archive


def _expert(bench: Workbench, recipe: Recipe, task: str) -> Checkpoint:
    return expert_of(bench.models(recipe), task)


def _frozen_head(bench: Workbench, recipe: Recipe, task: str) -> Path | None:
    """The folder of the evaluation task that this task has now, where it holds a frozen head."""
    with contextlib.suppress(ExplorerError):
        found = scored_on(bench, recipe).get(task)
        if found is not None and found.head is not None and head_of_task(found.folder):
            return found.folder
    return None
