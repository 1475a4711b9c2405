"""Live scores: known answers, quick figures first, cancelling, and blocks that are held."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_zoo import CLASSES, CONFIG, made_task, rows_of, weights, write_checkpoint
from torch import Tensor, nn

from explorer.errors import Cancelled, CheckpointError, DataError, UnknownNameError
from explorer.evaluation import Evaluator, bind, build_module, evaluate, load_module, wilson
from explorer.evaluation._api import answers_of
from explorer.executor import CancelToken, Progress
from explorer.store import Store


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("zoo") / "base", weights())


def embed(module: nn.Module, tokenizer: object, texts: list[str]) -> Tensor:
    """The definition: L2-normalised mean of the token vectors, one text at a time, without padding."""
    rows = []
    for text in texts:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(text)["input_ids"][:16]])  # type: ignore[operator]
            hidden = module(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        rows.append(nn.functional.normalize(hidden.mean(0), dim=0))
    return torch.stack(rows)


class Counting(nn.Module):
    """Counts forward passes, and may cancel during one."""

    def __init__(self, inner: nn.Module, token: CancelToken | None = None, cancel_at: int = 0) -> None:
        super().__init__()
        self.inner, self.token, self.cancel_at, self.passes = inner, token, cancel_at, 0
        self.lock = threading.Lock()

    def forward(self, **inputs: Tensor) -> object:
        with self.lock:
            self.passes += 1
            if self.token and self.passes == self.cancel_at:
                self.token.cancel()
        return self.inner(**inputs)


def test_a_head_of_the_texts_themselves_is_always_right(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    module, tokenizer = load_module(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    texts = [f"{c} one two" for c in CLASSES]
    rows = [{"text": t, "label": i} for i, t in enumerate(texts)]
    rows.append({"text": texts[0], "label": 2})  # and one that must be wrong
    task = made_task(tmp_path / "t", rows=rows, weight=embed(module, tokenizer, texts))
    score = list(Evaluator([task], checkpoint).run(module, key="base"))[-1].scores["t"]
    assert score.predictions.tolist() == [0, 1, 2, 0] and score.outcomes.tolist() == [True, True, True, False]
    assert score.score == 0.75 and score.complete


def test_batched_answers_are_those_of_the_definition(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    module, tokenizer = load_module(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    head = embed(module, tokenizer, [f"{c} one two" for c in CLASSES])
    task = made_task(tmp_path / "t", rows=rows_of(200), weight=head)
    evaluator = Evaluator([task], checkpoint)
    score = list(evaluator.run(module, key="base"))[-1].scores["t"]
    logits = 20 * embed(module, tokenizer, [r["text"] for r in task.rows]) @ head.T
    for batch in evaluator.plan("t").blocks[0]:
        torch.testing.assert_close(evaluator.batch_scores("t", module, batch), logits[batch.indices], rtol=0, atol=1e-4)
    expected = logits.argmax(1)
    assert score.indices.tolist() == list(range(200))
    assert score.predictions.tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 1  # not a constant, which anything could match


def test_quick_figures_of_every_task_come_first(checkpoint: Path, tmp_path: Path) -> None:
    tasks = [made_task(tmp_path / n, rows=rows_of(k)) for n, k in (("a", 200), ("b", 60), ("c", 30))]
    partials = list(Evaluator(tasks, checkpoint).run(load_module(checkpoint), key="base"))
    assert [(p.task, p.round, p.round_done) for p in partials] == [
        ("a", 1, False),
        ("b", 1, False),
        ("c", 1, True),
        ("a", 2, False),
        ("b", 2, True),
        ("a", 3, True),
    ]
    assert [p.done for p in partials] == [24, 48, 78, 174, 210, 290] and {p.total for p in partials} == {290}
    assert [p.complete for p in partials] == [False] * 5 + [True]
    quick = partials[1].scores["a"]
    assert list(partials[0].scores) == ["a"] and list(partials[1].scores) == ["a", "b"]
    assert np.bincount(tasks[0].answers[quick.indices]).tolist() == [8, 8, 8]
    last = partials[-1].scores["a"]
    assert last.predictions[quick.indices].tolist() == quick.predictions.tolist()  # refined, never changed


def test_only_quick_and_some_tasks(checkpoint: Path, tmp_path: Path) -> None:
    evaluator = Evaluator([made_task(tmp_path / n, rows=rows_of(200)) for n in "ab"], checkpoint)
    module = load_module(checkpoint)
    partials = list(evaluator.run(module, key="base", only_quick=True))
    assert len(partials) == 2 and partials[-1].done == partials[-1].total == 48 and not partials[-1].complete
    assert {p.task for p in evaluator.run(module, key="base", tasks=["b"])} == {"b"}
    with pytest.raises(UnknownNameError, match="must be one of this run; got 'B'"):
        list(evaluator.run(module, key="base", tasks=["B"]))


def test_answers_do_not_depend_on_who_asks(checkpoint: Path, tmp_path: Path) -> None:
    tasks = [made_task(tmp_path / n, rows=rows_of(k)) for n, k in (("a", 130), ("b", 70))]
    module = load_module(checkpoint)
    live = Evaluator(tasks, checkpoint)
    live.plan("b")
    list(live.run(module, key="base", only_quick=True))
    ours = list(live.run(module, key="base"))[-1].scores
    theirs = list(Evaluator(tasks[::-1], checkpoint).run(module, key="base"))[-1].scores
    table = evaluate(module, tasks, checkpoint).table.set_index(["model", "task"])
    for name in ("a", "b"):
        assert ours[name].predictions.tolist() == theirs[name].predictions.tolist()
        row = table.loc[("merged", name)]
        assert row["score"] == ours[name].score
        assert (row["low"], row["high"]) == wilson(ours[name].correct, ours[name].n)
        for mine, other in zip(
            live.plan(name).blocks[0], Evaluator(tasks, checkpoint).plan(name).blocks[0], strict=True
        ):
            assert torch.equal(live.batch_scores(name, module, mine), live.batch_scores(name, module, other))


def test_cancelling_stops_within_one_batch(checkpoint: Path, tmp_path: Path) -> None:
    evaluator = Evaluator([made_task(tmp_path / n, rows=rows_of(400)) for n in "ab"], checkpoint)
    blocks = [len(block) for block in evaluator.plan("a").blocks]
    assert blocks[2] > 3  # so that the cancel comes in the middle of a block
    before = 2 * (blocks[0] + blocks[1])
    token, store = CancelToken(), Store()
    module = Counting(load_module(checkpoint), token, cancel_at=before + 2)
    with pytest.raises(Cancelled):
        list(evaluator.run(module, key="k", cancel=token, store=store))
    stopped = module.passes
    assert before + 2 <= stopped < before + 2 + torch.get_num_threads()  # others may have begun theirs
    with pytest.raises(Cancelled):
        list(evaluator.run(module, key="other", cancel=token))
    assert module.passes == stopped
    list(evaluator.run(module, key="k", store=store))
    assert module.passes == stopped + 2 * blocks[2]  # blocks finished before the cancel were held


def test_nothing_reads_the_weights_after_a_cancel() -> None:
    from explorer.evaluation._pool import map_batches

    running: list[int] = []

    def slow(item: int) -> int:
        running.append(item)
        time.sleep(0.02)
        running.remove(item)
        if item == 9:
            raise Cancelled("stopped")
        return item * item

    with pytest.raises(Cancelled):
        map_batches(slow, range(10))
    assert running == []
    assert map_batches(slow, range(5)) == [0, 1, 4, 9, 16]


def test_scoring_leaves_the_number_of_threads_alone() -> None:
    code = """
import sys, threading, torch
from explorer.evaluation._pool import map_batches
torch.set_num_threads(3)
inside = map_batches(lambda _: torch.get_num_threads(), range(6))
seen = []
thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
thread.start(); thread.join()
print(inside, torch.get_num_threads(), seen, map_batches(lambda _: torch.get_num_threads(), range(2)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[1, 1, 1, 1, 1, 1] 3 [3] [1, 1]"


def test_held_blocks_need_no_forward_pass(checkpoint: Path, tmp_path: Path) -> None:
    module, store = Counting(load_module(checkpoint)), Store()
    evaluator = Evaluator([made_task(tmp_path / "t", rows=rows_of(200))], checkpoint)
    first = list(evaluator.run(module, key="one", store=store))[-1]
    passes = module.passes
    again = list(evaluator.run(module, key="one", store=store))[-1]
    assert module.passes == passes > 0
    assert again.scores["t"].predictions.tolist() == first.scores["t"].predictions.tolist()

    def refuse(task: str) -> nn.Module:
        raise AssertionError(f"asked for {task}, although its blocks are held")

    list(evaluator.run(refuse, key="one", store=store))
    list(evaluator.run(module, key="two", store=store))
    assert module.passes == 2 * passes
    with pytest.raises(ValueError, match="needs a key"):
        list(evaluator.run(module, key="", store=store))


def test_tasks_and_data_do_not_share_held_blocks(checkpoint: Path, tmp_path: Path) -> None:
    store, module = Store(), load_module(checkpoint)
    for name, weight in (("a", torch.eye(3, 16)), ("b", -torch.eye(3, 16))):
        task = made_task(tmp_path / name, weight=weight)
        held = list(Evaluator([task], checkpoint).run(module, key="k", store=store))[-1].scores[name]
        free = list(Evaluator([task], checkpoint).run(module, key="k"))[-1].scores[name]
        assert held.predictions.tolist() == free.predictions.tolist()


def test_a_module_per_task(checkpoint: Path, tmp_path: Path) -> None:
    tasks = [made_task(tmp_path / n, rows=rows_of(100)) for n in "ab"]
    other = build_module(CONFIG)
    bind(other, weights(seed=9))
    modules = {"a": load_module(checkpoint), "b": other}
    scores = list(Evaluator(tasks, checkpoint).run(lambda t: modules[t.name], key="each"))[-1].scores
    alone = {n: list(Evaluator(tasks, checkpoint).run(modules[n], key=n))[-1].scores[n] for n in "ab"}
    assert all(scores[n].predictions.tolist() == alone[n].predictions.tolist() for n in "ab")
    assert scores["a"].predictions.tolist() != scores["b"].predictions.tolist()


def test_writing_into_the_row_changes_the_answers(checkpoint: Path, tmp_path: Path) -> None:
    views = {n: t.clone() for n, t in weights().items()}
    module = build_module(CONFIG)
    bind(module, views)
    evaluator = Evaluator([made_task(tmp_path / "t", rows=rows_of(100))], checkpoint)
    before = list(evaluator.run(module, key="0"))[-1].scores["t"].predictions
    for name, tensor in weights(seed=9).items():
        views[name].copy_(tensor)
    after = list(evaluator.run(module, key="9"))[-1].scores["t"].predictions
    assert before.tolist() != after.tolist()
    for name, tensor in weights().items():
        views[name].copy_(tensor)
    assert list(evaluator.run(module, key="0 again"))[-1].scores["t"].predictions.tolist() == before.tolist()


def test_scores_that_are_not_finite_are_wrong_answers(checkpoint: Path, tmp_path: Path) -> None:
    assert answers_of(torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [float("inf"), 0.0], [3.0, 3.0]])).tolist() == [
        1,
        -1,
        -1,
        0,
    ]
    module = build_module(CONFIG)
    bind(module, {n: t * float("nan") for n, t in weights().items()})
    result = evaluate(module, [made_task(tmp_path / "t")], checkpoint)
    assert result.table.set_index("model").loc["merged", "score"] == 0


def test_evaluate_reports_progress_and_where_it_came_from(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    task = made_task(tmp_path / "t", rows=rows_of(150))
    result = evaluate(load_module(checkpoint), [task], checkpoint, model="base", key="abc", progress=seen.append)
    assert [p.done for p in seen] == [24, 150] and seen[-1].fraction == 1
    assert result.provenance["tasks"]["t"]["digest"] == task.digest and result.provenance["key"] == "abc"
    assert result.table["model"].tolist() == ["base", "chance"]


def test_a_module_that_does_not_fit_the_task_says_so(checkpoint: Path, tmp_path: Path) -> None:
    module = load_module(checkpoint)
    with pytest.raises(DataError, match=r"one column per hidden unit \(16\); got 8 columns"):
        evaluate(module, [made_task(tmp_path / "head", weight=torch.ones(3, 8))], checkpoint)
    rows = [{"text": "red " * 40, "label": 0}]
    with pytest.raises(DataError, match="max_length must not pass the module's 24 positions; got a text of 40 tokens"):
        evaluate(module, [made_task(tmp_path / "long", rows=rows, max_length=64)], checkpoint)
    small = build_module({**CONFIG, "vocab_size": 5})
    with pytest.raises(CheckpointError, match="ids must be below the module's vocabulary of 5; got 13"):
        evaluate(small, [made_task(tmp_path / "ids")], checkpoint)
