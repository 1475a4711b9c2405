"""Calibration: the error against a hand-worked case and scikit-learn, beside chance, and as a result."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from chart_examples import read
from evaluation_zoo import made_task, rows_of, weights, write_checkpoint
from sklearn.calibration import calibration_curve

from explorer.calibration import calibration
from explorer.evaluation import (
    Evaluator,
    TaskMetric,
    TaskScore,
    calibrated_error,
    load_module,
    mean_metric,
    reliability,
)
from explorer.store import KeptStore
from viz.charts import CHARTS


def test_error_by_hand() -> None:
    """Two bins: (0, ½] holds .3 .5 (one right), (½, 1] holds .6 .8 1 (all right)."""
    found = reliability(np.array([0.3, 0.5, 0.6, 0.8, 1.0]), np.array([1, 0, 1, 1, 1]), bins=2)
    assert found.n.tolist() == [2, 3] and found.confidence == pytest.approx([0.4, 0.8])
    assert found.right == pytest.approx([0.5, 1.0])
    assert found.error == pytest.approx(2 / 5 * 0.1 + 3 / 5 * 0.2)
    assert found.overconfidence == pytest.approx((2 * -0.1 + 3 * -0.2) / 5)


def test_edges_belong_to_the_lower_bin_and_what_is_no_number_is_left_out() -> None:
    found = reliability(np.array([0.0, 0.2, 0.2001, 1.0, math.nan]), np.array([0, 1, 1, 1, 0]), bins=5)
    assert found.n.tolist() == [2, 1, 0, 0, 1] and np.isnan(found.right[2])
    nothing = reliability(np.array([math.nan]), np.array([1]))
    assert math.isnan(nothing.error) and math.isnan(nothing.overconfidence)
    for wrong in (np.array([1.2]), np.array([-0.1]), np.array([0.1, 0.2])):
        with pytest.raises(ValueError, match="one confidence from 0 to 1"):
            reliability(wrong, np.array([1]))


def test_bins_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(3)
    confidence = np.concatenate([draw.random(500), np.arange(16) / 15])
    right = draw.random(len(confidence)) < confidence**2
    shares, means = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    found = reliability(confidence, right)
    assert found.right[found.n > 0] == pytest.approx(shares) and found.confidence[found.n > 0] == pytest.approx(means)
    assert found.error == pytest.approx((found.n[found.n > 0] * np.abs(shares - means)).sum() / len(confidence))


def test_chance_gives_an_exact_confidence_the_error_that_is_said() -> None:
    draw = np.random.default_rng(4)
    confidence = draw.uniform(0.4, 1, 300)
    mean, high = calibrated_error(confidence)
    errors = [reliability(confidence, draw.random(300) < confidence).error for _ in range(400)]
    assert mean == pytest.approx(np.mean(errors), abs=0.003) and mean > 0.02
    assert 0.02 < np.mean(np.array(errors) > high) < 0.08
    assert calibrated_error(confidence[::-1]) == (mean, high), "the order of examples does not matter"
    assert calibrated_error(np.ones(10)) == (0, 0) and math.isnan(calibrated_error(np.array([math.nan]))[0])
    many = calibrated_error(draw.uniform(0.4, 1, 5000))
    assert many[0] < mean / 2, "with more examples the error of an exact confidence falls, across parts as well"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("m"), weights())


def test_answers_come_with_their_softmax_and_are_kept_with_it(checkpoint: Path, tmp_path: Path) -> None:
    task = made_task(tmp_path / "t", rows=rows_of(90))
    evaluator, module = Evaluator([task], checkpoint), load_module(checkpoint)
    stores = [KeptStore(1 << 20, tmp_path / "kept", "predictions/checkpoint/") for _ in range(2)]
    score = list(evaluator.run(module, key="checkpoint/x", store=stores[0]))[-1].scores["t"]
    assert score.confidences is not None and score.confidences.dtype == np.float32 and score.n == 90
    for batch in (b for block in evaluator.plan("t").blocks for b in block):
        expected = evaluator.batch_scores("t", module, batch).softmax(1).amax(1).numpy()
        assert score.confidences[batch.indices] == pytest.approx(expected, abs=1e-6)

    def refuse(_task: object) -> torch.nn.Module:
        raise AssertionError("a kept block asked for the model")

    again = list(evaluator.run(refuse, key="checkpoint/x", store=stores[1]))[-1].scores["t"]
    assert np.array_equal(again.confidences, score.confidences)
    assert again.predictions.tolist() == score.predictions.tolist() and again.predictions.dtype == np.int64
    part = score.on(np.array([3, 5]))
    assert part.confidences is not None and part.confidences.tolist() == score.confidences[[3, 5]].tolist()


def answered(confidence: list[float], right: list[int], first: int = 0, metric: TaskMetric | None = None) -> TaskScore:
    n = len(right)
    score = TaskScore("t", np.arange(first, first + n), np.zeros(n, np.int64), np.array(right, bool), 60)
    more = {"metric": metric} if metric else {}
    return TaskScore(**{**vars(score), "confidences": np.array(confidence, np.float32), **more})


def test_models_are_put_on_the_same_examples(tmp_path: Path) -> None:
    task = made_task(tmp_path / "t")
    scores = {
        "merged": {"t": answered([0.5, 0.9, 0.95, 0.95], [0, 1, 1, 0], first=1)},
        "base": {"t": answered([0.9, 0.5, 0.3], [1, 1, 0])},
        "expert": {},
    }
    found = calibration(scores, [task])
    whole = found.table[found.table["part"] == "whole"].set_index("model")
    assert whole["n"].to_dict() == {"merged": 2, "base": 2}, "examples 2 and 3 are those that both have"
    assert whole.loc["merged", "error"] == pytest.approx((0.5 + 0.1) / 2)
    assert whole.loc["base", "overconfidence"] == pytest.approx((0.5 + 0.3) / 2 - 0.5)
    bins = found.table[(found.table["part"] == "bin") & (found.table["model"] == "merged")]
    assert bins["bin"].tolist() == [8, 14] and bins["right"].tolist() == [0, 1]
    assert found.provenance["tasks"]["t"]["digest"] == task.digest and found.provenance["bins"] == 15
    assert found.provenance["tasks"]["t"]["n_total"] == task.n == 60
    credits = {"merged": {"t": answered([0.5], [1], metric=mean_metric("F1"))}}
    assert calibration(credits, [task]).table.empty and calibration(credits, [task]).tasks == ()


def test_the_figure_says_how_far_from_the_diagonal(tmp_path: Path) -> None:
    chart, task = CHARTS.get("calibration"), made_task(tmp_path / "t")
    sure, right = [0.95] * 60, [1, 0] * 30
    result = calibration({"merged": {"t": answered(sure, right)}, "base": {"t": answered([0.5] * 60, right)}}, [task])
    assert chart.caption_of(result) == (
        "Calibration error on 60 examples of t: merged 45.0 % (chance 2.2 %), on average 45.0 % too sure; base 0.0 %, "
        "within what chance gives an exact confidence (5.3 % on average)."
    )
    merged = read(chart(result))["data"][0]
    assert merged["x"][0] == pytest.approx(95) and merged["y"][0] == 50
    assert merged["y"][0] - merged["error_y"]["arrayminus"][0] == pytest.approx(37.7, abs=0.1)
