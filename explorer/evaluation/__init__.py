"""Evaluation: tasks, fixed batches, live scores, and how sure they are. Loads transformers on first use only."""

from __future__ import annotations

from explorer.evaluation._api import KINDS, Example, TaskKind, task_kind
from explorer.evaluation._plan import Batch, Plan, plan_batches
from explorer.evaluation._run import Evaluator, evaluate
from explorer.evaluation._scores import Partial, TaskScore
from explorer.evaluation._task import EvaluationTask, find_tasks, load_task, task_folder
from explorer.evaluation._tokenizer import Tokenizer, load_tokenizer
from explorer.evaluation.models import bind, build_module, load_module
from explorer.evaluation.statistics import (
    Difference,
    Summary,
    TaskComparison,
    common_correct,
    holm,
    mcnemar,
    paired_bootstrap,
    scores_table,
    summarize,
    wilson,
)

__all__ = [
    "KINDS",
    "Batch",
    "Difference",
    "EvaluationTask",
    "Evaluator",
    "Example",
    "Partial",
    "Plan",
    "Summary",
    "TaskComparison",
    "TaskKind",
    "TaskScore",
    "Tokenizer",
    "bind",
    "build_module",
    "common_correct",
    "evaluate",
    "find_tasks",
    "holm",
    "load_module",
    "load_task",
    "load_tokenizer",
    "mcnemar",
    "paired_bootstrap",
    "plan_batches",
    "scores_table",
    "summarize",
    "task_folder",
    "task_kind",
    "wilson",
]
