"""Tasks of lm-evaluation-harness on weights that are in memory: nothing is written to disk.

An adapter: the tasks, their prompts and their measures are the harness's own. It is an optional install (`lm-eval`).
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from explorer.errors import DataError, InputError, UnknownNameError, near, sentence
from explorer.results import Result, count, number, text

HARNESS = (
    text("task", "task of the harness"),
    text("metric", "its measure, as the harness names it"),
    text("filter", "how the answer was taken out of what was written; none: as it is"),
    number("value", "value of the measure, in the harness's own unit and direction"),
    number("stderr", "its standard error, where the harness gives one"),
    number("higher_is_better", "1 or 0; undefined where the harness does not say", 0, 1),
    count("n", "examples scored"),
    count("n_total", "examples of the whole split"),
    count("limit", "examples it was limited to; undefined: all. A limited value is no result to quote"),
    count("shots", "solved examples in front of each question"),
    text("version", "version of the task"),
)


class Harness:
    """lm-evaluation-harness on one module and its tokenizer, whatever weights the module shows at the moment.

    `module` is a language model of transformers, such as `LiveModel.module_for` gives; `call` its tokenizer;
    `batch_size` rows of one forward pass. `folder`: task definitions (YAML) beside those of the harness.
    Raises InputError when lm-eval is not installed.
    """

    def __init__(self, module: nn.Module, call: Any, *, batch_size: int = 8, folder: Path | None = None) -> None:
        require_installed()
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        both = bool(getattr(module.config, "is_encoder_decoder", False))
        backend = "seq2seq" if both else "causal"
        given = copy.deepcopy(call)  # the harness gives it a token for padding
        with _left_as_it_is(module):
            self._model = HFLM(pretrained=module, tokenizer=given, backend=backend, batch_size=batch_size)
        self._known = TaskManager(include_path=None if folder is None else str(folder))

    def run(self, tasks: Sequence[str], *, limit: int | None = None, seed: int = 0) -> Result:
        """Every measure of the named tasks, columns HARNESS; `limit`: only the first so many examples of each.

        Raises UnknownNameError with near names, DataError with the harness's words where a task cannot be run.
        """
        from lm_eval import simple_evaluate

        known = [*self._known.all_tasks]
        unknown = [t for t in tasks if t not in known]
        if unknown or not tasks:
            advice = near(unknown[0], known) if unknown else "Name one."
            advice = advice if len(advice) < 300 else "`lm-eval ls tasks` lists them."
            raise UnknownNameError(sentence("harness", "must be given known tasks", repr(unknown or "none"), advice))
        seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), seed)
        options: dict[str, Any] = {"limit": limit, "task_manager": self._known, "bootstrap_iters": 1000, **seeds}
        try:
            found = simple_evaluate(model=self._model, tasks=list(tasks), log_samples=False, **options)
        except Exception as error:  # data sets that cannot be had, definitions that are wrong: the harness's own words
            got = " ".join(str(error).split())[:300] or type(error).__name__
            must = f"must be able to run {', '.join(tasks)}"
            raise DataError(sentence("harness", must, got, "Check the task with `lm-eval` itself.")) from error
        return _result(found, tasks, limit)


@contextmanager
def _left_as_it_is(module: nn.Module) -> Iterator[None]:
    """The harness ties weights anew, which would put the embeddings in the place of a last layer of its own."""
    module.tie_weights = lambda *_, **__: None  # type: ignore[assignment]
    try:
        yield
    finally:
        del module.tie_weights


def require_installed() -> None:
    """Raises InputError with what to do where lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        must = "needs lm-evaluation-harness, which is an optional install"
        raise InputError(sentence("harness", must, "none", 'Run: pip install "lm-eval[hf]"'))


def _result(found: Mapping[str, Any], tasks: Sequence[str], limit: int | None) -> Result:
    rows = []
    for task, measured in found["results"].items():
        sizes = found.get("n-samples", {}).get(task, {})
        for key, value in measured.items():
            name, comma, filter_ = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = measured.get(f"{name}_stderr,{filter_}")
            better = found.get("higher_is_better", {}).get(task, {}).get(name)
            rows.append(
                {
                    "task": task,
                    "metric": name,
                    "filter": filter_,
                    "value": float(value),
                    "stderr": float(error) if isinstance(error, (int, float)) else float("nan"),
                    "higher_is_better": float("nan") if better is None else float(better),
                    "n": float(sizes.get("effective", float("nan"))),
                    "n_total": float(sizes.get("original", float("nan"))),
                    "limit": float("nan") if limit is None else float(limit),
                    "shots": float(found.get("n-shot", {}).get(task) or 0),
                    "version": str(found.get("versions", {}).get(task, "")),
                }
            )
    table = pd.DataFrame(rows, columns=[c.name for c in HARNESS])
    told = {"lm_eval": str(found.get("lm_eval_version", "")), "limit": limit}
    return Result("harness", tuple(tasks), table, HARNESS, told)
