"""How sure an accuracy is, and how two models compare on the same examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from explorer.evaluation._metrics import ACCURACY, RESAMPLES, TaskMetric
from explorer.evaluation._scores import TaskScore
from explorer.evaluation._task import EvaluationTask
from explorer.results import SCORES, Result
from explorer.seeds import stable_seed


def wilson(correct: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high) of a fraction, within [0, 1].

    centre (p + z²/2n) / (1 + z²/n), half-width z √(p(1−p)/n + z²/4n²) / (1 + z²/n). Exactly 0 below when none is
    correct, exactly 1 above when all are; (0, 1) when n = 0: nothing is known.
    Raises ValueError (a programming error) unless 0 ≤ correct ≤ n and 0 < confidence < 1.
    Paper: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    if not (0 <= correct <= n and 0 < confidence < 1):
        raise ValueError(f"wilson: needs 0 <= correct <= n and 0 < confidence < 1; got {correct}, {n}, {confidence}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, z2 = correct / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    return low, 1.0 if correct == n else min(1.0, centre + half)


@dataclass(frozen=True)
class TaskComparison:
    """One task of a merge beside its expert, on the examples that both have answered."""

    task: str
    n: int
    merged: float
    expert: float

    @property
    def normalized_accuracy(self) -> float:
        """merged / expert; NaN where the expert answered nothing correctly."""
        return self.merged / self.expert if self.expert > 0 else float("nan")

    @property
    def drop(self) -> float:
        """expert − merged, as a fraction: positive where merging cost accuracy."""
        return self.expert - self.merged


@dataclass(frozen=True)
class Summary:
    """A merge in a few numbers; NaN and None where no task has both a merged and an expert score."""

    tasks: tuple[TaskComparison, ...]

    @property
    def normalized_accuracy(self) -> float:
        """Mean over tasks of merged / expert (a mean of ratios); tasks with an expert at 0 or below are left out."""
        return _mean([t.normalized_accuracy for t in self.tasks if not math.isnan(t.normalized_accuracy)])

    @property
    def accuracy(self) -> float:
        """Mean over tasks of the merged model's score."""
        return _mean([t.merged for t in self.tasks])

    @property
    def drop(self) -> float:
        """Mean over tasks of expert − merged, as a fraction."""
        return _mean([t.drop for t in self.tasks])

    @property
    def worst(self) -> TaskComparison | None:
        """The task with the lowest normalized accuracy; the first of equals."""
        defined = [t for t in self.tasks if not math.isnan(t.normalized_accuracy)]
        return min(defined, key=lambda t: t.normalized_accuracy, default=None)


def summarize(merged: Mapping[str, TaskScore], expert: Mapping[str, TaskScore]) -> Summary:
    """Merged beside expert for every task that both have; each task on the examples that both answered.

    While a run is under way this compares like with like; at its end the examples are the whole split.
    """
    rows = []
    for task in merged:
        if task in expert:
            ours, theirs = common_outcomes(merged[task], expert[task])
            if len(ours):
                metric = merged[task].metric
                rows.append(TaskComparison(task, len(ours), metric.value(ours), metric.value(theirs)))
    return Summary(tuple(rows))


def common_outcomes(first: TaskScore, second: TaskScore) -> tuple[np.ndarray, np.ndarray]:
    """What both answered, as the outcomes of the same examples: two bool arrays for accuracy."""
    _, in_first, in_second = np.intersect1d(first.indices, second.indices, assume_unique=True, return_indices=True)
    return first.outcomes[in_first], second.outcomes[in_second]


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided exact McNemar p-value of two models' correctness on the same n examples; 1 when they never differ.

    Of the examples that only one model answers correctly, each is as likely to be either's under the null: twice the
    binomial(b + c, ½) tail up to min(b, c), at most 1.
    Paper: McNemar, Note on the sampling error of the difference between correlated proportions, 1947 (exact form).
    """
    from scipy.special import bdtr

    only_first, only_second = _discordant(first, second)
    differing = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), differing, 0.5))) if differing else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that among m tests any false alarm is as rare as in one: in ascending order the i-th is
    multiplied by m − i + 1 (at most 1), and none is smaller than the one before it. NaN stays and is not counted.

    Paper: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, so_far = list(p_values), 0.0
    for rank, (p, place) in enumerate(tested):
        so_far = max(so_far, min(1.0, p * (len(tested) - rank)))
        adjusted[place] = so_far
    return adjusted


@dataclass(frozen=True)
class Difference:
    """Accuracy of the first model minus the second's, with its bootstrap interval; n examples in all."""

    difference: float
    low: float
    high: float
    n: int


def paired_bootstrap(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    metrics: Mapping[str, TaskMetric] | None = None,
) -> Difference:
    """Difference of the mean score over tasks, first − second, with a percentile interval.

    Each mapping gives a task's outcomes [n] or [n, k] on the same examples; `metrics` what they are made into where
    that is no accuracy. Examples are resampled in pairs within each task (the tasks are fixed); where answers are
    right or wrong, a pair's difference is −1, 0 or 1, and a resample is one multinomial draw per task. A metric that
    is no mean over examples is resampled 1,000 times, whatever `resamples` says, and each draw is used again.
    The same seed gives the same interval, whatever the order of tasks or examples. NaN when no task is given.
    Raises ValueError (a programming error) when the two do not hold the same examples.
    """
    if set(first) != set(second) or any(len(first[t]) != len(second[t]) for t in first):
        raise ValueError("paired_bootstrap: both models must have answered the same examples of the same tasks")
    tasks = sorted(t for t in first if len(first[t]))
    if not tasks:
        return Difference(float("nan"), float("nan"), float("nan"), 0)
    drawn = np.zeros(resamples)
    exact = 0.0
    for task in tasks:
        own_seed, metric = stable_seed("paired bootstrap", seed, task), (metrics or {}).get(task, ACCURACY)
        if not metric.binary:
            drawn += _metric_draws(metric, first[task], second[task], resamples, own_seed) / len(tasks)
            exact += (metric.value(first[task]) - metric.value(second[task])) / len(tasks)
            continue
        n, (gain, loss) = len(first[task]), _discordant(first[task], second[task])
        generator = np.random.default_rng(own_seed)
        counts = generator.multinomial(n, [gain / n, loss / n, (n - gain - loss) / n], size=resamples)
        drawn += (counts[:, 0] - counts[:, 1]) / n / len(tasks)
        exact += (gain - loss) / n / len(tasks)
    low, high = np.nanquantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Difference(exact, float(low), float(high), sum(len(first[t]) for t in tasks))


def score_difference(first: Mapping[str, TaskScore], second: Mapping[str, TaskScore], **options: Any) -> Difference:
    """`paired_bootstrap` of two models' scores on the same examples of the same tasks."""
    metrics = {t: s.metric for t, s in first.items()}
    ours, theirs = ({t: s.outcomes for t, s in side.items()} for side in (first, second))
    return paired_bootstrap(ours, theirs, metrics=metrics, **options)


def mean_score(scores: Mapping[str, TaskScore], *, resamples: int = 10_000, confidence: float = 0.95) -> Difference:
    """The mean score over tasks with its bootstrap interval, as a difference to nothing: the tasks are fixed."""
    right = {t: s for t, s in scores.items() if s.metric.binary and s.n}
    if len(right) == len(scores):
        correct = {t: s.outcomes for t, s in right.items()}
        nothing = {t: np.zeros_like(c) for t, c in correct.items()}
        return paired_bootstrap(correct, nothing, resamples=resamples, confidence=confidence)
    drawn = np.zeros(resamples)
    for task, score in sorted(scores.items()):
        known = score.metric.resampled([score.outcomes], RESAMPLES, stable_seed("mean score", task))[:, 0]
        drawn += np.resize(known, resamples) / len(scores)
    low, high = np.nanquantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    mean = float(np.mean([s.score for s in scores.values()]))
    return Difference(mean, float(low), float(high), sum(s.n for s in scores.values()))


def _metric_draws(metric: TaskMetric, first: np.ndarray, second: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Differences [resamples] of a metric under resampling of the same examples of both."""
    if metric.mean:
        both = metric.resampled([first, second], resamples, seed)
    else:
        both = np.resize(metric.resampled([first, second], RESAMPLES, seed), (resamples, 2))
    return both[:, 0] - both[:, 1]


def scores_table(
    scores: Mapping[str, Mapping[str, TaskScore]],
    tasks: Sequence[EvaluationTask],
    *,
    chance: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """Scores as a result with the columns SCORES: per task one row per model that has answers, then chance.

    `scores` maps a model (merged, base, expert, or a pinned setting) to its score per task. The chance row is no
    measurement: score = low = high = chance, n = n_total = the size of the split, correct = chance · n (expected, so
    not a whole number).
    """
    rows: list[tuple[str | float, ...]] = []
    for task in tasks:
        for model, by_task in scores.items():
            score = by_task.get(task.name)
            if score is not None and score.n:
                named = (model, task.name, task.metric.name)
                rows.append((*named, score.n, score.n_total, score.correct, score.score, *score.interval))
        if chance:
            fixed = task.chance
            rows.append(("chance", task.name, task.metric.name, task.n, task.n, fixed * task.n, fixed, fixed, fixed))
    table = pd.DataFrame(rows, columns=[c.name for c in SCORES])
    return Result("scores", tuple(t.name for t in tasks), table, SCORES, dict(provenance or {}))


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"both models must have answered the same examples; got {a.shape} and {b.shape}")
    return int((a & ~b).sum()), int((~a & b).sum())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
