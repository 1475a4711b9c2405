"""Intervals, comparisons and the score table against known values, scipy and simulation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from evaluation_zoo import made_task
from scipy.stats import binomtest

from explorer.evaluation import (
    TaskScore,
    common_outcomes,
    mcnemar,
    paired_bootstrap,
    scores_table,
    summarize,
    wilson,
)


def score(task: str, correct: list[bool], *, indices: list[int] | None = None, n_total: int | None = None) -> TaskScore:
    where = np.array(range(len(correct)) if indices is None else indices)
    return TaskScore(
        task, where, np.zeros(len(correct), dtype=np.int64), np.array(correct, dtype=bool), n_total or len(correct)
    )


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (487, 560), (250, 500)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(correct: int, n: int, confidence: float) -> None:
    theirs = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson(correct, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_by_hand_and_at_the_ends() -> None:
    assert wilson(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == 1.0
    for wrong in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="wilson"):
            wilson(*wrong)


def test_wilson_covers_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    for p in (0.5, 0.85):
        drawn = generator.binomial(200, p, size=2000)
        covered = np.mean([low <= p <= high for low, high in (wilson(int(c), 200) for c in drawn)])
        assert 0.93 < covered < 0.97


def test_summary_is_a_mean_of_ratios() -> None:
    merged = {"a": score("a", [True] * 4 + [False] * 6), "b": score("b", [True] * 9 + [False])}
    expert = {"a": score("a", [True] * 8 + [False] * 2), "b": score("b", [True] * 10)}
    summary = summarize(merged, expert)
    assert summary.normalized_accuracy == pytest.approx((0.5 + 0.9) / 2)  # not 13 / 18
    assert summary.worst is not None and summary.worst.task == "a"
    assert [t.drop for t in summary.tasks] == pytest.approx([0.4, 0.1])
    assert summary.drop == pytest.approx(0.25) and summary.accuracy == pytest.approx(0.65)


def test_summary_of_little() -> None:
    nothing = summarize({"a": score("a", [True])}, {})
    assert math.isnan(nothing.normalized_accuracy) and nothing.worst is None
    hopeless = summarize({"a": score("a", [True])}, {"a": score("a", [False])})
    assert math.isnan(hopeless.normalized_accuracy) and hopeless.worst is None and hopeless.drop == -1


def test_while_under_way_like_is_compared_with_like() -> None:
    partly = score("a", [True, True], indices=[1, 3], n_total=4)
    whole = score("a", [False, True, False, True])
    ours, theirs = common_outcomes(partly, whole)
    assert ours.tolist() == [True, True] and theirs.tolist() == [True, True]
    assert summarize({"a": partly}, {"a": whole}).normalized_accuracy == 1.0


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([1] * both + [1] * first + [0] * second + [0] * neither, dtype=bool)
    b = np.array([1] * both + [0] * first + [1] * second + [0] * neither, dtype=bool)
    return a, b


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 12), (12, 3), (7, 7), (40, 65)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(*outcomes(20, first, second, 5)) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_refuses_different_examples() -> None:
    with pytest.raises(ValueError, match="same examples"):
        mcnemar(np.ones(3, dtype=bool), np.ones(4, dtype=bool))


def test_bootstrap_is_seeded_and_order_free() -> None:
    a, b = outcomes(300, 60, 30, 110)
    order = np.random.default_rng(0).permutation(len(a))
    first, again = (
        paired_bootstrap({"t": a}, {"t": b}, seed=3),
        paired_bootstrap({"t": a[order]}, {"t": b[order]}, seed=3),
    )
    assert first == again
    few = [paired_bootstrap({"t": a}, {"t": b}, resamples=20, seed=s).low for s in range(5)]
    assert len(set(few)) > 1
    assert first.difference == pytest.approx(30 / 500) and first.n == 500
    half = 1.96 * math.sqrt((90 - 30**2 / 500) / 500**2)  # of the paired difference, normal approximation
    assert (first.low, first.high) == pytest.approx((0.06 - half, 0.06 + half), abs=0.004)


def test_bootstrap_of_the_mean_over_tasks() -> None:
    small, large = outcomes(5, 5, 0, 0), outcomes(1000, 0, 0, 0)
    found = paired_bootstrap({"s": small[0], "l": large[0]}, {"l": large[1], "s": small[1]})
    assert found.difference == pytest.approx(0.25)  # each task counts the same, whatever its size
    same = paired_bootstrap({"l": large[0]}, {"l": large[1]})
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert math.isnan(paired_bootstrap({}, {}).difference)
    with pytest.raises(ValueError, match="same examples"):
        paired_bootstrap({"s": small[0]}, {"l": large[0]})


def test_score_table_has_every_model_and_chance(tmp_path: Path) -> None:
    task = made_task(tmp_path / "colours")
    partly = score("colours", [True, True, False], indices=[4, 9, 30], n_total=60)
    result = scores_table({"merged": {"colours": partly}, "base": {}}, [task], provenance={"device": "cpu"})
    assert result.kind == "scores" and result.tasks == ("colours",) and result.provenance == {"device": "cpu"}
    merged, chance = result.table.to_dict("records")
    assert (merged["model"], merged["n"], merged["n_total"], merged["correct"]) == ("merged", 3, 60, 2)
    assert merged["score"] == 2 / 3 and (merged["low"], merged["high"]) == wilson(2, 3)
    assert chance["model"] == "chance" and chance["score"] == chance["low"] == chance["high"] == 1 / 3
    assert (chance["n"], chance["n_total"], chance["correct"]) == (60, 60, 20)
    assert len(scores_table({}, [task], chance=False).table) == 0
