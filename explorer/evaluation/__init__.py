"""Evaluation: tasks, fixed batches, live scores, and how sure they are. Loads transformers on first use only."""

from __future__ import annotations

from explorer.evaluation._api import KINDS, LABEL, Example, Field, TaskKind, task_kind
from explorer.evaluation._images import Images, load_images
from explorer.evaluation._metrics import ACCURACY, TaskMetric, mean_metric
from explorer.evaluation._plan import Batch, Plan, plan_batches
from explorer.evaluation._run import Evaluator, evaluate
from explorer.evaluation._scores import Partial, TaskScore
from explorer.evaluation._task import EvaluationTask, find_tasks, load_task, task_folder
from explorer.evaluation._tokenizer import Tokenizer, load_tokenizer
from explorer.evaluation._tools import load_tool
from explorer.evaluation.heads import head_labels, own_head, with_head_of, write_head
from explorer.evaluation.loading import Loaded, load_module, module_key, module_of
from explorer.evaluation.models import bind, build_module
from explorer.evaluation.statistics import (
    Difference,
    Summary,
    TaskComparison,
    common_outcomes,
    holm,
    mcnemar,
    mean_score,
    paired_bootstrap,
    score_difference,
    scores_table,
    summarize,
    wilson,
)

__all__ = [
    "ACCURACY",
    "KINDS",
    "LABEL",
    "Batch",
    "Difference",
    "EvaluationTask",
    "Evaluator",
    "Example",
    "Field",
    "Images",
    "Loaded",
    "Partial",
    "Plan",
    "Summary",
    "TaskComparison",
    "TaskKind",
    "TaskMetric",
    "TaskScore",
    "Tokenizer",
    "bind",
    "build_module",
    "common_outcomes",
    "evaluate",
    "find_tasks",
    "head_labels",
    "holm",
    "load_images",
    "load_module",
    "load_task",
    "load_tokenizer",
    "load_tool",
    "mcnemar",
    "mean_metric",
    "mean_score",
    "module_key",
    "module_of",
    "own_head",
    "paired_bootstrap",
    "plan_batches",
    "score_difference",
    "scores_table",
    "summarize",
    "task_folder",
    "task_kind",
    "wilson",
    "with_head_of",
    "write_head",
]
