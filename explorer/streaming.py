"""Scores of a setting as they become known: a quick estimate first, then the whole held-out set.

Order: merge; the quick subset of each task; then larger blocks, round by round. Base and expert are scored on the same
examples (once per set of models), so an estimate always compares like with like. A newer request of the same session
stops it at the next batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from explorer.checkpoints import Checkpoint
from explorer.errors import Cancelled
from explorer.evaluation import (
    EvaluationTask,
    Evaluator,
    Loaded,
    Partial,
    Summary,
    TaskComparison,
    TaskScore,
    scores_table,
)
from explorer.executor import CancelToken
from explorer.live import LiveModel
from explorer.merging import METHODS
from explorer.opening import OpenModels, expert_of
from explorer.params import check_values
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.seeds import digest_of
from explorer.session import Move
from explorer.workbench import Slot, Workbench

ModuleFor = Callable[[EvaluationTask], nn.Module]
UPDATE_EVERY_SECONDS, FIRST_EVERY_SECONDS = 1.0, 0.4
"""Refinements of numbers that are already shown come no faster than this, nor do first numbers of further tasks."""


@dataclass(frozen=True)
class Rebuild:
    """How well a method with one model per task gives every task back, and what must be kept for it.

    `errors`: task -> ‖θ̂_t − θ_t‖ / ‖τ_t‖. `stored`: share of the T whole task vectors that the parts take; None where
    the method does not say.
    """

    errors: Mapping[str, float]
    stored: float | None


@dataclass(frozen=True, eq=False)
class LiveUpdate:
    """What is known now about one setting.

    `complete`: every merged example is scored. `finished`: base and experts as well. `eta_seconds`: to go for the
    merged model, None until known. `merge_seconds`: what the merge itself took; `place`: where it read the models from
    (see `Resident`). `rebuild`: for methods with one model
    per task, once everything is scored.
    """

    recipe: Recipe
    scores: Result
    summary: Summary
    merge_seconds: float
    done: int
    total: int
    eta_seconds: float | None
    complete: bool
    finished: bool
    rebuild: Rebuild | None = None
    place: str = "device"

    def move(self, label: str) -> Move:
        """This setting as a step of the trail."""
        worst = self.summary.worst
        merged = self.scores.table[self.scores.table["model"] == "merged"]
        return Move(
            recipe=self.recipe,
            label=label,
            normalized=self.summary.normalized_accuracy,
            worst=worst.normalized_accuracy if worst else float("nan"),
            worst_task=worst.task if worst else "",
            accuracies=dict(zip(merged["task"], merged["score"], strict=True)),
            complete=self.complete,
        )


@dataclass
class _Known:
    """Scores per model so far; grows while a stream runs."""

    merged: dict[str, TaskScore] = field(default_factory=dict)
    base: dict[str, TaskScore] = field(default_factory=dict)
    expert: dict[str, TaskScore] = field(default_factory=dict)


def stream(
    bench: Workbench, slot: Slot, recipe: Recipe, token: CancelToken, *, merge_seconds: float = 0.0
) -> Iterator[LiveUpdate]:
    """Updates until everything is scored: each task's first number at once, refinements at a calm pace.

    `merge_seconds`: what the merge took, where it was made for something else just before.
    Raises Cancelled once a newer request took the slot's token.

    Raises InputError for models or values that cannot be used. Yields once with an empty table when no evaluation
    task carries the name of a merged task.
    """
    evaluator = bench.evaluator(recipe)
    known = _Known()
    if not evaluator.tasks:
        bench.models(recipe)  # what is wrong with them is said all the same
        yield _update(recipe, evaluator, known, 0.0, None, finished=True)
        return
    with bench.turns.turn():
        token.check("merge")
        live = bench.live(slot, recipe)
        seconds = live.merge(recipe, cache=bench.store, cancel=token) or merge_seconds
        key = live.key
    runs = evaluator.run(live.module_for, key=key, cancel=token, store=bench.store)
    references = _References(bench, evaluator, live.resident.models, known, token)
    shown = 0.0
    while (partial := _next(bench, token, runs)) is not None:
        references.catch_up(partial.task, partial.round)
        first_of_task = partial.task not in known.merged
        known.merged = dict(partial.scores)
        now = time.monotonic()
        pause = FIRST_EVERY_SECONDS if first_of_task else UPDATE_EVERY_SECONDS
        if not (partial.complete or now - shown >= pause):
            continue  # drawing costs the page, and on a small machine the scoring, more than a digit is worth
        shown = now
        update = _update(recipe, evaluator, known, seconds, partial, finished=partial.complete)
        update = replace(update, place=live.resident.place)
        yield replace(update, rebuild=_rebuild(bench, live, recipe, token)) if partial.complete else update


def _rebuild(bench: Workbench, live: LiveModel, recipe: Recipe, token: CancelToken) -> Rebuild | None:
    """What a method with one model per task keeps of each; None for other methods."""
    method = METHODS.get(recipe.method)
    if method.output == "single":
        return None
    with bench.turns.turn():
        token.check("rebuild")
        errors = live.rebuild_errors(token)
    shapes = {n: live.arena.shape(n) for n in live.arena.names}
    values = check_values(method.specs, recipe.values(), who=method.name, tasks=recipe.task_names)
    stored = method.stored_function(shapes, len(recipe.tasks), values) if method.stored_function else None
    return Rebuild(errors, stored)


def current_scores(bench: Workbench, slot: Slot, recipe: Recipe) -> Result | None:
    """The merged model's scores that are held already, or None unless every example of this recipe is scored."""
    live = slot.live
    evaluator = bench.evaluator(recipe)
    if live is None or not evaluator.tasks:
        return None
    key = live.key_of(recipe)
    if live.key != key:
        return None
    scores: dict[str, TaskScore] = {}

    def refuse(_task: EvaluationTask) -> nn.Module:  # asked for only when a block is not held
        raise Cancelled("scores: this setting is not scored to its end.")

    try:
        for partial in evaluator.run(refuse, key=key, store=bench.store):
            scores = dict(partial.scores)
    except Cancelled:
        return None
    return scores_table({"merged": scores}, list(evaluator.tasks.values()))


def _next(bench: Workbench, token: CancelToken, runs: Iterator[Partial]) -> Partial | None:
    with bench.turns.turn():
        token.check("evaluation")
        return next(runs, None)


class _References:
    """Base and expert, scored on the same blocks as the merged model; what is held from before costs nothing."""

    def __init__(
        self, bench: Workbench, evaluator: Evaluator, models: OpenModels, known: _Known, token: CancelToken
    ) -> None:
        self._bench, self._evaluator, self._models = bench, evaluator, models
        self._known, self._token = known, token
        self._base = loaded_once(models.base, bench.device.torch)

    def catch_up(self, task: str, rounds: int) -> None:
        """Score base and expert on a task's first blocks, where they are not held already."""
        expert = expert_of(self._models, task)
        self._score(self._known.base, self._models.base, self._base, task, rounds)
        self._score(self._known.expert, expert, loaded_once(expert, self._bench.device.torch), task, rounds)

    def _score(
        self, scores: dict[str, TaskScore], checkpoint: Checkpoint, module: ModuleFor, task: str, rounds: int
    ) -> None:
        key = checkpoint_key(checkpoint)
        runs = self._evaluator.run(module, key=key, cancel=self._token, store=self._bench.store, tasks=[task])
        while (partial := _next(self._bench, self._token, runs)) is not None:
            scores[task] = partial.scores[task]
            if partial.round >= rounds:
                return


def checkpoint_key(checkpoint: Checkpoint) -> str:
    """The key of an unmerged checkpoint's answers: the same weights answer otherwise under another config."""
    return f"checkpoint/{digest_of(checkpoint.digest, json.dumps(checkpoint.config, sort_keys=True))}"


def loaded_once(checkpoint: Checkpoint, device: torch.device) -> ModuleFor:
    """A checkpoint's module, loaded when an answer is first needed; freed with the function that is returned."""
    held: list[Loaded] = []

    def module(task: EvaluationTask) -> nn.Module:
        if not held:
            held.append(Loaded(checkpoint, device=device))
        return held[0](task)

    return module


def _update(
    recipe: Recipe, evaluator: Evaluator, known: _Known, seconds: float, partial: Partial | None, *, finished: bool
) -> LiveUpdate:
    expert, base = _alike(known.expert, known.merged), _alike(known.base, known.merged)
    eta = None
    if partial and partial.done and not partial.complete:
        eta = partial.seconds * (partial.total - partial.done) / partial.done
    both = [(t, m, expert[t]) for t, m in known.merged.items() if t in expert]
    compared = [TaskComparison(t, min(m.n, e.n), m.score, e.score) for t, m, e in both]
    return LiveUpdate(
        recipe=recipe,
        scores=scores_table({"merged": known.merged, "base": base, "expert": expert}, list(evaluator.tasks.values())),
        summary=Summary(tuple(compared)),
        merge_seconds=seconds,
        done=partial.done if partial else 0,
        total=partial.total if partial else 0,
        eta_seconds=eta,
        complete=partial.complete if partial else True,
        finished=finished,
    )


def _alike(reference: Mapping[str, TaskScore], merged: Mapping[str, TaskScore]) -> dict[str, TaskScore]:
    """Reference scores on the very examples the merged model has answered, wherever they were all answered.

    So an estimate on a part of the examples compares like with like; at the end it is the whole split.
    """
    return {task: _on(score, merged[task].indices) if task in merged else score for task, score in reference.items()}


def _on(score: TaskScore, indices: np.ndarray) -> TaskScore:
    if len(indices) >= score.n or not np.isin(indices, score.indices).all():
        return score
    return score.on(indices)
