"""What every registered task kind promises, shown on a small example of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kind_examples import examples
from torch import nn

from explorer.checkpoints import open_checkpoint
from explorer.errors import DataError
from explorer.evaluation import (
    KINDS,
    EvaluationTask,
    Evaluator,
    Loaded,
    TaskKind,
    TaskScore,
    evaluate,
    load_task,
    plan_batches,
    task_kind,
    with_head_of,
)
from explorer.evaluation._api import FIELD_TYPES

kinds = pytest.mark.parametrize("kind", list(KINDS), ids=lambda k: k.name)


class Example:
    """A kind's example: its folders, its task with every layer that it needs, a model that serves it, its answers."""

    def __init__(self, kind: TaskKind, folder: Path) -> None:
        made = examples()
        assert kind.name in made, f"tests/kind_examples has no example of {kind.name}, so it cannot be checked"
        built = made[kind.name](folder)
        self.kind, self.folder, self.model = kind, built.task, built.model
        self.task = with_head_of(open_checkpoint(built.model), load_task(built.task))
        self.module = Loaded(built.model)(self.task)
        self.evaluator = Evaluator([self.task], built.model)
        self.score = score_of(self.evaluator, self.module)

    def copy(self, folder: Path) -> Path:
        """The task folder once more, under the same name."""
        return Path(shutil.copytree(self.folder, folder / self.folder.name))


def score_of(evaluator: Evaluator, module: nn.Module) -> TaskScore:
    """The one task of an evaluator, scored to its end."""
    *_, last = evaluator.run(module, key="")
    (score,) = last.scores.values()
    return score


@pytest.fixture(scope="module")
def example_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TaskKind], Example]:
    """The example of a kind, made once."""
    made: dict[str, Example] = {}

    def get(kind: TaskKind) -> Example:
        if kind.name not in made:
            made[kind.name] = Example(kind, tmp_path_factory.mktemp(kind.name))
        return made[kind.name]

    return get


ExampleOf = Callable[[TaskKind], Example]


def declared(folder: Path, **changes: Any) -> dict[str, Any]:
    """What task.json says, with changes written into it."""
    path = folder / "task.json"
    said: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(said), encoding="utf-8")
    return said


def split_of(folder: Path) -> tuple[Path, list[str]]:
    """The file of the test split, and its lines."""
    path = folder / declared(folder)["splits"]["test"]
    return path, path.read_text(encoding="utf-8").splitlines()


@kinds
def test_a_kind_describes_itself(kind: TaskKind, example_of: ExampleOf) -> None:
    import transformers

    described = kind.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["help"].endswith(".") and described["chance"].strip() and kind.version >= 1
    assert all(p["help"] for p in described["parameters"]) and hasattr(transformers, kind.auto)
    assert all(f.help and f.type in FIELD_TYPES for f in kind.fields) and not all(f.optional for f in kind.fields)
    task = example_of(kind).task
    metric = task.metric
    assert metric.name and -1 <= metric.lowest < metric.highest <= 1 and (metric.mean or not metric.binary)
    assert metric.lowest <= task.chance <= metric.highest and task.chance <= task.majority <= metric.highest
    assert bool(task.labels) or not kind.labelled


@kinds
def test_both_ends_of_every_range_load_and_illegal_values_say_the_sentence(
    kind: TaskKind, example_of: ExampleOf, tmp_path: Path
) -> None:
    folder = example_of(kind).copy(tmp_path)
    said = declared(folder)
    for spec in kind.specs:
        for value in spec.edges():
            declared(folder, **{**said, spec.name: value})
            assert load_task(folder).parameters[spec.name] == value
        for value in spec.illegal():
            declared(folder, **{**said, spec.name: value})
            with pytest.raises(DataError) as error:
                load_task(folder)
            assert str(error.value) == spec.message(said.get("name", folder.name), value)
        declared(folder, **{spec.name: load_task(example_of(kind).folder).parameters[spec.name]})


@kinds
def test_inputs_are_unchanged_and_repeats_are_equal(kind: TaskKind, example_of: ExampleOf) -> None:
    example = example_of(kind)
    name, module = example.task.name, example.module
    batch = example.evaluator.plan(name).blocks[0][0]
    inputs = {k: v.clone() for k, v in batch.inputs.items()}
    weights = {n: p.clone() for n, p in module.state_dict().items()}
    rows = json.dumps(example.task.rows)
    first = example.evaluator.batch_scores(name, module, batch)
    again = example.evaluator.batch_scores(name, module, batch)
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)  # a row may have fewer outputs than others
    assert len(first) == len(batch.indices) and not first.requires_grad and not module.training
    assert all(torch.equal(batch.inputs[k], v) for k, v in inputs.items())
    assert all(torch.equal(module.state_dict()[n], v) for n, v in weights.items())
    assert json.dumps(example.task.rows) == rows
    anew = score_of(Evaluator([load_again(example)], example.model), Loaded(example.model)(example.task))
    assert same(anew.predictions, example.score.predictions, tolerance=0) and anew.score == example.score.score


def load_again(example: Example) -> EvaluationTask:
    return with_head_of(open_checkpoint(example.model), load_task(example.folder))


def same(first: np.ndarray, second: np.ndarray, *, tolerance: float) -> bool:
    """Equal texts and whole numbers; real numbers equal within a tolerance."""
    if first.dtype.kind == "f" and tolerance:
        return np.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)
    return bool(np.array_equal(first, second, equal_nan=first.dtype.kind == "f"))


@kinds
def test_the_company_of_a_batch_does_not_change_a_score(
    kind: TaskKind, example_of: ExampleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = example_of(kind)
    name, module = example.task.name, example.module
    together = example.evaluator.plan(name).blocks[0]
    monkeypatch.setitem(plan_batches.__kwdefaults__ or {}, "batch_tokens", 1)
    lonely = Evaluator([example.task], example.model)
    alone = lonely.plan(name).blocks[0]
    assert all(len(b.indices) == 1 for b in alone) and any(len(b.indices) > 1 for b in together)
    outputs = {int(b.indices[0]): lonely.batch_scores(name, module, b)[0] for b in alone}
    for batch in together:
        for index, output in zip(batch.indices, example.evaluator.batch_scores(name, module, batch), strict=True):
            if output.shape == outputs[int(index)].shape:  # a kind may give as many outputs as the batch is wide
                torch.testing.assert_close(output, outputs[int(index)], rtol=1e-4, atol=2e-4, equal_nan=True)
    (first,) = {id(p): p.scores[name] for p in lonely.run(module, key="", only_quick=True)}.values()
    held = example.score.on(first.indices)
    if first.metric.mean:
        assert same(first.outcomes, held.outcomes, tolerance=2e-3)
    else:  # an outcome may say where an answer stands among the others, such as its rank
        assert first.score == pytest.approx(held.score, abs=2e-3, nan_ok=True)


@kinds
def test_a_row_that_lacks_something_is_a_problem(kind: TaskKind, example_of: ExampleOf, tmp_path: Path) -> None:
    example = example_of(kind)
    assert kind.row_problem(example.task.rows[0]) is None
    folder = example.copy(tmp_path)
    path, lines = split_of(folder)
    row = json.loads(lines[0])
    bad = [{"label": 0} if kind.labelled else {}]
    bad += [{k: v for k, v in row.items() if k != f.name} for f in kind.fields if not f.optional]
    bad += [{**row, f.name: {"no": 1}} for f in kind.fields if f.name in row]
    path.write_text("\n".join([*lines, *(json.dumps(b) for b in bad)]), encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_task(folder)
    for number in range(len(lines) + 1, len(lines) + len(bad) + 1):
        told = [line for line in str(error.value).splitlines() if f"{path.name} line {number}:" in line]
        assert told and "got" in told[0], f"no word about line {number}: {bad[number - len(lines) - 1]}"


@kinds
def test_predictions_outcomes_words_and_metric_agree(kind: TaskKind, example_of: ExampleOf) -> None:
    task, score = example_of(kind).task, example_of(kind).score
    assert score.n == task.n == len(score.predictions) == len(score.outcomes) == len(task.answers)
    assert score.indices.tolist() == list(range(task.n))
    metric = score.metric
    if metric.binary:
        assert score.outcomes.dtype == bool and score.outcomes.ndim == 1
    if metric.mean:
        credits = score.outcomes.astype(float)
        assert credits.ndim == 1 and ((credits >= 0) & (credits <= 1)).all()
        assert score.score == pytest.approx(credits.mean())
    plain = all(a.ndim == 1 and a.dtype.kind in "iu" for a in (score.predictions, task.answers))
    if metric.binary and plain:
        assert task.outcomes(task.answers, score.indices).all(), "right answers must be right"
    for answer in (*score.predictions, *task.answers):
        assert isinstance(task.in_words(answer), str)


@kinds
def test_the_metric_stays_within_its_bounds(kind: TaskKind, example_of: ExampleOf) -> None:
    score = example_of(kind).score
    metric, lowest, highest = score.metric, score.metric.lowest, score.metric.highest
    assert lowest <= score.score <= highest
    assert np.isnan(metric.value(score.outcomes[:0]))
    for count in (0, 1, 2, 3, score.n):
        value, (low, high) = metric.value(score.outcomes[:count]), metric.interval(score.outcomes[:count])
        assert np.isnan(value) or lowest <= value <= highest
        assert lowest <= low <= high <= highest
    assert score.interval == metric.interval(score.outcomes), "the interval is no matter of luck"


@kinds
def test_weights_that_are_no_numbers_give_wrong_answers_and_no_crash(kind: TaskKind, example_of: ExampleOf) -> None:
    example = example_of(kind)
    module = Loaded(example.model)(example.task)
    for parameter in module.parameters():
        parameter.data = torch.full_like(parameter, float("nan"))
    score = score_of(Evaluator([example.task], example.model), module)
    assert score.n == example.task.n and all(isinstance(example.task.in_words(p), str) for p in score.predictions)
    if score.metric.mean:
        assert not score.outcomes.any()
    else:
        assert not score.score > max(0.0, score.metric.lowest), "an answer that is no number may not score"
    low, high = score.interval
    assert score.metric.lowest <= low <= high <= score.metric.highest


@kinds
def test_the_example_is_scored_from_its_folders(kind: TaskKind, example_of: ExampleOf) -> None:
    example = example_of(kind)
    table = evaluate(Loaded(example.model), [example.task], example.model).table.set_index("model")
    assert table.loc["merged", "score"] == pytest.approx(example.score.score, abs=1e-6)
    assert (table["metric"] == example.task.metric.name).all() and table.loc["merged", "n"] == example.task.n
    assert table.loc["chance", "score"] == example.task.chance


@kinds
def test_the_digest_changes_with_data_and_what_is_declared(
    kind: TaskKind, example_of: ExampleOf, tmp_path: Path
) -> None:
    example = example_of(kind)
    digest = load_task(example.folder).digest
    folder = example.copy(tmp_path)
    assert load_task(folder).digest == digest
    path, lines = split_of(folder)
    path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    fewer = load_task(folder)
    assert fewer.digest != digest and fewer.n == example.task.n - 1
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    declared(folder, description="told otherwise")
    assert load_task(folder).digest not in (digest, fewer.digest)


def test_a_kind_that_promises_too_little_is_refused() -> None:
    with pytest.raises(TypeError, match="no docstring"):

        @task_kind(title="Silent")
        def silent(module: nn.Module, batch: object, head: object) -> object: ...

    with pytest.raises(TypeError, match="unknown needs"):

        @task_kind(title="Greedy", needs=("internet",))
        def greedy(module: nn.Module, batch: object, head: object) -> object:
            """Wants what nobody gives."""

    assert "silent" not in KINDS and "greedy" not in KINDS
