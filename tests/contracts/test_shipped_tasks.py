"""Every task that is shipped is sound, and the base scores on it what the samples say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from explorer.evaluation import Evaluator, find_tasks, load_module, load_task

SAMPLES = Path(__file__).resolve().parents[2] / "sample_checkpoints"
TASKS = find_tasks(SAMPLES / "tasks")
BASE_ZERO_SHOT = {
    "definitions": 0.507,
    "intents": 0.622,
    "languages": 0.605,
    "movies": 0.562,
    "newsgroups": 0.395,
    "products": 0.658,
    "spam": 0.630,
}
shipped = pytest.mark.parametrize("name", list(TASKS))


@shipped
def test_a_shipped_task_is_sound(name: str) -> None:
    for split in ("test", "tune"):
        task = load_task(TASKS[name], split=split)
        assert task.licence and task.source and task.n >= 150
        assert len(np.unique(task.answers)) == len(task.labels)
        assert 0 < task.chance <= task.majority < 1


@shipped
def test_tuning_rows_are_not_test_rows(name: str) -> None:
    test, tune = (load_task(TASKS[name], split=s) for s in ("test", "tune"))
    assert test.digest != tune.digest
    assert not {r["text"] for r in test.rows} & {r["text"] for r in tune.rows}


@pytest.mark.slow
def test_the_base_scores_what_the_samples_say() -> None:
    evaluator = Evaluator([load_task(f) for f in TASKS.values()], SAMPLES / "base")
    scores = list(evaluator.run(load_module(SAMPLES / "base"), key="base"))[-1].scores
    assert {n: round(s.score, 3) for n, s in scores.items()} == pytest.approx(BASE_ZERO_SHOT, abs=0.01)
