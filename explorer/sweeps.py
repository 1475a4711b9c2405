"""Sweeps: scores of many settings of one merge, in the background, coarse to fine; what is scored is kept.

A sweep has a live model of its own, one for all sweeps of a server. The tab's own one stays as it is, because what the
page shows beside it (scores, an export's card, what the dtype costs) is read from it between two steps of a sweep.
Base and tasks are shared, so it costs one merged row, which counts in the memory budget like a tab's and is let go of
when the last sweep stops.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from torch import nn

from explorer.errors import InputError, sentence
from explorer.evaluation import EvaluationTask, Evaluator, Partial, TaskScore, mean_score, summarize
from explorer.executor import CancelToken, Progress
from explorer.opening import expert_of
from explorer.results import Result, sweep_columns
from explorer.spare_time import SpareTime
from explorer.streaming import ModuleFor, checkpoint_key, loaded_once
from explorer.sweep_plans import Cell, Sweep
from explorer.workbench import Workbench

UPDATE_EVERY_SECONDS = 0.4
"""Points come faster than a figure can be drawn and looked at."""

Scores = Mapping[str, TaskScore]


@dataclass(eq=False)
class Swept:
    """A sweep and what is known of it so far: the answers of each scored cell, and of the tasks' own fine-tunes."""

    sweep: Sweep
    rows: dict[Cell, dict[str, Any]] = field(default_factory=dict)
    experts: dict[str, TaskScore] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether every cell is scored."""
        return len(self.rows) == len(self.sweep.cells)

    def result(self) -> Result:
        """The scored points, in the order they were scored. Columns `sweep_columns`."""
        sweep, tasks = self.sweep, tuple(self.experts)
        columns = sweep_columns(sweep.kind, tasks)
        rows = [{**row, "refined": int(self._refined(cell))} for cell, row in self.rows.items()]
        table = pd.DataFrame(rows, columns=[c.name for c in columns])
        return Result(sweep.kind, tasks, table, columns, {**_described(sweep), **self.facts})

    def _refined(self, cell: Cell) -> bool:
        reach = self.sweep.reach[cell]
        if not reach:
            return True
        near = (c for c in self.sweep.cells if all(abs(a - b) <= reach for a, b in zip(c, cell, strict=True)))
        return all(c in self.rows for c in near)


@dataclass(frozen=True, eq=False)
class SweepUpdate:
    """A sweep so far. `progress.seconds` are of this run, and so is the pace behind `eta_seconds`."""

    result: Result
    progress: Progress
    eta_seconds: float | None
    finished: bool


class Sweeps:
    """Runs the sweeps of one server: each tab at most one, a point at a time in turn, when the device is free."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._spare = SpareTime(bench.turns)
        self._id = f"sweeps {secrets.token_hex(8)}"
        self._running = 0
        self._lock = threading.Lock()

    def run(self, swept: Swept, token: CancelToken) -> Iterator[SweepUpdate]:
        """Score what is not scored yet, coarse to fine; the state so far now and then, and at the end.

        `token` should be `slot.newest_in_background()`: a newer sweep of the tab, or its end, then stops this one.
        What was scored stays in `swept`, so running it again goes on.
        Raises Cancelled when it was stopped, InputError when no evaluation task carries the name of a merged task,
        or when the models do not fit the memory budget; else as a live merge.
        """
        evaluator = self._bench.evaluator(swept.sweep.recipe)
        if not evaluator.tasks:
            advice = "Name a fine-tune after a folder in the tasks folder."
            raise InputError(sentence("sweep", "needs held-out examples of a merged task", "none", advice))
        with self._lock:
            self._running += 1
        try:
            yield from self._points(swept, evaluator, token)
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._bench.slot(self._id).free()

    def _points(self, swept: Swept, evaluator: Evaluator, token: CancelToken) -> Iterator[SweepUpdate]:
        todo = [c for c in swept.sweep.cells if c not in swept.rows]
        started, whole = time.monotonic(), len(swept.sweep.cells)
        self._learn(swept, evaluator, token)
        ready = Progress(len(swept.rows), whole, time.monotonic() - started, "sweep")
        yield SweepUpdate(swept.result(), ready, None if todo else 0.0, swept.finished)
        begun = shown = time.monotonic()
        for number, cell in enumerate(todo, start=1):
            with self._spare.piece(token):
                scores = self._score(swept.sweep, cell, evaluator, token)
            swept.rows[cell] = _row(swept.sweep, cell, scores, swept.experts)
            now = time.monotonic()
            if number in (1, len(todo)) or now - shown >= UPDATE_EVERY_SECONDS:
                shown = now
                eta = (now - begun) / number * (len(todo) - number)
                progress = Progress(len(swept.rows), whole, now - started, "sweep")
                yield SweepUpdate(swept.result(), progress, eta, swept.finished)

    def _learn(self, swept: Swept, evaluator: Evaluator, token: CancelToken) -> None:
        """Score each task's own fine-tune on the same examples, and note what the figures must say."""
        models = self._bench.models(swept.sweep.recipe)
        for task in evaluator.tasks:
            if task not in swept.experts:
                expert = expert_of(models, task)
                module, key = loaded_once(expert, self._bench.device.torch), checkpoint_key(expert)
                with self._spare.piece(token):
                    swept.experts |= self._answers(swept.sweep, evaluator, module, key, token, [task])
        experts, tasks = swept.experts, evaluator.tasks
        swept.facts = {
            "examples": {t: s.n for t, s in experts.items()},
            "of": {t: s.n_total for t, s in experts.items()},
            "experts": {t: s.score for t, s in experts.items()},
            "chance": {t: tasks[t].chance for t in experts},
            "method": self._bench.method(swept.sweep.recipe.method).title,
        }

    def _score(self, sweep: Sweep, cell: Cell, evaluator: Evaluator, token: CancelToken) -> Scores:
        """One point's answers; what the store holds under the same weights is neither merged nor scored again."""
        recipe = sweep.recipe_at(cell)
        with self._spare.turn(token):
            live = self._bench.live(self._bench.slot(self._id), recipe)

        def module(task: EvaluationTask) -> nn.Module:
            live.merge(recipe, cache=self._bench.store, cancel=token)
            return live.module_for(task)

        return self._answers(sweep, evaluator, module, live.key_of(recipe), token, list(evaluator.tasks))

    def _answers(
        self, sweep: Sweep, evaluator: Evaluator, module: ModuleFor, key: str, token: CancelToken, tasks: list[str]
    ) -> Scores:
        """The answers of one model to the sweep's examples, a task's block of them per turn."""
        store, quick = self._bench.store, sweep.rounds == 1
        runs = evaluator.run(module, key=key, cancel=token, store=store, only_quick=quick, tasks=tasks)
        scores: Scores = {}
        while (partial := self._next(runs, token)) is not None:
            if sweep.rounds is not None and partial.round > sweep.rounds:
                break
            scores = partial.scores
        return scores

    def _next(self, runs: Iterator[Partial], token: CancelToken) -> Partial | None:
        with self._spare.turn(token):
            return next(runs, None)


def _row(sweep: Sweep, cell: Cell, scores: Scores, experts: Scores) -> dict[str, Any]:
    """One point's row of the table, all but `refined`, which changes as its neighbours come in."""
    mean = mean_score(scores)
    summary = summarize(scores, experts)
    worst = summary.worst
    row: dict[str, Any] = dict(zip("xyz", sweep.values_at(cell), strict=False)) | dict(zip("ijk", cell, strict=False))
    for task, score in scores.items():
        low, high = score.interval
        row |= {f"score:{task}": score.score, f"low:{task}": low, f"high:{task}": high}
    return {
        **row,
        **{"n": mean.n, "mean": mean.difference, "low": max(-1.0, mean.low), "high": min(1.0, mean.high)},
        "normalized": summary.normalized_accuracy,
        "worst": worst.normalized_accuracy if worst else float("nan"),
        "worst_task": worst.task if worst else "",
        "reach": sweep.reach[cell],
    }


def _described(sweep: Sweep) -> dict[str, Any]:
    """The plan in JSON-safe values: what the axes are, their whole grid, and how many points there will be."""
    grids = sweep.grid * len(sweep.axes) if sweep.total is not None else sweep.grid
    axes = [
        {"name": a.name, "label": a.label, "task": a.task or "", "values": list(g)}
        for a, g in zip(sweep.axes, grids, strict=True)
    ]
    return {"axes": axes, "total": sweep.total, "points": len(sweep.cells), "method": sweep.recipe.method}
