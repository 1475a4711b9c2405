"""From scores as they come in to settings of a history."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pandas as pd

from explorer.history import Setting, TaskCount, note
from explorer.recipe import Recipe
from explorer.seeds import digest_of
from explorer.session import Session
from explorer.streaming import LiveUpdate
from explorer.workbench import Workbench


def models_key(bench: Workbench, recipe: Recipe) -> str:
    """Which models and held-out examples a recipe's scores are of, by content: the same after files were moved.

    Raises InputError when the models cannot be opened.
    """
    models = bench.models(recipe)
    tasks = [(name, task.digest) for name, task in bench.evaluator(recipe).tasks.items()]
    return digest_of(models.source.digest, json.dumps(models.base.config, sort_keys=True), recipe.task_names, tasks)


def setting_of(update: LiveUpdate, models: str, *, when: float) -> Setting:
    """What an update says about its recipe, as a setting of these models' history."""
    table = update.scores.table
    rows = {name: table[table["model"] == name].set_index("task") for name in ("merged", "expert")}
    merged, expert = rows["merged"], rows["expert"]["score"]
    scores = [_count(str(task), row, float(expert.get(task, float("nan")))) for task, row in merged.iterrows()]
    return Setting(update.recipe, models, when, tuple(scores))


def _count(task: str, row: pd.Series, expert: float) -> TaskCount:
    return TaskCount(task, int(row["n"]), int(row["n_total"]), float(row["correct"]), expert)


def noted(session: Session, update: LiveUpdate, models: str, *, when: float | None = None) -> Session:
    """The session with an update's setting in its history; an update without any score changes nothing."""
    setting = setting_of(update, models, when=time.time() if when is None else when)
    return replace(session, history=note(session.history, setting)) if setting.scores else session
