"""Greedy soup over a recipe's checkpoints: scored live on evaluation tasks, ending in a recipe that can be exported."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explorer.compute.device import pick_device
from explorer.errors import InputError, all_problems, near, sentence
from explorer.evaluation import (
    EvaluationTask,
    Evaluator,
    TaskScore,
    find_tasks,
    load_task,
    mean_score,
    score_difference,
    summarize,
)
from explorer.live import LiveModel, load_resident
from explorer.opening import companions_folder, open_models
from explorer.recipe import Recipe
from explorer.results import Result, count, number, text
from explorer.store import Store
from explorer.tuning.greedy_soup import Soup, greedy_soup

GOALS = ("normalized_accuracy", "accuracy", "worst")
COLUMNS = (
    text("stage", "alone: one checkpoint; soup: an average that was tried, in order"),
    text("candidate", "the checkpoint that was scored or tried"),
    count("members", "checkpoints in the average that was scored"),
    number("score", "what the soup is chosen by: the metric asked for"),
    text("kept", "yes where the candidate stayed in the soup"),
    count("n", "examples scored, all tasks together"),
    number("mean_score", "mean score over the tasks", -1, 1),
    number("low", "lower end of its 95 % bootstrap interval over examples", -1, 1),
    number("high", "upper end of its 95 % bootstrap interval over examples", -1, 1),
    number("difference", "mean score minus that of the soup before, same examples", -1, 1),
    number("difference_low", "lower end of its 95 % paired bootstrap interval", -1, 1),
    number("difference_high", "upper end of its 95 % paired bootstrap interval", -1, 1),
)
Scores = Mapping[str, TaskScore]


@dataclass(frozen=True)
class CookedSoup:
    """The chosen soup, the recipe that makes it, and the trail of what was tried."""

    soup: Soup
    recipe: Recipe
    trail: Result


def cook_greedy_soup(
    recipe: Recipe,
    *,
    tasks_folder: str | Path,
    tasks: Sequence[str] | None = None,
    split: str = "tune",
    goal: str = "normalized_accuracy",
    examples: int | None = None,
    device: str | None = None,
    on_scored: Callable[[tuple[str, ...]], None] | None = None,
) -> CookedSoup:
    """Choose which of the recipe's checkpoints to average; its method and parameters do not matter.

    Scores are taken on `split` of the evaluation tasks called like the recipe's tasks (or of `tasks`); use a split
    that nothing is reported on. `goal`: normalized_accuracy (mean over tasks of the soup's accuracy / that of the
    task's own checkpoint), worst (the least of those), or accuracy (the mean). `examples`: about so many balanced
    examples per task instead of the whole split. The trail's intervals treat the tasks as fixed.
    Raises InputError for an unknown goal, tasks that are not there, a normalized goal where a task has no checkpoint.
    """
    chosen = _evaluation_tasks(recipe, Path(tasks_folder), tasks, split, goal)
    kitchen = _Kitchen(recipe, chosen, goal, examples, device, on_scored)
    started = time.perf_counter()
    soup = greedy_soup(recipe.task_names, kitchen.score)
    found = Result(
        "greedy_soup",
        tuple(t.name for t in chosen),
        pd.DataFrame(kitchen.rows(soup), columns=[c.name for c in COLUMNS]),
        COLUMNS,
        {
            **kitchen.evaluator.provenance(),
            **{"goal": goal, "split": split, "members": list(soup.members), "score": soup.score},
            "seconds": round(time.perf_counter() - started, 3),
        },
    )
    return CookedSoup(soup, soup_recipe(recipe, soup.members), found)


def soup_recipe(recipe: Recipe, members: Sequence[str]) -> Recipe:
    """The recipe of the plain average of some of its checkpoints, in the recipe's order."""
    kept = tuple(replace(t, parameters={}) for t in recipe.tasks if t.name in members)
    return replace(recipe, tasks=kept, method="weight_average", parameters={})


def _evaluation_tasks(
    recipe: Recipe, folder: Path, tasks: Sequence[str] | None, split: str, goal: str
) -> list[EvaluationTask]:
    known = find_tasks(folder)
    names = list(dict.fromkeys(tasks if tasks is not None else [n for n in recipe.task_names if n in known]))
    who, problems = "greedy soup", []
    if goal not in GOALS:
        problems.append(sentence(who, "metric must be one of " + ", ".join(GOALS), repr(goal), near(goal, GOALS)))
    problems += [sentence(who, "tasks must be known names", repr(n), near(n, known)) for n in names if n not in known]
    if not names:
        advice = "Use --tasks NAME, or name the recipe's tasks like evaluation tasks."
        problems.append(sentence(who, "needs an evaluation task", f"none in {folder}", advice))
    if goal != "accuracy":
        must = f"{goal} needs a checkpoint of the recipe called like each task"
        missing = [n for n in names if n not in recipe.task_names]
        problems += [sentence(who, must, f"none for {n!r}", "Use --metric accuracy.") for n in missing]
    if problems:
        raise InputError(all_problems(who, problems))
    return [load_task(known[n], split=split) for n in names]


class _Kitchen:
    """Merges and scores sets of checkpoints, each set once. One resident copy of the models serves all."""

    def __init__(
        self,
        recipe: Recipe,
        tasks: Sequence[EvaluationTask],
        goal: str,
        examples: int | None,
        device: str | None,
        on_scored: Callable[[tuple[str, ...]], None] | None,
    ) -> None:
        self.recipe = soup_recipe(recipe, recipe.task_names)
        self.goal, self.only_quick, self.on_scored = goal, examples is not None, on_scored
        on = pick_device(device).torch
        models = open_models(self.recipe)
        sizes = {} if examples is None else {"quick": examples}
        self.evaluator = Evaluator(tasks, companions_folder(models.base), on, **sizes)
        self.live = LiveModel(load_resident(models, on))
        self.cache = Store()
        self.held: dict[frozenset[str], Scores] = {}

    def scores(self, members: tuple[str, ...]) -> Scores:
        """Answers of the average of these checkpoints; a checkpoint left out has weight 0, which changes no bit."""
        key = frozenset(members)
        if key not in self.held:
            weights = {name: float(name in key) for name in self.recipe.task_names}
            self.live.merge(self.recipe.with_parameters(weight=weights), cache=self.cache)
            *_, last = self.evaluator.run(self.live.module_for, key=self.live.key, only_quick=self.only_quick)
            self.held[key] = last.scores
            if self.on_scored:
                self.on_scored(members)
        return self.held[key]

    def score(self, members: tuple[str, ...]) -> float:
        """The goal's value for the average of these checkpoints; NaN where no task has one."""
        found = self.scores(members)
        if self.goal == "accuracy":
            return float(np.mean([s.score for s in found.values()]))
        summary = summarize(found, {t: self.scores((t,))[t] for t in found})
        if self.goal == "normalized_accuracy":
            return summary.normalized_accuracy
        return summary.worst.normalized_accuracy if summary.worst else float("nan")

    def rows(self, soup: Soup) -> list[dict[str, Any]]:
        """The trail: every checkpoint alone, best first, then every soup that was tried."""
        rows = [self._row("alone", s.candidate, (s.candidate,), soup.singles[s.candidate]) for s in soup.steps]
        before: tuple[str, ...] = soup.steps[0].members
        for step in soup.steps[1:]:
            kept = "yes" if step.kept else "no"
            rows.append(self._row("soup", step.candidate, step.members, step.score, kept, before))
            before = step.members if step.kept else before
        return rows

    def _row(
        self,
        stage: str,
        candidate: str,
        members: tuple[str, ...],
        score: float,
        kept: str = "",
        before: tuple[str, ...] | None = None,
    ) -> dict[str, Any]:
        found = self.scores(members)
        alone, changed = mean_score(found), score_difference(found, self.scores(before)) if before else None
        return {
            **{"stage": stage, "candidate": candidate, "members": len(members), "score": score, "kept": kept},
            **{"n": alone.n, "mean_score": alone.difference, "low": alone.low, "high": alone.high},
            "difference": changed.difference if changed else float("nan"),
            "difference_low": changed.low if changed else float("nan"),
            "difference_high": changed.high if changed else float("nan"),
        }
