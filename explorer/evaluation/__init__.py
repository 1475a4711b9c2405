"""Evaluation: tasks, fixed batches, live scores, and how sure they are. Loads transformers on first use only."""

from __future__ import annotations

from explorer.evaluation._api import KINDS, LABEL, Example, Field, TaskKind, task_kind
from explorer.evaluation._calibration import BINS, Reliability, calibrated_error, reliability
from explorer.evaluation._images import Images, load_images
from explorer.evaluation._metrics import ACCURACY, TaskMetric, mean_metric
from explorer.evaluation._permutation import PERMUTATIONS, paired_permutation
from explorer.evaluation._plan import Batch, Plan, plan_batches
from explorer.evaluation._run import Evaluator, evaluate
from explorer.evaluation._scores import Partial, TaskScore
from explorer.evaluation._task import EvaluationTask, find_tasks, load_task, task_folder
from explorer.evaluation._tokenizer import Tokenizer, load_tokenizer
from explorer.evaluation._tools import load_tool
from explorer.evaluation.heads import head_labels, own_head, with_head_of, write_head
from explorer.evaluation.loading import Loaded, load_module, module_key, module_of
from explorer.evaluation.models import bind, build_module
from explorer.evaluation.probes import Probe, fit_probe, label_text_head, write_probe
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
    "BINS",
    "KINDS",
    "LABEL",
    "PERMUTATIONS",
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
    "Probe",
    "Reliability",
    "Summary",
    "TaskComparison",
    "TaskKind",
    "TaskMetric",
    "TaskScore",
    "Tokenizer",
    "bind",
    "build_module",
    "calibrated_error",
    "common_outcomes",
    "evaluate",
    "find_tasks",
    "fit_probe",
    "head_labels",
    "holm",
    "label_text_head",
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
    "paired_permutation",
    "plan_batches",
    "reliability",
    "score_difference",
    "scores_table",
    "summarize",
    "task_folder",
    "task_kind",
    "wilson",
    "with_head_of",
    "write_head",
    "write_probe",
]
