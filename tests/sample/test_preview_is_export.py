"""What the page evaluates is what it exports, and what the library gives: every method, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from explorer.checkpoints import open_checkpoint
from explorer.exporting import run_recipe, write_merge
from explorer.library import merge_state_dicts
from explorer.live import LiveModel, load_resident
from explorer.merging import METHODS
from explorer.opening import open_models
from explorer.recipe import Recipe
from explorer.samples import sample_recipe
from explorer.store import Store

TASKS = ("spam", "movies", "a")
UNEQUAL = {"spam": 0.45, "movies": -0.3, "a": 0.0}
METHOD_NAMES = METHODS.names()
StateDict = dict[str, Tensor]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT in mixed precision and three fine-tunes of it; the last is stored in another dtype."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        base = BertModel(config)
        base.encoder.layer[0].half()
        base.save_pretrained(folder / "base")
        for number, name in enumerate(TASKS):
            tuned = BertModel(config)
            tuned.load_state_dict({n: t.float() + 0.1 * torch.randn(t.shape) for n, t in base.state_dict().items()})
            (tuned.bfloat16() if number == 2 else tuned).save_pretrained(folder / name)
            save_file(statistics(tuned.state_dict(), number), folder / f"{name}.safetensors")
    return folder


def statistics(state: StateDict, seed: int) -> StateDict:
    """Made-up Fisher values of every tensor and Gram matrices of every linear layer."""
    generator = torch.Generator().manual_seed(seed)
    fisher = {f"fisher/{n}": torch.rand(t.shape, generator=generator) for n, t in state.items()}
    layers = {n: t for n, t in state.items() if t.dim() == 2 and "embeddings" not in n}
    inputs = {n: torch.randn(50, t.shape[1], generator=generator) for n, t in layers.items()}
    return {**fisher, **{f"gram/{n}": x.T @ x for n, x in inputs.items()}}


def tasks_of(method: str) -> tuple[str, ...]:
    """As many tasks as the method takes, three at most."""
    return TASKS[: METHODS.get(method).max_tasks or 3]


def recipe(zoo: Path, method: str, values: dict[str, Any], dtype: str | None) -> Recipe:
    tasks = {t: {"checkpoint": str(zoo / t), "statistics": str(zoo / f"{t}.safetensors")} for t in tasks_of(method)}
    plain = {"base": str(zoo / "base"), "tasks": tasks, "method": method, "parameters": values, "dtype": dtype}
    return Recipe.from_dict(plain)


def settings(method: str) -> list[dict[str, Any]]:
    """The defaults; unequal, negative and zero per-task values; all scales 0; and every choice in turn."""
    specs = METHODS.get(method).specs
    found: list[dict[str, Any]] = [{}]
    several = {"spam": 0.1, "movies": 0.5, "a": 1.0}
    mixed: dict[str, Any] = {}
    for spec in specs:
        if spec.per_task and spec.name in ("scale", "weight"):
            low = spec.allowed.low  # type: ignore[union-attr]
            mixed[spec.name] = {t: max(UNEQUAL[t], low) for t in tasks_of(method)}
    found += [mixed] if mixed else []
    found += [{"scale": 0.0}] if any(s.name == "scale" for s in specs) else []
    found += [{s.name: {t: several[t] for t in tasks_of(method)}} for s in specs if s.name == "density" and s.per_task]
    found += [{s.name: value} for s in specs if s.type in (str, bool) for value in s.edges() if value != s.default]
    return found


def state_dicts(zoo: Path, names: tuple[str, ...]) -> tuple[StateDict, dict[str, StateDict]]:
    base, *tasks = (load_file(zoo / n / "model.safetensors") for n in ("base", *names))
    return base, dict(zip(names, tasks, strict=True))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal names, dtypes and bits; −0.0 is not 0.0."""
    return set(one) == set(other) and all(
        one[n].dtype == other[n].dtype and one[n].shape == other[n].shape and torch.equal(bits(one[n]), bits(other[n]))
        for n in one
    )


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def check(zoo: Path, made: Recipe, live: LiveModel, out: Path) -> None:
    live.merge(made, cache=Store())
    export = run_recipe(made, out)
    names = made.task_names
    base, tasks = state_dicts(zoo, names)
    measured = {t: load_file(zoo / f"{t}.safetensors") for t in names}
    values = {"dtype": made.dtype, "statistics": measured, "add_ons": made.add_ons, **made.values()}
    library = merge_state_dicts(base, tasks, made.method, **values)
    several = METHODS.get(made.method).output == "per_task"
    assert export.folders == (tuple(out / t for t in names) if several else (out,))
    assert export.total_bytes == sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    for folder, task in zip(export.folders, names if several else (None,), strict=True):
        exported = load_file(folder / "model.safetensors")
        assert same(exported, library[task] if task else library), (made.method, made.parameters, task)  # type: ignore
        assert same({n: exported[n] for n in live.arena.names}, live.weights(task))
        shown = live.bare(task or names[0]).state_dict()
        assert all(torch.equal(shown[n], exported[n].float()) for n in live.arena.names if n in shown)


@pytest.fixture(scope="module")
def live_model(zoo: Path) -> Callable[[str], LiveModel]:
    """The live model for a method's tasks; every setting is merged into the same rows, as on the page."""
    made: dict[tuple[str, ...], LiveModel] = {}

    def get(method: str) -> LiveModel:
        names = tasks_of(method)
        if names not in made:
            made[names] = LiveModel(load_resident(open_models(recipe(zoo, method, {}, None)), torch.device("cpu")))
        return made[names]

    return get


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_live_exported_and_library_weights_are_the_same_bits(
    zoo: Path, tmp_path: Path, method: str, live_model: Callable[[str], LiveModel]
) -> None:
    for number, values in enumerate(settings(method)):
        check(zoo, recipe(zoo, method, values, None), live_model(method), tmp_path / str(number))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_in_every_dtype(
    zoo: Path, tmp_path: Path, method: str, dtype: str, live_model: Callable[[str], LiveModel]
) -> None:
    values = settings(method)[min(1, len(settings(method)) - 1)]
    check(zoo, recipe(zoo, method, values, dtype), live_model(method), tmp_path / dtype)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_scale_0_is_the_base_bit_for_bit(zoo: Path, tmp_path: Path, method: str) -> None:
    if all(s.name != "scale" for s in METHODS.get(method).specs):
        return
    export = run_recipe(recipe(zoo, method, {"scale": 0}, None), tmp_path / "out")
    for folder in export.folders:
        assert same(load_file(folder / "model.safetensors"), load_file(zoo / "base" / "model.safetensors"))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tall_masks", "tsv_merge"])
def test_with_add_ons(zoo: Path, tmp_path: Path, method: str, live_model: Callable[[str], LiveModel]) -> None:
    add_ons = (
        ("lines", {"alpha_from": "norms"}),
        ("layer_scales", {"scale": {"*bias": 0.25}}),
        ("consensus_mask", {"mask_threshold": 0.2}),
    )
    made = replace(recipe(zoo, method, {}, "bfloat16"), add_ons=add_ons)
    live = live_model(method)
    check(zoo, made, live, tmp_path / "out")
    shown = {n: t.clone() for n, t in live.weights().items()}
    live.merge(replace(made, add_ons=add_ons[:1]), cache=Store())
    assert not same(live.weights(), shown)  # the same method with other add-ons is another setting


def test_scales_per_tensor(zoo: Path, tmp_path: Path, live_model: Callable[[str], LiveModel]) -> None:
    scale = {"spam": {"*query*": 1.0, "embeddings.*": 0.0, "*": 0.5}, "movies": 0.2}
    made = recipe(zoo, "task_arithmetic", {"scale": scale}, None)
    check(zoo, made, live_model("task_arithmetic"), tmp_path / "out")


def test_the_resident_copy_exports_the_same_bytes_as_the_files(zoo: Path, tmp_path: Path) -> None:
    made = recipe(zoo, "ties", {"scale": 0.4}, "bfloat16")
    models = open_models(made)
    arena = load_resident(models, torch.device("cpu")).arena
    one = write_merge(made, models, tmp_path / "files").path
    other = write_merge(made, models, tmp_path / "resident", source=arena).path
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


def test_a_different_setting_is_seen(zoo: Path, tmp_path: Path, live_model: Callable[[str], LiveModel]) -> None:
    """The comparison can fail: another scale gives other bits."""
    resident = live_model("task_arithmetic")
    resident.merge(recipe(zoo, "task_arithmetic", {"scale": 0.3}, None), cache=Store())
    export = run_recipe(recipe(zoo, "task_arithmetic", {"scale": 0.31}, None), tmp_path / "out")
    assert not same(load_file(export.path / "model.safetensors"), resident.weights())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ties", "tall_masks"])
def test_on_the_bundled_samples(tmp_path: Path, method: str) -> None:
    sample = sample_recipe(method=method)
    made = Recipe(sample.base, sample.tasks[:3], method, {"scale": {t.name: 0.2 for t in sample.tasks[:3]}})
    models = open_models(made)
    live = LiveModel(load_resident(models, torch.device("cpu")))
    live.merge(made, cache=Store())
    export = run_recipe(made, tmp_path / "out")
    for folder, task in zip(export.folders, live.arena.tasks, strict=False):
        exported = open_checkpoint(folder)
        assert same({n: exported.read(n) for n in live.arena.names}, live.weights(task))
        for name in set(exported.tensors) - set(live.arena.names):
            assert torch.equal(exported.read(name), models.base.read(name))
