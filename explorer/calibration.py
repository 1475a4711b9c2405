"""Whether confidence can be believed: reliability of each model's answers, and its calibration error beside chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from explorer.evaluation import BINS, EvaluationTask, TaskScore, calibrated_error, reliability, wilson
from explorer.results import Result, count, fraction, number, text

CALIBRATION = (
    text("part", "bin: the examples in one bin of confidence; whole: all of them"),
    text("task", "task of the row"),
    text("model", "merged, base or expert; or the name of a pinned setting"),
    count("bin", "number of the bin, from 1; 0 for all examples"),
    fraction("from", "confidence above which the bin begins"),
    fraction("to", "confidence up to which it reaches, itself included"),
    count("n", "examples in it"),
    count("n_total", "examples of the whole split"),
    fraction("confidence", "their mean confidence: the softmax probability of the answer that was given"),
    fraction("right", "share of them that are answered correctly"),
    fraction("low", "lower end of its 95 % Wilson interval"),
    fraction("high", "upper end of its 95 % Wilson interval"),
    fraction("error", "expected calibration error: Σ n_b / n · |right − confidence| over bins; in `whole` rows only"),
    fraction("null", "the error that chance gives an exact confidence, on average; in `whole` rows only"),
    fraction("null_high", "what that error stays below in 95 of 100 cases; in `whole` rows only"),
    number("overconfidence", "mean confidence − share right, of these examples", -1, 1),
)


def calibration(
    scores: Mapping[str, Mapping[str, TaskScore]], tasks: Sequence[EvaluationTask], *, bins: int = BINS
) -> Result:
    """Reliability of every model on every task whose answers are choices with scores; columns CALIBRATION.

    `scores` maps a model to its score per task (`explorer.held.held_models`). Tasks of which nothing has a confidence
    (regression, retrieval, generated text) are left out; empty bins have no row. Models are put on the same examples:
    those that all of them answered. Provenance says bins, the seed of the null, n, version and digest of each task.
    """
    rows: list[dict[str, Any]] = []
    known = []
    for task in tasks:
        own = {m: by_task[task.name] for m, by_task in scores.items() if task.name in by_task}
        own = {m: s for m, s in _alike(own).items() if _sure(s)}
        if own:
            known.append(task)
        for model, score in own.items():
            rows += _rows(task.name, model, score, bins)
    table = pd.DataFrame(rows, columns=[c.name for c in CALIBRATION])
    for name in (c.name for c in CALIBRATION if c.type != "text"):
        table[name] = table[name].astype(float)
    given = {"bins": bins, "seed": 0, "tasks": {t.name: provenance_of(t) for t in known}}
    return Result("calibration", tuple(t.name for t in known), table, CALIBRATION, given)


def provenance_of(task: EvaluationTask) -> dict[str, Any]:
    """Where a number about a task comes from: what was asked, and how often."""
    return {
        **{"kind": task.kind, "metric": task.metric.name, "version": task.version},
        **{"split": task.split, "n_total": task.n, "digest": task.digest},
    }


def _alike(scores: Mapping[str, TaskScore]) -> dict[str, TaskScore]:
    """The scores on the examples that all of these have."""
    shared = None
    for score in scores.values():
        shared = score.indices if shared is None else np.intersect1d(shared, score.indices)
    return {m: s.on(shared) for m, s in scores.items()} if shared is not None else {}


def _sure(score: TaskScore) -> bool:
    held = score.confidences
    return score.metric.binary and held is not None and bool(np.isfinite(held).any())


def _rows(task: str, model: str, score: TaskScore, bins: int) -> list[dict[str, Any]]:
    assert score.confidences is not None
    found = reliability(score.confidences, score.outcomes, bins=bins)
    null, null_high = calibrated_error(score.confidences, bins=bins)
    known = np.isfinite(score.confidences)
    head: dict[str, Any] = {"task": task, "model": model, "n_total": score.n_total}
    whole = _row(int(known.sum()), float(score.confidences[known].mean()), int(score.outcomes[known].sum()))
    whole |= {"part": "whole", "bin": 0, "from": 0.0, "to": 1.0}
    rows = [{**head, **whole, "error": found.error, "null": null, "null_high": null_high}]
    for b in np.flatnonzero(found.n):
        n = int(found.n[b])
        own = _row(n, float(found.confidence[b]), round(n * float(found.right[b])))
        own |= {"part": "bin", "bin": int(b) + 1, "from": float(found.edges[b]), "to": float(found.edges[b + 1])}
        rows.append({**head, **own, "error": math.nan, "null": math.nan, "null_high": math.nan})
    return rows


def _row(n: int, confidence: float, right: int) -> dict[str, Any]:
    low, high = wilson(right, n)
    confidence = min(1.0, confidence)
    own = {"n": n, "confidence": confidence, "right": right / n, "low": low, "high": high}
    return {**own, "overconfidence": confidence - right / n}
