"""Measures what data-driven merge methods need, and writes it beside a recipe that names it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.safetensors import write_header
from explorer.checkpoints.staging import Staging
from explorer.compute.device import pick_device
from explorer.compute.source import GIVEN_KINDS
from explorer.errors import DataError, InputError, all_problems, near, sentence
from explorer.evaluation import KINDS, EvaluationTask, Loaded, find_tasks, load_task, load_tool, with_head_of
from explorer.evaluation.measures import Measures, single_examples
from explorer.executor import CancelToken, Progress, ProgressCallback
from explorer.opening import OpenModels, companions_folder, open_models
from explorer.recipe import Recipe

EXAMPLES = 256
SUFFIX = ".statistics.safetensors"


@dataclass(frozen=True)
class Gathered:
    """What was written: one statistics file per task, and the recipe that names them."""

    path: Path
    files: tuple[Path, ...]
    recipe: Path
    seconds: float

    @property
    def total_bytes(self) -> int:
        """Size of the statistics files."""
        return sum(f.stat().st_size for f in self.files)


@dataclass(frozen=True)
class _Plan:
    """What is measured, on what, and how."""

    models: OpenModels
    tasks: Sequence[EvaluationTask]
    kinds: Sequence[str]
    examples: int
    labels: str
    seed: int
    device: torch.device


def gather(
    recipe: Recipe,
    out_dir: Path,
    *,
    tasks_folder: Path,
    kinds: Sequence[str] = GIVEN_KINDS,
    examples: int = EXAMPLES,
    split: str = "tune",
    labels: str = "auto",
    seed: int = 0,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Gathered:
    """Measure every fine-tune of a recipe on the evaluation task of its name; see `Measures` for what exactly.

    `out_dir` must be new or empty: it gets NAME.statistics.safetensors per task and recipe.yaml, the recipe with
    these files in it. Raises InputError for models, tasks or values that cannot be used (everything at once),
    OutputError when the folder cannot be written, Cancelled when asked to stop; then nothing of it remains.
    """
    started = time.perf_counter()
    if examples < 1:
        raise InputError(sentence("gather", "examples must be at least 1", examples, "Use 256."))
    bare = replace(recipe, tasks=tuple(replace(t, statistics=None) for t in recipe.tasks))
    models = open_models(bare)
    chosen = _evaluation_tasks(recipe.task_names, tasks_folder, split, kinds)
    plan = _Plan(models, chosen, tuple(kinds), examples, labels, seed, pick_device(device).torch)
    names = {t.name: f"{t.name}{SUFFIX}" for t in recipe.tasks}
    entries = tuple(replace(t, statistics=str(out_dir / names[t.name])) for t in recipe.tasks)
    staging = Staging(out_dir, overwrite=False)
    staging.begin()
    try:
        _write_all(plan, staging, names, progress, cancel)
        with staging.guard("the recipe"):
            (staging.folder / "recipe.yaml").write_text(replace(recipe, tasks=entries).to_yaml(), encoding="utf-8")
        staging.publish()
    finally:
        staging.discard()
    files = tuple(out_dir / name for name in names.values())
    return Gathered(out_dir, files, out_dir / "recipe.yaml", time.perf_counter() - started)


def _evaluation_tasks(names: Sequence[str], folder: Path, split: str, kinds: Sequence[str]) -> list[EvaluationTask]:
    """The split of the evaluation task of each name. Raises DataError with every problem at once."""
    known = find_tasks(folder)
    found, problems = [], []
    for name in names:
        if name not in known:
            must = "every fine-tune needs an evaluation task of its name"
            problems.append(sentence(str(folder), must, f"none for {name!r}", near(name, known)))
            continue
        try:
            found.append(load_task(known[name], split=split))
        except DataError as error:
            problems.append(str(error))
            continue
        kind = KINDS.get(found[-1].kind)
        if "fisher" in kinds and not kind.chooses:
            must, advice = "Fisher values need a task whose answers are choices with scores", "Gather gram alone."
            problems.append(sentence(name, must, kind.title.lower(), advice))
    if problems:
        raise DataError(all_problems("gather", problems))
    return found


def _write_all(
    plan: _Plan,
    staging: Staging,
    names: Mapping[str, str],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> None:
    """One file per task, measured and written one after the other."""
    meter = _Meter(sum(min(plan.examples, t.n) for t in plan.tasks), progress, cancel)
    for (name, file), task in zip(names.items(), plan.tasks, strict=True):
        checkpoint = plan.models.tasks[name]
        measures = _measured(plan, checkpoint, task, meter)
        said = {"task": name, "n": str(measures.examples), "checkpoint": checkpoint.digest, "split": task.split}
        said |= {"labels": measures.labels, "seed": str(plan.seed), "data": task.digest}
        with staging.guard(file):
            _write(staging.folder / file, measures.result(), said)


class _Meter:
    """Counts examples over all tasks, reports them, and stops when asked to."""

    def __init__(self, total: int, progress: ProgressCallback | None, cancel: CancelToken | None) -> None:
        self._total, self._progress, self._cancel = total, progress, cancel
        self._done, self._started = 0, time.perf_counter()

    def count(self, task: str) -> None:
        """One more example. Raises Cancelled."""
        self._done += 1
        if self._progress:
            seconds = time.perf_counter() - self._started
            self._progress(Progress(self._done, self._total, seconds, f"measuring {task}"))
        if self._cancel:
            self._cancel.check("gather")


def _measured(plan: _Plan, checkpoint: Checkpoint, task: EvaluationTask, meter: _Meter) -> Measures:
    # A fine-tune given as one file has no config of its own; it has the base's, or it could not be merged.
    whole = checkpoint if checkpoint.config else replace(checkpoint, config=plan.models.base.config)
    tool = load_tool(KINDS.get(task.kind), companions_folder(plan.models.base))
    task = with_head_of(whole, task)
    module = Loaded(whole, device=plan.device)(task)
    found = Measures(module, task, plan.models.names, plan.kinds, plan.labels, plan.seed, plan.device)
    for batch in single_examples(task, tool, plan.examples, plan.seed):
        found.add(batch)
        meter.count(task.name)
    return found


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, tensor by tensor: operating-system errors come through as they are."""
    header, offsets = write_header([(n, t.shape, t.dtype) for n, t in tensors.items()], metadata)
    with path.open("wb") as file:
        file.write(header)
        for name in sorted(tensors, key=lambda n: (offsets[n], tensors[n].numel())):
            file.write(tensors[name].contiguous().reshape(-1).numpy().tobytes())
