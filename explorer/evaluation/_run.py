"""Scoring a model on tasks: first figures after a small balanced subset, refined to the whole split."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.errors import UnknownNameError, near, sentence
from explorer.evaluation._api import KINDS
from explorer.evaluation._locks import TRANSFORMERS
from explorer.evaluation._plan import QUICK, Batch, Plan, plan_batches
from explorer.evaluation._pool import map_batches
from explorer.evaluation._scores import Partial, TaskScore, packed, score_of
from explorer.evaluation._task import EvaluationTask
from explorer.evaluation._tools import Tool, load_tool, tool_names
from explorer.evaluation.statistics import scores_table
from explorer.executor import CancelToken, Progress, ProgressCallback
from explorer.results import Result
from explorer.store import Store

ModuleForTask = Callable[[EvaluationTask], nn.Module] | nn.Module
"""One module for every task, or the module that serves a task: its own weights, or its own layers on top."""
Answer = tuple[np.ndarray, np.ndarray]
"""Predictions and confidences of one batch."""


class _Meter:
    """Gathers the scores of a run and knows how far it is."""

    def __init__(self, plans: Mapping[str, Plan], only_quick: bool) -> None:
        blocks = [p.blocks[:1] if only_quick else p.blocks for p in plans.values()]
        self.rounds = max((len(b) for b in blocks), default=0)
        self.total = sum(len(batch.indices) for b in blocks for block in b for batch in block)
        self.tasks = len(plans)
        self.scores: dict[str, TaskScore] = {}
        self.started = time.perf_counter()

    def partial(self, score: TaskScore, round: int, *, round_done: bool) -> Partial:
        """The run with this newest score in it; earlier partials keep theirs."""
        self.scores = {**self.scores, score.task: score}
        return Partial(
            scores=self.scores,
            task=score.task,
            round=round,
            rounds=self.rounds,
            round_done=round_done,
            complete=len(self.scores) == self.tasks and all(s.complete for s in self.scores.values()),
            done=sum(s.n for s in self.scores.values()),
            total=self.total,
            seconds=time.perf_counter() - self.started,
        )


class Evaluator:
    """Scores modules on fixed tasks; prepares each task once. Several threads may use one."""

    def __init__(
        self,
        tasks: Sequence[EvaluationTask],
        tokenizer_folder: Path | str,
        device: torch.device | str = "cpu",
        *,
        quick: int = QUICK,
    ) -> None:
        self.tasks = {t.name: t for t in tasks}
        self.device = torch.device(device)
        self._folder, self._quick = tokenizer_folder, quick
        self._tools: dict[tuple[str, ...], Tool | None] = {}
        self._plans: dict[str, Plan] = {}
        self._heads: dict[str, Tensor | None] = {}
        self._lock = threading.Lock()

    def plan(self, task: str) -> Plan:
        """The fixed batches of a task, prepared on first use."""
        with self._lock:
            if task not in self._plans:
                known = self._known(task)
                self._heads[task] = None if known.head is None else known.head.to(self.device)
                self._plans[task] = plan_batches(known, self._tool(known), quick=self._quick)
            return self._plans[task]

    def _tool(self, task: EvaluationTask) -> Tool | None:
        """What turns rows into tensors: tokenizer and image settings of the base's folder, read once."""
        kind = KINDS.get(task.kind)
        names = tool_names(kind)
        if names not in self._tools:
            self._tools[names] = load_tool(kind, self._folder)
        return self._tools[names]

    def _known(self, task: str) -> EvaluationTask:
        if task not in self.tasks:
            raise UnknownNameError(sentence("task", "must be one of this run", repr(task), near(task, self.tasks)))
        return self.tasks[task]

    def run(
        self,
        module_for_task: ModuleForTask,
        *,
        key: str,
        cancel: CancelToken | None = None,
        store: Store | None = None,
        only_quick: bool = False,
        tasks: Sequence[str] | None = None,
    ) -> Iterator[Partial]:
        """Scores after every block: the quick subset of each task in turn, then larger blocks round by round.

        `module_for_task` is one module for all tasks, or `task -> module` where each task has its own weights (asked
        only for blocks that are not held). `key` names the weights: with a `store`, blocks answered before under the
        same key come back without a forward pass. `tasks` picks some, in that order.
        Raises Cancelled between batches (blocks that were finished stay held), UnknownNameError for another task,
        ValueError (a programming error) for a store without a key.
        """
        if store is not None and not key:
            raise ValueError("Evaluator.run: a store needs a key that names the weights")
        plans = {}
        for name in tasks if tasks is not None else self.tasks:
            _check(cancel)
            plans[name] = self.plan(name)
        meter = _Meter(plans, only_quick)
        parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {n: [] for n in plans}
        for block in range(meter.rounds):
            todo = [n for n in plans if block < len(plans[n].blocks)]
            for name in todo:
                parts[name].append(self._block(name, block, module_for_task, key, cancel, store))
                score = score_of(self.tasks[name], parts[name])
                yield meter.partial(score, block + 1, round_done=name == todo[-1])

    def _block(
        self,
        name: str,
        block: int,
        module_for_task: ModuleForTask,
        key: str,
        cancel: CancelToken | None,
        store: Store | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        plan = self._plans[name]
        held_as = f"predictions/{key}/{plan.digest}/{block}/with confidences"
        held = store.get(held_as) if store else None
        if held is None:
            # Not get_or_make: a second caller would wait for the first and could not be cancelled meanwhile.
            held = self._predict(name, plan.blocks[block], module_for_task, cancel)
            if store:
                store.put(held_as, held, held.nbytes)
        return plan.indices(block), held

    def _predict(
        self, name: str, batches: Sequence[Batch], module_for_task: ModuleForTask, cancel: CancelToken | None
    ) -> np.ndarray:
        _check(cancel)
        module = module_for_task if isinstance(module_for_task, nn.Module) else module_for_task(self._known(name))

        known = self._known(name)
        kind, tool = KINDS.get(known.kind), self._tool(known)
        call = tool.call if tool else None

        def answer(batch: Batch) -> Answer:
            _check(cancel)
            outputs = self.batch_scores(name, module, batch)
            return kind.predictions(outputs, call, known.parameters), kind.confidences(outputs)

        run = map_batches if self.device.type == "cpu" else _one_by_one
        answered = run(answer, batches)
        return packed(*(np.concatenate(parts) for parts in zip(*answered, strict=True)))

    def batch_scores(self, task: str, module: nn.Module, batch: Batch) -> Tensor:
        """Outputs [n, k] of one batch of a task's plan, on this evaluator's device."""
        self.plan(task)
        known = self._known(task)
        inputs = {k: v.to(self.device) for k, v in batch.inputs.items()}
        return KINDS.get(known.kind).scores(module, inputs, self._heads[task], **known.parameters)

    def provenance(self) -> dict[str, Any]:
        """What the scores came from, as JSON-safe values: versions, device, and each task's digests."""
        with TRANSFORMERS:
            import transformers

        described = {
            name: {
                "kind": task.kind,
                "metric": task.metric.name,
                "version": task.version,
                "split": task.split,
                "n": task.n,
                "digest": task.digest,
                "batches": self.plan(name).digest,
                "parameters": dict(task.parameters),
                **({"head": task.head_source} if task.head_source else {}),
            }
            for name, task in self.tasks.items()
        }
        versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
        return {"device": str(self.device), **versions, "tasks": described}


def _one_by_one(function: Callable[[Batch], Answer], batches: Sequence[Batch]) -> list[Answer]:
    return [function(batch) for batch in batches]


def _check(cancel: CancelToken | None) -> None:
    if cancel:
        cancel.check("evaluation")


def evaluate(
    module_for_task: ModuleForTask,
    tasks: Sequence[EvaluationTask],
    tokenizer_folder: Path | str,
    *,
    model: str = "merged",
    key: str = "",
    device: torch.device | str = "cpu",
    cancel: CancelToken | None = None,
    store: Store | None = None,
    progress: ProgressCallback | None = None,
) -> Result:
    """The score per task of one model, every task scored to its end, chance beside it. Columns SCORES.

    `key` is needed only with a `store`. Raises ValueError (a programming error) for a store without a key.
    """
    evaluator = Evaluator(tasks, tokenizer_folder, device)
    scores: Mapping[str, TaskScore] = {}
    seconds = 0.0
    for partial in evaluator.run(module_for_task, key=key, cancel=cancel, store=store):
        scores, seconds = partial.scores, partial.seconds
        if progress:
            progress(Progress(partial.done, partial.total, partial.seconds, f"scoring {partial.task}"))
    return scores_table({model: scores}, tasks, provenance={**evaluator.provenance(), "key": key, "seconds": seconds})
