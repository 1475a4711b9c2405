"""Pictures scored on a live merge: every tower is merged, each task keeps its own classifier, our class takes part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from explorer.checkpoints import open_checkpoint
from explorer.evaluation import Evaluator, Loaded, load_task, with_head_of
from explorer.live import LiveModel, load_resident
from explorer.opening import open_models
from explorer.recipe import Recipe
from explorer.store import Store
from tests.kind_examples import Built, vision

SCALES = {"one": 0.25, "two": 0.5}


def tuned(built: Built, folder: Path, seed: int) -> Path:
    """A fine-tune of the example's model: every weight moved, the classifier too."""
    draws = torch.Generator().manual_seed(seed)
    state = load_file(built.model / "model.safetensors")
    moved = {n: t + 0.05 * torch.randn(t.shape, generator=draws) for n, t in state.items()}
    moved |= {n: t for n, t in state.items() if "running" in n}
    return vision.write_model(folder, json.loads((built.model / "config.json").read_text("utf-8")), moved)


def by_hand(base: Path, tasks: dict[str, Path], out: Path) -> Path:
    """The merge by its formula: θ_0 + Σ λ_t (θ_t − θ_0)."""
    start = load_file(base / "model.safetensors")
    ends = {name: load_file(path / "model.safetensors") for name, path in tasks.items()}
    merged: dict[str, Tensor] = {}
    for name, tensor in start.items():
        merged[name] = tensor + sum((SCALES[t] * (e[name] - tensor) for t, e in ends.items()), torch.zeros(()))
    return vision.write_model(out, json.loads((base / "config.json").read_text("utf-8")), merged)


@pytest.mark.parametrize("kind", vision.EXAMPLES)
def test_a_live_merge_answers_like_the_merge_by_hand(kind: str, tmp_path: Path) -> None:
    make: Callable[[Path], Built] = vision.EXAMPLES[kind]
    built = make(tmp_path / "made")
    tasks = {name: tuned(built, tmp_path / name, seed) for seed, name in enumerate(SCALES)}
    entries: dict[str, Any] = {t: {"checkpoint": str(p), "scale": SCALES[t]} for t, p in tasks.items()}
    recipe = Recipe.from_dict({"base": str(built.model), "tasks": entries, "method": "task_arithmetic"})
    live = LiveModel(load_resident(open_models(recipe), torch.device("cpu")))
    live.merge(recipe, cache=Store(1 << 20))
    merged = Loaded(by_hand(built.model, tasks, tmp_path / "merged"))
    for name, path in tasks.items():
        task = with_head_of(open_checkpoint(path), load_task(built.task).named(name))
        evaluator = Evaluator([task], built.model)
        batch = evaluator.plan(name).blocks[0][0]
        found, wanted = (evaluator.batch_scores(name, m(task), batch) for m in (live.module_for, merged))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        own = evaluator.batch_scores(name, Loaded(path)(task), batch)
        assert not torch.allclose(found, own, atol=1e-3)  # the expert alone would answer otherwise


def test_our_class_keeps_the_names_of_the_published_weights(tmp_path: Path) -> None:
    built = vision.feature_classification(tmp_path)
    state = load_file(built.model / "model.safetensors")
    assert {"_conv_stem.weight", "_bn0.running_var", "_blocks.0._depthwise_conv.weight"} <= state.keys()
    assert "_blocks.0._expand_conv.weight" not in state and "_blocks.1._expand_conv.weight" in state
    save_file({f"backbone.{n}": t for n, t in state.items()}, built.model / "model.safetensors")
    assert Loaded(built.model)(None)._blocks[1].adds is False  # names with a prefix are found too
