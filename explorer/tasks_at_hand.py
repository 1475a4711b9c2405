"""Which evaluation task each task of a recipe is scored on: the one that the recipe names, or the one of its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from explorer.errors import PathError, sentence
from explorer.evaluation import EvaluationTask, find_tasks, load_task, with_head_of
from explorer.opening import OpenModels, expert_of
from explorer.recipe import Recipe
from explorer.store import Store

_TASK_BYTES = 1 << 20


class TasksAtHand:
    """Evaluation tasks of one server. `folders` hold tasks that serve merged tasks of their name; a recipe may name a
    folder of its own for a task, inside `allowed`.
    """

    def __init__(self, store: Store, folders: Sequence[Path], allowed: Sequence[Path]) -> None:
        self._store, self._folders = store, tuple(folders)
        self._allowed = tuple(Path(f).resolve() for f in (*allowed, *folders))

    def of(self, recipe: Recipe, models: Callable[[], OpenModels], split: str) -> tuple[EvaluationTask, ...]:
        """The evaluation tasks of a recipe, in its order; tasks of it without one are left out.

        Each carries the name of the recipe's task. Layers on top that the data does not bring are the fine-tune's own,
        or made of the label texts by the base.
        Raises PathError for a folder outside the allowed ones, DataError and CheckpointError as `load_task` and
        `own_head`.
        """
        known: dict[str, Path] = {}
        for folder in self._folders:
            known = {**find_tasks(folder), **known} if folder.is_dir() else known
        found = []
        for entry in recipe.tasks:
            chosen = self._inside(entry.evaluation) if entry.evaluation else known.get(entry.name)
            if chosen is not None:
                found.append(self._with_head(self._task(chosen, split).named(entry.name), models))
        return tuple(found)

    def _inside(self, folder: str) -> Path:
        path = Path(folder).expanduser().resolve()
        if not any(path.is_relative_to(root) for root in self._allowed):
            must = "an evaluation task must lie in an allowed folder"
            raise PathError(sentence("task", must, folder, "Start the app with --models FOLDER, or bring the data."))
        return path

    def _task(self, folder: Path, split: str) -> EvaluationTask:
        return self._store.get_or_make(f"task/{folder}/{split}", lambda: load_task(folder, split=split), _TASK_BYTES)

    def _with_head(self, task: EvaluationTask, models: Callable[[], OpenModels]) -> EvaluationTask:
        if not task.lacks_head:
            return task
        expert, base = expert_of(models(), task.name), models().base
        key = f"head/{task.name}/{task.digest}/{expert.digest}/{base.digest}"
        return self._store.get_or_make(key, lambda: with_head_of(expert, task, base=base), _TASK_BYTES)
