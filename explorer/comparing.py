"""Setting B against the pinned setting A: paired differences on the very examples that both have answered.

What A answered is looked up where it is still held. Where it is not, A is scored again in a place of its own beside
the setting that is shown, one short turn after the other like everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from explorer.evaluation import (
    TaskMetric,
    TaskScore,
    common_outcomes,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_permutation,
)
from explorer.held import held_of
from explorer.recipe import Recipe
from explorer.results import Result, count, fraction, number, text
from explorer.streaming import LiveUpdate, stream
from explorer.workbench import Slot, Workbench

CONFIDENCE = 0.95
RESAMPLES = 10_000

AB_DIFFERENCE = (
    text("part", "task: one task; mean: the average over all tasks above, which are taken as given"),
    text("task", "task of the row; empty for the mean"),
    text("metric", "what the score is, such as accuracy; empty where the mean is over several"),
    text("test", "McNemar where every answer is right or wrong, else permutation: what p comes from"),
    count("n", "examples that both settings have answered"),
    count("n_total", "examples of the whole split"),
    number("score_a", "score of the pinned setting A on these examples", -1, 1),
    number("score_b", "score of setting B on the same examples", -1, 1),
    number("difference", "score_b − score_a", -2, 2),
    number("low", "lower end of the 95 % paired bootstrap interval of the difference", -2, 2),
    number("high", "upper end of it", -2, 2),
    count("only_a", "examples that only A answers correctly, or better where answers are not right or wrong"),
    count("only_b", "examples that only B answers correctly, or better"),
    fraction("p", "two-sided p-value: exact McNemar for right and wrong, else a paired permutation; none for the mean"),
    fraction("p_holm", "the same after Holm's correction for the number of tasks"),
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """B − A as a result of kind `ab_difference`; empty where no example is answered by both yet.

    `missing`: A lacks answers to examples that B has, so A must be scored again. `complete`: both answered everything.
    """

    result: Result
    missing: bool
    complete: bool


def compare(bench: Workbench, a: Recipe, b: Recipe, *, names: tuple[str, str] = ("A", "B")) -> Comparison:
    """What is held of both settings of the same models, compared; runs no model.

    Raises InputError when the models cannot be opened.
    """
    evaluator = bench.evaluator(b)
    held_a, held_b = (held_of(bench, recipe, evaluator) for recipe in (a, b))
    missing = any(t not in held_a or held_a[t].n < score.n for t, score in held_b.items())
    both = [h[t] for h in (held_a, held_b) for t in evaluator.tasks if t in h]
    complete = len(both) == 2 * len(evaluator.tasks) > 0 and all(score.complete for score in both)
    given = {"a": names[0], "b": names[1], "confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": 0}
    table = difference_table(held_a, held_b)
    return Comparison(Result("ab_difference", tuple(evaluator.tasks), table, AB_DIFFERENCE, given), missing, complete)


def difference_table(a: Mapping[str, TaskScore], b: Mapping[str, TaskScore]) -> pd.DataFrame:
    """The rows of an `ab_difference`: each task that both have answered, in the order of b, then the mean over them."""
    pairs = {t: common_outcomes(b[t], a[t]) for t in b if t in a}
    pairs = {t: (ours, theirs) for t, (ours, theirs) in pairs.items() if len(ours)}
    metrics = {t: b[t].metric for t in pairs}
    rows = [_row("task", task, b[task].n_total, {task: pair}, metrics) for task, pair in pairs.items()]
    p_values = [paired_p(metrics[t], *pair) for t, pair in pairs.items()]
    rows = [(*row, p, q) for row, p, q in zip(rows, p_values, holm(p_values), strict=True)]
    if pairs:
        total = sum(b[t].n_total for t in pairs)
        rows.append((*_row("mean", "", total, pairs, metrics), float("nan"), float("nan")))
    return pd.DataFrame(rows, columns=[c.name for c in AB_DIFFERENCE])


def _row(
    part: str,
    task: str,
    n_total: int,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    metrics: Mapping[str, TaskMetric],
) -> tuple[object, ...]:
    ours, theirs = ({t: pair[i] for t, pair in pairs.items()} for i in (0, 1))
    found = paired_bootstrap(ours, theirs, resamples=RESAMPLES, confidence=CONFIDENCE, metrics=metrics)
    scores = [float(np.mean([metrics[t].value(x) for t, x in side.items()])) for side in (theirs, ours)]
    earned = [{t: metrics[t].credits(x) for t, x in side.items()} for side in (theirs, ours)]
    only = [sum(int((x > other[t]).sum()) for t, x in side.items()) for side, other in (earned, earned[::-1])]
    named = {metrics[t].name for t in pairs}
    metric = named.pop() if len(named) == 1 else ""
    test = "McNemar" if all(metrics[t].binary for t in pairs) else "permutation"
    return part, task, metric, test, found.n, n_total, *scores, found.difference, found.low, found.high, *only


def paired_p(metric: TaskMetric, first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of two models' outcomes: exact McNemar for right and wrong, else by paired permutation."""
    return mcnemar(first, second) if metric.binary else paired_permutation(metric, first, second)


def score_aside(bench: Workbench, slot: Slot, recipe: Recipe) -> Iterator[LiveUpdate]:
    """Score a setting again beside the one that is shown; the answers are held afterwards, the model is not.

    A newer call of the same tab ends this one, as does `stop_aside`: it raises Cancelled. Raises as `stream`.
    """
    place = slot.beside()
    token = place.newest()
    try:
        yield from stream(bench, place, recipe, token)
    finally:
        with place.lock:
            if place.token is token:
                place.live = None


def stop_aside(slot: Slot) -> None:
    """End what `score_aside` does for this tab."""
    if slot.aside:
        slot.aside.free()
