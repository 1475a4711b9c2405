"""The bundled sample models as a recipe: what the page opens on, and what a folder laid out like it opens on."""

from __future__ import annotations

from pathlib import Path

from explorer.errors import InputError, sentence
from explorer.recipe import Recipe, TaskEntry

FOLDER = Path(__file__).resolve().parents[1] / "sample_checkpoints"
PACKS = {"text": FOLDER, "vision": FOLDER / "vision"}
"""Sample models that the page can open on; the first one is the default."""


def sample_recipe(folder: Path = FOLDER, *, method: str = "task_arithmetic") -> Recipe:
    """A merge of `folder/base` with every `folder/NAME` that has an evaluation task `folder/tasks/NAME`.

    Paths are relative to the working folder where they lie in it. Raises InputError when the folder is laid out
    otherwise.
    """
    here = Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    names = sorted(p.parent.name for p in folder.glob("tasks/*/task.json") if (folder / p.parent.name).is_dir())
    if not names or not (folder / "base").is_dir():
        must = "must hold base/ and, for each task, NAME/ and tasks/NAME/task.json"
        raise InputError(sentence(str(folder), must, "another layout", "See sample_checkpoints/README.md."))
    return Recipe(str(folder / "base"), tuple(TaskEntry(n, str(folder / n)) for n in names), method)
