"""The same work as functions, for notebooks, tests and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explorer.checkpoints.align import POLICIES, align
from explorer.checkpoints.given import shape_problem, value_problem
from explorer.checkpoints.hub import find_cached
from explorer.checkpoints.rows import differs_in_rows, read_rows
from explorer.compute.device import pick_device
from explorer.compute.source import StateDictSource
from explorer.errors import AlignmentError, CheckpointError, InputError, all_problems, near, sentence
from explorer.evaluation import EvaluationTask, Loaded, evaluate, find_tasks, load_task, with_head_of
from explorer.executor import CancelToken, ProgressCallback, ThreadExecutor
from explorer.exporting import RECIPE_FILE, run_recipe
from explorer.interference import survey
from explorer.live import LiveModel, load_resident
from explorer.merging import METHODS, merge_tensor, prepare
from explorer.opening import OpenModels, companions_folder, expert_of, open_all, open_models
from explorer.recipe import DTYPES, Recipe
from explorer.results import Result
from explorer.store import Store
from explorer.surveys import survey_models

__all__ = ["evaluate_model", "merge_state_dicts", "run_recipe", "survey_checkpoints", "survey_state_dicts"]

StateDict = Mapping[str, Tensor]


def merge_state_dicts(
    base: StateDict,
    tasks: Mapping[str, StateDict],
    method: str = "task_arithmetic",
    *,
    dtype: str | None = None,
    seed: int = 0,
    policy: str = "refuse",
    add_ons: Sequence[tuple[str, Mapping[str, Any]]] = (),
    statistics: Mapping[str, StateDict] | None = None,
    **parameters: Any,
) -> dict[str, Tensor] | dict[str, dict[str, Tensor]]:
    """Merge state dicts in memory: the merged state dict, or one per task for methods with one model per task.

    `parameters` are the method's (`python -m explorer methods` lists them); per-task ones take a number or a mapping
    task -> number. `add_ons` are names with their parameters, such as ("lines", {"alpha": 0.1}). `dtype` None
    keeps each tensor's stored dtype; arithmetic is float32 (float64 where inputs are).
    `statistics` gives, for methods that need it, task -> {"fisher/NAME" or "gram/NAME": tensor}, as in the files that
    `python -m explorer gather` writes. Integer tensors keep the base's values; so do tensors that do not fit when
    `policy` is "keep_base". "common_rows" does so too, but merges the common rows of embeddings and heads; rows that
    only a task has are dropped.
    Raises AlignmentError, ParameterError, UnknownNameError, RecipeError (number of tasks), CheckpointError (NaN).
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(
            sentence("merge", "dtype must be one of " + ", ".join(DTYPES), repr(dtype), near(dtype, DTYPES))
        )
    names = _aligned(base, tasks, policy)
    measured = _measured(base, names, statistics or {})
    source = StateDictSource(base, _fitted(base, tasks, names), names, given=measured)
    prepared = prepare(METHODS.get(method), source, parameters, seed=seed, add_ons=add_ons)
    stored = getattr(torch, dtype) if dtype else None
    merged = {name: merge_tensor(prepared, source, name, stored or base[name].dtype) for name in names}

    def whole(index: int | None) -> dict[str, Tensor]:
        picked = {n: m if isinstance(m, Tensor) else m[index or 0] for n, m in merged.items()}
        return {n: picked[n] if n in picked else t.detach().clone() for n, t in base.items()}

    if METHODS.get(method).output == "single":
        return whole(None)
    return {task: whole(i) for i, task in enumerate(tasks)}


def survey_state_dicts(
    base: StateDict,
    tasks: Mapping[str, StateDict],
    metrics: Sequence[str] | None = None,
    *,
    trim_density: float = 1.0,
    policy: str = "refuse",
) -> dict[str, Result]:
    """Interference metrics (None: all but those on matrices; ["all"]) of state dicts in memory, one table each."""
    names = _aligned(base, tasks, policy)
    source = StateDictSource(base, _fitted(base, tasks, names), names)
    return survey(source, metrics=metrics, trim_density=trim_density, executor=ThreadExecutor(2))


def survey_checkpoints(
    base: str | Path,
    tasks: Mapping[str, str | Path],
    *,
    metrics: Sequence[str] | None = None,
    trim_density: float = 0.2,
    policy: str = "refuse",
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, Result]:
    """Interference metrics (None: all but those on matrices; ["all"]) of checkpoints on disk, read lazily.

    `cache`: a folder where finished work is kept, so that a survey goes on where it stopped and is not made twice.
    """
    made = survey_models(
        open_for_survey(base, tasks, policy),
        metrics,
        trim_density=trim_density,
        cache=cache,
        progress=progress,
        cancel=cancel,
    )
    return {name: made.finish(name) for name in made.planned}


def open_for_survey(base: str | Path, tasks: Mapping[str, str | Path], policy: str = "refuse") -> OpenModels:
    """A base and its fine-tunes, aligned under a policy, as a survey takes them."""
    base_checkpoint, checkpoints = open_all(base, tasks)
    alignment = align(base_checkpoint, checkpoints)
    return OpenModels(base_checkpoint, alignment.tasks, alignment, alignment.require(policy), policy)


def evaluate_model(
    model: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    tasks_folder: str | Path,
    split: str = "test",
    device: str | None = None,
    progress: ProgressCallback | None = None,
) -> Result:
    """Scores of a model folder, of a folder with one model per task, or of a recipe (merged in memory).

    A recipe gives, to the digit, what the folder it exports gives. `tasks` None means: every task of the folder that
    the model can serve. Raises InputError for unknown tasks, models or recipes, and for a merge's tasks without heads.
    """
    cached = find_cached(str(model))
    path, on = cached.folder if cached else Path(model), pick_device(device).torch
    known = find_tasks(Path(tasks_folder))
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return _evaluate_recipe(Recipe.load(path), tasks, known, split, on, progress)
    if (path / RECIPE_FILE).is_file() and not any(path.glob("*.safetensors")):
        folders = {p.name: p for p in sorted(path.iterdir()) if p.is_dir()}
        chosen = _tasks(tasks or _serving(path / RECIPE_FILE, known), known, split)
        _require_served([t.name for t in chosen], folders, str(path))
        _require_heads(chosen)
        one = lambda task: Loaded(folders[task.name], device=on)(task)  # noqa: E731
        return evaluate(one, chosen, folders[chosen[0].name], device=on, progress=progress)
    loaded = Loaded(path, device=on)
    folder = path.expanduser() if path.expanduser().is_dir() else path.expanduser().parent
    chosen = _tasks(tasks or _serving(folder / RECIPE_FILE, known), known, split)
    if (folder / RECIPE_FILE).is_file():
        _require_heads(chosen)
    chosen = [with_head_of(loaded.checkpoint, t) for t in chosen]
    return evaluate(loaded, chosen, folder, device=on, progress=progress)


def _serving(recipe_file: Path, known: Mapping[str, Path]) -> list[str]:
    """The known tasks that a merge was made of, where the folder says so; else every known task."""
    if not recipe_file.is_file():
        return list(known)
    return [n for n in Recipe.load(recipe_file).task_names if n in known]


def _evaluate_recipe(
    recipe: Recipe,
    tasks: Sequence[str] | None,
    known: Mapping[str, Path],
    split: str,
    device: torch.device,
    progress: ProgressCallback | None,
) -> Result:
    several = METHODS.get(recipe.method).output == "per_task"
    default = [n for n in recipe.task_names if n in known]
    chosen = _tasks(tasks or default, known, split)
    if several:
        _require_served([t.name for t in chosen], dict.fromkeys(recipe.task_names), "recipe")
    models = open_models(recipe)
    live = LiveModel(load_resident(models, device))
    live.merge(recipe, cache=Store())
    served = {t.name: expert_of(models, t.name) if t.name in models.tasks else models.base for t in chosen}
    chosen = [with_head_of(served[t.name], t, base=models.base) for t in chosen]
    return evaluate(live.module_for, chosen, companions_folder(models.base), device=device, progress=progress)


def _require_heads(tasks: Sequence[EvaluationTask]) -> None:
    """Refuse tasks whose head stayed with the fine-tune: a merge holds the base's head, or one of averages."""
    must, advice = "needs its head beside the data to score a merge", "Keep it there (write_head), or give the recipe."
    problems = [sentence(t.name, must, "none", advice) for t in tasks if t.lacks_head]
    if problems:
        raise InputError(all_problems("tasks", problems))


def _require_served(names: Sequence[str], served: Mapping[str, Any], who: str) -> None:
    problems = [
        sentence(who, "holds one model per task", f"no model for {n!r}", near(n, served))
        for n in names
        if n not in served
    ]
    if problems:
        raise InputError(all_problems(who, problems))


def _tasks(names: Sequence[str], known: Mapping[str, Path], split: str) -> list[EvaluationTask]:
    problems = [sentence("tasks", "must be known names", repr(n), near(n, known)) for n in names if n not in known]
    if not names:
        problems.append(sentence("tasks", "at least one must be named", "none", "Use --tasks NAME."))
    if problems:
        raise InputError(all_problems("tasks", problems))
    return [load_task(known[n], split=split) for n in dict.fromkeys(names)]


def _aligned(base: StateDict, tasks: Mapping[str, StateDict], policy: str) -> list[str]:
    """Names of float tensors with one shape everywhere; everything else is a problem under "refuse"."""
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if policy not in POLICIES:
        must = "policy must be one of " + ", ".join(POLICIES)
        raise InputError(sentence("merge", must, repr(policy), near(policy, POLICIES)))
    if not tasks:
        raise InputError(sentence("merge", "at least one task must be given", "none", "Pass {name: state_dict}."))
    problems, names, rows = [], [], policy == "common_rows"
    for name, tensor in base.items():
        if tensor.dtype not in floats:
            continue
        wrong = [
            t
            for t, sd in tasks.items()
            if name not in sd
            or sd[name].dtype not in floats
            or not (sd[name].shape == tensor.shape or (rows and differs_in_rows(name, tensor.shape, sd[name].shape)))
        ]
        problems += [_misfit(name, tensor, task, tasks[task].get(name)) for task in wrong]
        names += [] if wrong else [name]
    for task, sd in tasks.items():
        advice = "Leave it out, or use policy='keep_base'."
        extra = [n for n in sd if n not in base]
        problems += [
            sentence(f"task {task}", f"tensor {n} must be in the base too", "none there", advice) for n in extra
        ]
    if (problems and policy == "refuse") or not names:
        raise AlignmentError(all_problems("merge", problems or ["merge: nothing can be merged; no float tensor fits."]))
    return names


def _fitted(base: StateDict, tasks: Mapping[str, StateDict], names: Sequence[str]) -> dict[str, StateDict]:
    """The tasks' tensors in the base's shapes: rows in common are the task's, the others the base's."""

    def fitted(mine: Tensor, theirs: Tensor) -> Tensor:
        if theirs.shape == mine.shape:
            return theirs
        left, right = mine.detach().reshape(-1), theirs.detach().reshape(-1)
        parts = (lambda a, b: left[a:b]), (lambda a, b: right[a:b])
        return read_rows(*parts, right.numel(), 0, left.numel()).reshape(mine.shape)

    return {t: {n: fitted(base[n], sd[n]) for n in names} for t, sd in tasks.items()}


def _measured(base: StateDict, names: Sequence[str], statistics: Mapping[str, StateDict]) -> Mapping[str, StateDict]:
    """The statistics, checked. Raises CheckpointError with everything that is wrong with them."""
    problems = []
    for task, held in statistics.items():
        fitting = {k: v for k, v in held.items() if k.split("/", 1)[-1] in names}
        shapes = {k: tuple(base[k.split("/", 1)[-1]].shape) for k in fitting}
        found = [shape_problem(k, tuple(v.shape), shapes[k]) or value_problem(k, v) for k, v in fitting.items()]
        problems += [f"statistics of {task}: {text}" for text in found if text]
    if problems:
        raise CheckpointError(all_problems("statistics", problems))
    return statistics


def _misfit(name: str, mine: Tensor, task: str, theirs: Tensor | None) -> str:
    got = "none" if theirs is None else f"{theirs.dtype} {list(theirs.shape)}"
    must = f"tensor {name} must be a float tensor of shape {list(mine.shape)}"
    return sentence(f"task {task}", must, got, "Use a fine-tune of this base, or policy='keep_base'.")
