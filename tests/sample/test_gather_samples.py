"""On the bundled samples: measured on a few examples, both data-driven methods beat the plain average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sample_tasks import fewer_examples

from explorer.checkpoints import open_checkpoint
from explorer.exporting import run_recipe
from explorer.gathering import gather
from explorer.library import evaluate_model
from explorer.live import LiveModel, load_resident
from explorer.opening import open_models
from explorer.recipe import Recipe
from explorer.samples import FOLDER, sample_recipe
from explorer.store import Store


@pytest.mark.slow
def test_gathered_statistics_help_and_preview_is_export(tmp_path: Path) -> None:
    sample, tasks = sample_recipe(), fewer_examples(tmp_path / "tasks", every=3)
    chosen = tuple(t for t in sample.tasks if t.name in ("movies", "spam"))
    found = gather(
        Recipe(sample.base, chosen), tmp_path / "measured", tasks_folder=FOLDER / "tasks", examples=16, device="cpu"
    )
    recipe = Recipe.load(found.recipe)
    models = open_models(recipe)
    live = LiveModel(load_resident(models, torch.device("cpu")))
    accuracy = {}
    for method in ("weight_average", "fisher", "regmean"):
        made = Recipe(recipe.base, recipe.tasks, method)
        live.merge(made, cache=Store())
        exported = open_checkpoint(run_recipe(made, tmp_path / method).path)
        for name, shown in live.weights().items():
            assert torch.equal(exported.read(name).view(torch.uint8), shown.contiguous().view(torch.uint8)), name
        table = evaluate_model(tmp_path / method, tasks_folder=tasks, device="cpu").table
        accuracy[method] = table[table["model"] == "merged"]["score"].mean()
    assert accuracy["fisher"] > accuracy["weight_average"] + 0.005
    assert accuracy["regmean"] > accuracy["weight_average"] + 0.005
