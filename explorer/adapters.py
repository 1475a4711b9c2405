"""Merges PEFT adapters into a new adapter: exactly by concatenation, or cut to a rank with the error stated."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explorer import __version__
from explorer.adapter_command import COMBINATIONS
from explorer.card import adapter_card
from explorer.checkpoints.adapted import AdaptedCheckpoint
from explorer.checkpoints.adapter import CONFIG_FILE
from explorer.checkpoints.writer import FolderWriter
from explorer.compute.low_rank import concatenate, squared_errors, truncate
from explorer.compute.source import Chunk
from explorer.errors import InputError, RecipeError, all_problems, near, sentence
from explorer.executor import CancelToken, ProgressCallback, SerialExecutor
from explorer.exporting import RECIPE_FILE, spare_inputs
from explorer.merging import METHODS, Prepared, cast, merge_deltas, merge_tensor, prepare
from explorer.opening import OpenModels, open_models, output_dtype
from explorer.recipe import Recipe

LINEAR = ("task_arithmetic", "weight_average")


@dataclass(frozen=True)
class MergedAdapter:
    """What was written. `errors`: (tensor, rank, relative Frobenius error against the dense merge), and in total."""

    path: Path
    errors: tuple[tuple[str, int, float], ...]
    total_error: float
    total_bytes: int
    seconds: float


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    models: OpenModels
    adapters: Mapping[str, AdaptedCheckpoint]
    prepared: Prepared
    combine: str
    rank: int

    @property
    def dtype(self) -> torch.dtype:
        return output_dtype(self.recipe, torch.float32)

    def touching(self, name: str) -> list[tuple[str, AdaptedCheckpoint]]:
        """The tasks whose factors change a tensor, in the recipe's order."""
        return [(task, c) for task, c in self.adapters.items() if c.holds_delta(name)]

    def rank_of(self, name: str) -> int:
        """Rank of the new factors of a tensor."""
        shape = self.models.base.info(name).shape
        if self.combine == "svd":
            return min(self.rank, shape[0], prod(shape[1:]))
        return sum(c.updates[name].factors.rank for _, c in self.touching(name))


def merge_adapters(
    recipe: Recipe | str | Path,
    out_dir: str | Path,
    *,
    combine: str = "concatenate",
    rank: int | None = None,
    overwrite: bool = False,
    allowed: Sequence[Path] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> MergedAdapter:
    """Merge a recipe whose tasks are all PEFT adapters into one new PEFT adapter.

    "concatenate" stacks the factors, Σₜ λₜ sₜ Bₜ Aₜ as one product: exact, for methods that are linear in the task
    vectors; the rank is the sum of the ranks. "svd" cuts each dense merged ΔW of any method to `rank` (None: the
    largest rank among the adapters). The new adapter has lora_alpha = r, so its scaling is 1. Tensors that adapters
    saved whole are merged by the method and saved whole.
    Raises InputError when the recipe cannot become an adapter, OutputError as `run_recipe`.
    """
    started = time.perf_counter()
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(Path(recipe))
    _check_asked(recipe, combine, rank)
    models = open_models(recipe, allowed=allowed)
    spare_inputs(models, Path(out_dir))
    adapters = {t: c for t, c in models.tasks.items() if isinstance(c, AdaptedCheckpoint)}
    whole = [t for t in models.tasks if t not in adapters]
    if whole:
        must = "every task must be a PEFT adapter to become one adapter"
        advice = "Leave them out, or use `merge`, which writes a whole model."
        raise RecipeError(sentence("merge-adapters", must, f"whole models for {', '.join(whole)}", advice))
    prepared = prepare(METHODS.get(recipe.method), models.source, recipe.values(), seed=recipe.seed, cancel=cancel)
    largest = max(u.factors.rank for c in adapters.values() for u in c.updates.values())
    job = _Job(recipe, models, adapters, prepared, combine, rank or largest)
    if combine == "concatenate":
        _coefficients(prepared)
    errors, total = _write(job, Path(out_dir), overwrite, progress, cancel)
    size = sum(f.stat().st_size for f in Path(out_dir).expanduser().iterdir())
    return MergedAdapter(Path(out_dir), errors, total, size, time.perf_counter() - started)


def _check_asked(recipe: Recipe, combine: str, rank: int | None) -> None:
    problems = []
    if combine not in COMBINATIONS:
        must = "combine must be one of " + ", ".join(COMBINATIONS)
        problems.append(sentence("merge-adapters", must, repr(combine), near(combine, COMBINATIONS)))
    if rank is not None and rank < 1:
        problems.append(sentence("merge-adapters", "rank must be at least 1", rank, "For example --rank 16."))
    if rank is not None and combine == "concatenate":
        must = "rank belongs to --combine svd; concatenation keeps every rank"
        problems.append(sentence("merge-adapters", must, rank, "Leave it out, or add --combine svd."))
    if METHODS.get(recipe.method).output != "single":
        must = f"{recipe.method} must give one model to become one adapter"
        problems.append(sentence("merge-adapters", must, "one per task", "Use task_arithmetic, for example."))
    if problems:
        raise InputError(all_problems("merge-adapters", problems))


def _coefficients(prepared: Prepared) -> dict[str, float]:
    """λ of every task under a method that is linear in the task vectors. Raises RecipeError for any other."""
    values, name = prepared.values, prepared.method.name
    if name not in LINEAR or not values.get("normalize", True):
        must = f"the method must be linear in the task vectors ({' or '.join(LINEAR)}, normalized) to be concatenated"
        raise RecipeError(sentence("merge-adapters", must, name, "Choose one of them, or --combine svd."))
    found = values["scale"] if name == "task_arithmetic" else [w / sum(values["weight"]) for w in values["weight"]]
    return dict(zip((prepared.tasks[i] for i in prepared.order), found, strict=True))


def _product(job: _Job, name: str) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Left [rows, r] and right [r, columns] of one tensor as they are stored, and squared error and size of ΔW."""
    shape = job.models.base.info(name).shape
    dense = merge_deltas(job.prepared, job.models.source, Chunk(name, 0, prod(shape))).view(shape[0], -1)
    if job.combine == "svd":
        left, right = truncate(dense, job.rank)
    else:
        scales = _coefficients(job.prepared)
        triples = [(scales[task], *c.left_and_right(name)) for task, c in job.touching(name)]
        left, right = concatenate([(scale * s, left, right) for scale, s, left, right in triples])
    left, right = cast(left, job.dtype), cast(right, job.dtype)
    return left, right, squared_errors(dense, left, right)


def _stored(job: _Job, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the two factors in the new file: A first."""
    (_, first), *_ = job.touching(name)
    factors, transposed = first.updates[name].factors, first.updates[name].transposed
    rank, shape = job.rank_of(name), job.models.base.info(name).shape
    inner, out = (shape[:1], shape[1]) if transposed else (shape[1:], shape[0])
    kind, end = ("embedding_", "") if factors.embedding else ("", ".weight")
    module = f"base_model.model.{_reference(job).module_of(name)}.lora_{kind}"
    return {f"{module}A{end}": (rank, *inner), f"{module}B{end}": (out, rank, *[1] * (len(inner) - 1))}


def _reference(job: _Job) -> AdaptedCheckpoint:
    """The adapter whose names for the base's modules the new one takes: the first."""
    return next(iter(job.adapters.values()))


def _whole_tensors(job: _Job) -> dict[str, str]:
    """Tensors that some adapter saved whole: name in the base -> the adapter's own name."""
    names = set(job.models.names)
    return {n: own for c in reversed([*job.adapters.values()]) for n, own in c.replaced.items() if n in names}


def _write(
    job: _Job, out_dir: Path, overwrite: bool, progress: ProgressCallback | None, cancel: CancelToken | None
) -> tuple[tuple[tuple[str, int, float], ...], float]:
    """Write the folder, one matrix in memory at a time; the errors, and the total one."""
    whole = _whole_tensors(job)
    names = [n for n in job.models.names if job.touching(n) and n not in whole]
    layout = {name: _stored(job, name) for name in names}
    plan = {stored: (shape, job.dtype) for shapes in layout.values() for stored, shape in shapes.items()}
    kept = {n: output_dtype(job.recipe, job.models.base.info(n).dtype) for n in whole}
    plan |= {f"base_model.model.{own}": (job.models.base.info(n).shape, kept[n]) for n, own in whole.items()}
    errors, missed, size = [], 0.0, 0.0
    with FolderWriter(out_dir, overwrite=overwrite, stem="adapter_model", shard_bytes=1 << 62) as writer:
        writer.plan(plan)
        products = SerialExecutor().map(
            lambda n: _product(job, n), names, total=len(names), label="adapter", progress=progress, cancel=cancel
        )
        for name, (left, right, (miss, square)) in zip(names, products, strict=True):
            (a, a_shape), (b, b_shape) = layout[name].items()
            transposed = job.touching(name)[0][1].updates[name].transposed
            writer.add_tensor(a, (left.T if transposed else right).reshape(a_shape))
            writer.add_tensor(b, (right.T if transposed else left).reshape(b_shape))
            errors.append((name, left.shape[1], sqrt(miss / square) if square else 0.0))
            missed, size = missed + miss, size + square
        for name, own in whole.items():
            merged = merge_tensor(job.prepared, job.models.source, name, kept[name])
            assert isinstance(merged, Tensor)
            writer.add_tensor(f"base_model.model.{own}", merged)
        total = sqrt(missed / size) if size else 0.0
        writer.add_text(CONFIG_FILE, json.dumps(_config(job, names, whole), indent=2, ensure_ascii=False) + "\n")
        writer.add_text(RECIPE_FILE, job.recipe.to_yaml())
        how = f"--combine {job.combine}" + (f" --rank {job.rank}" if job.combine == "svd" else "")
        card = adapter_card(job.recipe, job.models, errors, total, how=how, version=__version__)
        writer.add_text("README.md", card)
    return tuple(errors), total


def _config(job: _Job, names: Sequence[str], whole: Mapping[str, str]) -> dict[str, Any]:
    """adapter_config.json: lora_alpha = r everywhere, so that the scaling is 1."""
    modules = {_reference(job).module_of(n): job.rank_of(n) for n in names}
    common = Counter(modules.values()).most_common(1)[0][0] if modules else job.rank
    other = {module: rank for module, rank in modules.items() if rank != common}
    given = [c.adapter.settings.plain for c in job.adapters.values()]
    task_types = {str(plain["task_type"]) for plain in given if plain.get("task_type")}
    flipped = [c.updates[n] for n in names for _, c in job.touching(n)[:1]]
    return {
        "peft_type": "LORA",
        "task_type": task_types.pop() if len(task_types) == 1 else None,
        "base_model_name_or_path": given[0].get("base_model_name_or_path") or job.models.base.name,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": other,
        "alpha_pattern": other,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": any(u.transposed and not u.factors.embedding for u in flipped),
        "target_modules": sorted(modules),
        "modules_to_save": sorted({own.rpartition(".")[0] for own in whole.values()}) or None,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "inference_mode": True,
    }
