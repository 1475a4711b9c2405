"""Fixed batches: which examples are scored together, and in which order, decided by the data alone.

Live figures and the command line score the same batches, so they agree to the digit. The first block is a small
balanced subset; later blocks are larger, so figures refine quickly and forward passes stay efficient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from explorer.evaluation._api import KINDS, Example
from explorer.evaluation._task import EvaluationTask
from explorer.evaluation._tools import Tool
from explorer.seeds import digest_of, stable_seed

QUICK = 24
"""Examples of a task's first block, about: seven tasks take half a second on two cores."""

GROWTH = 4
"""Each block is this many times the one before: each halves the standard error of the whole so far."""

BATCH_TOKENS = 512
"""Tokens of a batch, padding included: 0.1 s of a 3-layer encoder on one core; halving it costs 10 % in all."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples scored by one forward pass: their positions in the split, and the tensors."""

    indices: np.ndarray
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Plan:
    """All examples of a split once, as blocks of batches. Equal digests mean equal batches."""

    task: str
    digest: str
    blocks: tuple[tuple[Batch, ...], ...]

    def indices(self, block: int) -> np.ndarray:
        """Positions in the split of one block's examples, in the order they are scored."""
        return np.concatenate([b.indices for b in self.blocks[block]])


def plan_batches(
    task: EvaluationTask, tokenizer: Tool | None, *, quick: int = QUICK, batch_tokens: int = BATCH_TOKENS
) -> Plan:
    """Prepares every example and cuts the split into blocks of batches.

    Depends on the task's digest, its parameters, the kind's version, the digest of tokenizer and image settings,
    and the two sizes only.
    Within a block, examples are sorted by size (then position) and cut where padding to the longest of the batch
    would pass `batch_tokens`; an example that alone is larger is a batch of its own.
    """
    kind = KINDS.get(task.kind)
    call = tokenizer.call if tokenizer else None
    examples = kind.examples(task.rows, call, task.told)
    known = json.dumps(dict(task.parameters), sort_keys=True)
    token_digest = tokenizer.digest if tokenizer else ""
    digest = digest_of(task.digest, task.kind, kind.version, known, token_digest, quick, batch_tokens)
    order, first = stratified_order(strata(task.answers), quick=quick, seed=stable_seed(task.digest, "order"))
    blocks = []
    start = 0
    for size in block_sizes(len(order), first):
        groups = _cut(order[start : start + size], examples, batch_tokens)
        blocks.append(tuple(Batch(g, kind.batch([examples[i] for i in g], call)) for g in groups))
        start += size
    return Plan(task.name, digest, tuple(blocks))


def strata(answers: np.ndarray) -> np.ndarray:
    """The classes that the first block balances: the labels, or one class where answers are no labels."""
    plain = answers.ndim == 1 and answers.dtype.kind in "iu"
    return answers if plain else np.zeros(len(answers), dtype=np.int64)


def quick_size(classes: int, n: int, quick: int = QUICK) -> int:
    """Examples of the first block: the whole number of examples per class that comes nearest to `quick`.

    With so many classes that one of each is more than twice `quick`, it is `quick` examples of different classes.
    """
    per_class = max(1, round(quick / classes))
    size = per_class * classes
    return min(n, size if size <= 2 * quick else quick)


def stratified_order(answers: np.ndarray, *, quick: int, seed: int) -> tuple[np.ndarray, int]:
    """A seeded order of a split [n] and the length of its balanced start.

    The start takes the classes in turn, as many of each as `quick_size` says; a class with too few examples is made
    up for by the others. After it every stretch holds the classes in the proportions of what is left.
    """
    generator = np.random.default_rng(seed)
    classes = generator.permutation(np.unique(answers))
    queues = [generator.permutation(np.flatnonzero(answers == c)) for c in classes]
    size = quick_size(len(classes), len(answers), quick)
    turns = [(turn, k) for k, queue in enumerate(queues) for turn in range(len(queue))]
    chosen = sorted(turns)[:size]
    start = [queues[k][turn] for turn, k in chosen]
    taken = np.bincount([k for _, k in chosen], minlength=len(queues))
    rest = []
    for queue, used in zip(queues, taken, strict=True):
        left = queue[used:]
        # Spread evenly over (0, 1) with one random shift per class: any prefix of the sorted whole is proportional.
        places = (np.arange(len(left)) + generator.random()) / max(1, len(left))
        rest += list(zip(places, left, strict=True))
    order = [*start, *(index for _, index in sorted(rest))]
    return np.array(order, dtype=np.int64), size


def block_sizes(n: int, first: int) -> list[int]:
    """Sizes of the blocks of n examples, each GROWTH times the one before; under half a block left joins the last."""
    sizes: list[int] = []
    left, size = n, min(first, n)
    while left > 0:
        take = left if left < 1.5 * size else size
        sizes.append(take)
        left -= take
        size *= GROWTH
    return sizes


def _cut(indices: np.ndarray, examples: Sequence[Example], batch_tokens: int) -> list[np.ndarray]:
    by_size = sorted(indices.tolist(), key=lambda i: (examples[i].size, i))
    groups: list[list[int]] = [[]]
    for i in by_size:
        if groups[-1] and (len(groups[-1]) + 1) * examples[i].size > batch_tokens:
            groups.append([])
        groups[-1].append(i)
    return [np.array(g, dtype=np.int64) for g in groups]
