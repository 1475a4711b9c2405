"""`evaluate MODEL --harness TASK …`: tasks of lm-evaluation-harness on a folder, or on a recipe merged in memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from explorer.checkpoints.hub import find_cached
from explorer.compute.device import pick_device
from explorer.errors import InputError, sentence
from explorer.evaluation import Loaded, load_tokenizer
from explorer.generations import NO_WRITER, kind_of_writer, typed_task
from explorer.harness import Harness, require_installed
from explorer.live import LiveModel, load_resident
from explorer.merging import METHODS
from explorer.opening import companions_folder, open_models
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.store import Store
from explorer.terminal import print_json, print_table


def run(arguments: argparse.Namespace) -> int:
    """Prints every measure, and says plainly where a limit was set."""
    result = harness_scores(arguments.model, arguments.harness, arguments.limit, pick_device(arguments.device).torch)
    if arguments.json:
        print_json(result.to_json())
        return 0
    print_table(result.table.drop(columns=["higher_is_better", "limit"]))
    if arguments.limit is not None:
        print(f"\nlimited to the first {arguments.limit} examples of each task: no result to quote")
    return 0


def harness_scores(model: Path, tasks: list[str], limit: int | None, device: torch.device) -> Result:
    """Measures of lm-evaluation-harness, columns HARNESS; a recipe is merged in memory and never written.

    Raises InputError where lm-eval is not installed or the model is no language model.
    """
    require_installed()
    module, call = language_model(model, device)
    return Harness(module, call).run(tasks, limit=limit)


def language_model(model: Path, device: torch.device) -> tuple[nn.Module, Any]:
    """The module and its tokenizer."""
    if model.suffix not in (".yaml", ".yml"):
        cached = find_cached(str(model))
        loaded = Loaded(cached.folder if cached else model, device=device)
        call = load_tokenizer(companions_folder(loaded.checkpoint)).call
        return loaded(typed_task(_kind(loaded.checkpoint), "")), call
    recipe = Recipe.load(model)
    if METHODS.get(recipe.method).output != "single":
        must = "a recipe must give one merged model"
        advice = "Export it, and evaluate the folder of one task."
        raise InputError(sentence("harness", must, f"one per task by {recipe.method}", advice))
    models = open_models(recipe)
    kind, live = _kind(models.base), LiveModel(load_resident(models, device))
    live.merge(recipe, cache=Store())
    return live.module_for(typed_task(kind, recipe.task_names[0])), load_tokenizer(companions_folder(models.base)).call


def _kind(checkpoint: Any) -> str:
    kind = kind_of_writer(checkpoint.config)
    if kind is None:
        raise InputError(NO_WRITER)
    return kind
