"""What every registered task kind promises, and every task that is shipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from explorer.errors import DataError
from explorer.evaluation import (
    KINDS,
    Evaluator,
    TaskKind,
    find_tasks,
    load_module,
    load_task,
    load_tokenizer,
    plan_batches,
    task_kind,
)

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
kinds = pytest.mark.parametrize("kind", list(KINDS), ids=lambda k: k.name)
shipped = pytest.mark.parametrize("name", list(TASKS))


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return load_module(SAMPLES / "base")


def a_task_of(kind: TaskKind) -> Path:
    """A shipped task of the kind; a kind without one cannot be checked, so it may not be registered."""
    for folder in TASKS.values():
        if json.loads((folder / "task.json").read_text(encoding="utf-8"))["kind"] == kind.name:
            return folder
    raise AssertionError(f"no shipped task of kind {kind.name}")


@kinds
def test_a_kind_describes_itself(kind: TaskKind) -> None:
    described = kind.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["help"].endswith(".") and described["chance"].strip()
    assert 0 < kind.chance(["a", "b", "c", "d"]) <= 1
    assert kind.metric == "accuracy" and kind.higher_is_better and kind.version >= 1
    assert all(p["help"] for p in described["parameters"])


@kinds
def test_both_ends_of_every_range_load_and_illegal_values_say_the_sentence(kind: TaskKind, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    shutil.copytree(a_task_of(kind), folder)
    declared = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    for spec in kind.specs:
        for value in spec.edges():
            (folder / "task.json").write_text(json.dumps({**declared, spec.name: value}), encoding="utf-8")
            assert load_task(folder).parameters[spec.name] == value
        for value in spec.illegal():
            (folder / "task.json").write_text(json.dumps({**declared, spec.name: value}), encoding="utf-8")
            with pytest.raises(DataError) as error:
                load_task(folder)
            assert str(error.value) == spec.message(declared["name"], value)


@kinds
def test_inputs_are_unchanged_and_repeats_are_equal(kind: TaskKind, base: nn.Module) -> None:
    task = load_task(a_task_of(kind))
    evaluator = Evaluator([task], SAMPLES / "base")
    batch = evaluator.plan(task.name).blocks[0][0]
    inputs = {k: v.clone() for k, v in batch.inputs.items()}
    weights = {n: p.clone() for n, p in base.state_dict().items()}
    rows = json.dumps(task.rows)
    first = evaluator.batch_scores(task.name, base, batch)
    assert torch.equal(first, evaluator.batch_scores(task.name, base, batch))
    assert first.shape == (len(batch.indices), len(task.labels)) and not first.requires_grad
    assert all(torch.equal(batch.inputs[k], v) for k, v in inputs.items())
    assert all(torch.equal(base.state_dict()[n], v) for n, v in weights.items())
    assert json.dumps(task.rows) == rows


@kinds
def test_the_company_of_a_batch_does_not_change_a_score(kind: TaskKind, base: nn.Module) -> None:
    task = load_task(a_task_of(kind))
    evaluator, tokenizer = Evaluator([task], SAMPLES / "base"), load_tokenizer(SAMPLES / "base")
    alone = plan_batches(task, tokenizer, batch_tokens=1).blocks[0]
    together = evaluator.plan(task.name).blocks[0]
    scores = {int(b.indices[0]): evaluator.batch_scores(task.name, base, b)[0] for b in alone}
    for batch in together:
        for index, score in zip(batch.indices, evaluator.batch_scores(task.name, base, batch), strict=True):
            torch.testing.assert_close(score, scores[int(index)], rtol=0, atol=2e-4)


@kinds
def test_a_row_without_content_is_a_problem(kind: TaskKind) -> None:
    assert "got" in (kind.row_problem({"label": 0}) or "")
    assert kind.row_problem(load_task(a_task_of(kind)).rows[0]) is None


def test_a_kind_that_promises_too_little_is_refused() -> None:
    with pytest.raises(TypeError, match="no docstring"):

        @task_kind(title="Silent")
        def silent(module: nn.Module, batch: object, head: object) -> object: ...

    with pytest.raises(TypeError, match="unknown needs"):

        @task_kind(title="Greedy", needs=("internet",))
        def greedy(module: nn.Module, batch: object, head: object) -> object:
            """Wants what nobody gives."""

    assert "silent" not in KINDS and "greedy" not in KINDS


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
def test_the_base_scores_what_the_samples_say(base: nn.Module) -> None:
    evaluator = Evaluator([load_task(f) for f in TASKS.values()], SAMPLES / "base")
    scores = list(evaluator.run(base, key="base"))[-1].scores
    assert {n: round(s.score, 3) for n, s in scores.items()} == pytest.approx(BASE_ZERO_SHOT, abs=0.01)
