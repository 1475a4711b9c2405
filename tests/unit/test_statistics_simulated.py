"""Intervals cover, and tests hold their level, at the rate they state; each within what simulation can tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from explorer.evaluation import TaskMetric, holm, mcnemar, mean_metric, paired_bootstrap, paired_permutation, wilson

PEARSON = TaskMetric("Pearson", lambda o: float(np.corrcoef(o[:, 0], o[:, 1])[0, 1]), lowest=-1.0)


def within(found: float, rate: float, runs: int, *, slack: float = 0.0) -> bool:
    """Whether a rate found in so many runs may well be the stated one: three standard errors, and `slack`."""
    return abs(found - rate) <= 3 * math.sqrt(rate * (1 - rate) / runs) + slack


def test_wilson_covers_exactly_as_the_binomial_says() -> None:
    """Coverage of every p, summed over all outcomes; on average over p it is what is stated."""
    for n in (20, 100, 500):
        ends = np.array([wilson(k, n) for k in range(n + 1)])
        shares = np.linspace(0.02, 0.98, 193)
        covers = (ends[:, :1] <= shares) & (shares <= ends[:, 1:])
        covered = (binom.pmf(np.arange(n + 1)[:, None], n, shares) * covers).sum(axis=0)
        assert covered.mean() == pytest.approx(0.95, abs=0.006) and covered.min() > 0.83


def test_the_bootstrap_interval_of_credits_covers() -> None:
    draw, metric, covered = np.random.default_rng(1), mean_metric("F1"), []
    for _ in range(200):
        low, high = metric.interval(draw.beta(2, 1, 100))
        covered.append(low <= 2 / 3 <= high)
    assert within(float(np.mean(covered)), 0.95, 200, slack=0.01)


def test_the_paired_bootstrap_covers_and_holds_its_level() -> None:
    """Two models that are right together more often than chance; the second is better by 0 or by 6 points."""
    draw, runs = np.random.default_rng(2), 400
    for gain in (0.0, 0.06):
        covered = []
        for _ in range(runs):
            ease = draw.random((2, 250))
            first, second = (({t: e < share for t, e in zip("ab", ease, strict=True)}) for share in (0.7, 0.7 + gain))
            noise = {t: draw.random(250) < 0.2 for t in "ab"}
            first = {t: f ^ noise[t] for t, f in first.items()}
            found = paired_bootstrap(second, first, resamples=1000)
            # 0.2 of the first model's answers are turned round: 0.7 · 0.8 + 0.3 · 0.2 = 0.62 are right.
            covered.append(found.low <= 0.7 + gain - 0.62 <= found.high)
        assert within(float(np.mean(covered)), 0.95, runs, slack=0.01)


def pairs_without_difference(seed: int, runs: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong answers [runs, n] of two models that are equally good, on examples of unequal ease."""
    draw = np.random.default_rng(seed)
    ease = draw.beta(2, 1, (runs, n))
    return draw.random((runs, n)) < ease, draw.random((runs, n)) < ease


def test_mcnemar_holds_its_level() -> None:
    """The exact test is never above its level, and not far below it."""
    alarms = [mcnemar(a, b) < 0.05 for a, b in zip(*pairs_without_difference(3, 3000, 300), strict=True)]
    assert 0.02 < np.mean(alarms) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 3000)


def test_the_paired_bootstrap_interval_excludes_no_difference_as_rarely_as_it_says() -> None:
    alarms = []
    for a, b in zip(*pairs_without_difference(4, 400, 300), strict=True):
        found = paired_bootstrap({"t": a}, {"t": b}, resamples=1000)
        alarms.append(not found.low <= 0 <= found.high)
    assert within(float(np.mean(alarms)), 0.05, 400, slack=0.01)


def test_the_permutation_test_holds_its_level_and_finds_what_is_there() -> None:
    draw, metric = np.random.default_rng(5), mean_metric("F1")
    levels, found = [], []
    for _ in range(300):
        ease = draw.random(120)
        first, second = (np.clip(ease + draw.normal(0, 0.2, 120), 0, 1) for _ in range(2))
        levels.append(paired_permutation(metric, first, second) < 0.05)
        found.append(paired_permutation(metric, np.clip(first + 0.1, 0, 1), second) < 0.05)
    assert within(float(np.mean(levels)), 0.05, 300) and np.mean(found) > 0.8


def test_the_permutation_test_of_a_correlation_holds_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer swaps, so that it is done in seconds; the p-value is exact for any number of them."""
    monkeypatch.setattr("explorer.evaluation._permutation.PERMUTATIONS", 39)
    draw, alarms = np.random.default_rng(6), []
    for _ in range(250):
        gold = draw.normal(size=40)
        first, second = (np.stack([gold + draw.normal(0, 1, 40), gold], axis=1) for _ in range(2))
        alarms.append(paired_permutation(PEARSON, first, second) <= 0.05)
    assert within(float(np.mean(alarms)), 0.05, 250)


def test_permutation_by_hand() -> None:
    """Four differences of +1: only 2 of the 16 ways to swap give as much, so p is about 1/8."""
    metric = mean_metric("F1")
    p = paired_permutation(metric, np.ones(4), np.zeros(4))
    assert p == pytest.approx(2 / 16, abs=0.05) and p == paired_permutation(metric, np.zeros(4), np.ones(4))
    assert paired_permutation(metric, np.ones(4), np.ones(4)) == 1
    assert paired_permutation(metric, np.ones(40), np.zeros(40)) == 1 / 1000
    same = np.stack([np.arange(9.0), np.arange(9.0) ** 2], axis=1)
    assert paired_permutation(PEARSON, same, same) == 1
    assert paired_permutation(PEARSON, same, same * [-1, 1]) < 0.1
    constant = TaskMetric("undefined", lambda o: float("nan"))
    assert math.isnan(paired_permutation(constant, same, same * 2))
    with pytest.raises(ValueError, match="same examples"):
        paired_permutation(metric, np.ones(3), np.ones(4))


def test_holm_holds_the_level_of_all_tests_together() -> None:
    """Seven tests; in half of the runs three of them have a real effect, which may not cost the others anything."""
    draw, runs, alarms, found = np.random.default_rng(7), 4000, [], []
    for run in range(runs):
        p = draw.random(7)
        real = 3 if run % 2 else 0
        p[:real] = draw.random(real) / 500
        adjusted = np.array(holm(p.tolist()))
        alarms.append(bool((adjusted[real:] < 0.05).any()))
        found += (adjusted[:real] < 0.05).tolist()
    assert within(float(np.mean(alarms)), 0.05, runs) and np.mean(found) > 0.99
    uncorrected = 1 - 0.95**7
    assert uncorrected > 0.3, "what there is to guard against"
