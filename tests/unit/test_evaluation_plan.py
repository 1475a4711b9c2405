"""Fixed batches: balanced start, proportional rest, nothing lost, independent of who asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_zoo import made_task, rows_of, word_tokenizer

from explorer.evaluation import Tokenizer, plan_batches
from explorer.evaluation._plan import block_sizes, quick_size, stratified_order


@pytest.mark.parametrize(
    ("classes", "size"), [(2, 24), (3, 24), (8, 24), (14, 28), (18, 18), (20, 20), (40, 40), (90, 24)]
)
def test_quick_size_is_whole_examples_per_class(classes: int, size: int) -> None:
    assert quick_size(classes, 10_000) == size


def test_quick_subset_is_balanced_whatever_the_split() -> None:
    answers = np.array([0] * 500 + [1] * 40 + [2] * 60)
    order, size = stratified_order(answers, quick=24, seed=1)
    assert np.bincount(answers[order[:size]]).tolist() == [8, 8, 8]


def test_a_rare_class_is_made_up_for() -> None:
    answers = np.array([0] * 100 + [1] * 3)
    order, size = stratified_order(answers, quick=24, seed=1)
    assert np.bincount(answers[order[:size]]).tolist() == [21, 3]


def test_after_the_start_every_stretch_is_proportional() -> None:
    answers = np.array([0] * 612 + [1] * 212 + [2] * 112)
    order, size = stratified_order(answers, quick=24, seed=3)
    rest = answers[order[size:]]
    for stretch in (rest[:90], rest[90:360], rest[360:]):
        share = np.bincount(stretch, minlength=3) / len(stretch)
        assert np.abs(share - np.bincount(rest) / len(rest)).max() < 0.03


def test_the_order_is_seeded_and_a_permutation() -> None:
    answers = np.arange(200) % 4
    one, two, other = (stratified_order(answers, quick=24, seed=s)[0] for s in (1, 1, 2))
    assert one.tolist() == two.tolist() != other.tolist()
    assert sorted(one) == list(range(200))


@pytest.mark.parametrize(
    ("n", "first", "sizes"),
    [(500, 24, [24, 96, 380]), (35, 24, [35]), (40, 24, [24, 16]), (1, 24, [1]), (3000, 24, [24, 96, 384, 1536, 960])],
)
def test_blocks_grow(n: int, first: int, sizes: list[int]) -> None:
    assert block_sizes(n, first) == sizes


def test_every_example_once_and_padding_within_the_budget(tmp_path: Path) -> None:
    task = made_task(tmp_path / "t", rows=rows_of(333))
    plan = plan_batches(task, word_tokenizer(), batch_tokens=100)
    everywhere = np.concatenate([plan.indices(b) for b in range(len(plan.blocks))])
    assert sorted(everywhere) == list(range(333))
    for batch in (b for block in plan.blocks for b in block):
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ids.numel() <= 100 and len(ids) == len(batch.indices)
        lengths = [min(16, len(task.rows[i]["text"].split())) for i in batch.indices]
        assert mask.sum(1).tolist() == lengths and ids.shape[1] == max(lengths)
        assert bool(((ids != 0) == (mask == 1)).all())


def test_an_example_over_the_budget_is_a_batch_of_its_own(tmp_path: Path) -> None:
    plan = plan_batches(made_task(tmp_path / "t"), word_tokenizer(), batch_tokens=1)
    assert all(len(b.indices) == 1 for block in plan.blocks for b in block)


def test_batches_depend_on_the_data_only(tmp_path: Path) -> None:
    task = made_task(tmp_path / "t")
    here = plan_batches(task, word_tokenizer())
    np.random.default_rng().random()
    there = plan_batches(made_task(tmp_path / "t"), word_tokenizer())
    assert here.digest == there.digest
    for ours, theirs in zip(here.blocks, there.blocks, strict=True):
        assert [b.indices.tolist() for b in ours] == [b.indices.tolist() for b in theirs]


def test_the_digest_follows_tokenizer_and_sizes(tmp_path: Path) -> None:
    task = made_task(tmp_path / "t")
    tokenizer = word_tokenizer()
    digests = {
        plan_batches(task, tokenizer).digest,
        plan_batches(task, Tokenizer(tokenizer.call, "other")).digest,
        plan_batches(task, tokenizer, quick=12).digest,
        plan_batches(task, tokenizer, batch_tokens=64).digest,
        plan_batches(made_task(tmp_path / "t", max_length=3), tokenizer).digest,
    }
    assert len(digests) == 5
