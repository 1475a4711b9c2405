"""A base, fine-tunes named after evaluation tasks, and a workbench over them: tiny, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from evaluation_zoo import CONFIG, weights, write_checkpoint, write_task
from safetensors.torch import save_file
from torch import Tensor

from explorer.recipe import Recipe
from explorer.workbench import Workbench

TASKS = ("colours", "numbers")


def tuned(state: dict[str, Tensor], seed: int, size: float = 0.05) -> dict[str, Tensor]:
    """A fine-tune: the base plus a little of everything."""
    generator = torch.Generator().manual_seed(seed)
    return {n: t + size * torch.randn(t.shape, generator=generator) for n, t in state.items()}


def make_models(folder: Path, tasks: tuple[str, ...] = TASKS) -> Path:
    """`folder/base`, `folder/TASK` and `folder/tasks/TASK`, laid out like the bundled samples."""
    base = weights(1)
    write_checkpoint(folder / "base", base)
    for number, name in enumerate(tasks):
        write_checkpoint(folder / name, tuned(base, 10 + number))
        head = torch.randn(3, 16, generator=torch.Generator().manual_seed(50 + number))
        write_task(folder / "tasks" / name, weight=head)
    return folder


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    """A recipe over `make_models`; `changes` replace entries of its plain form."""
    plain = {
        "base": str(folder / "base"),
        "tasks": {t: {"checkpoint": str(folder / t)} for t in TASKS},
        "method": "task_arithmetic",
    }
    return Recipe.from_dict({**plain, **changes})


def make_bench(folder: Path, exports: Path, **options: Any) -> Workbench:
    """A workbench that may open what `make_models` made."""
    start = options.pop("start", None) or recipe_of(folder)
    settings: dict[str, Any] = {"roots": [folder], "tasks_folders": [folder / "tasks"], "device": "cpu"}
    return Workbench(start, exports=exports, **{**settings, **options})


def write_recipe(path: Path, recipe: Recipe) -> Path:
    """The recipe as a file."""
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    return path


def save(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    """A checkpoint folder without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
