"""Fused merging on the processor: one compiled pass that reads every weight once and writes the merged ones once.

A method says beside its function which steps it is made of, `@ties.fused`, for the values that the compiled loops know;
the runner then takes this path for resident bfloat16, float16 and float32 tensors. The results are those of the
method's own function. Where anything is unusual (a value that is no number, a weight that does not fit) the pass says
so and the runner does the chunk over with the method's function, which raises the right error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from explorer.compute import readiness
from explorer.compute.addresses import KINDS
from explorer.compute.source import Chunk, Source
from explorer.merging import _draws
from explorer.merging import _fused_options as places

if TYPE_CHECKING:
    from explorer.merging._api import Method

FUSED_CHUNK_ELEMENTS = 1 << 21
"""Elements of one call: the loops cut their own blocks, so a call is long enough for its own cost not to count."""

INFINITY = 0x7F800000


@dataclass(frozen=True, eq=False)
class Steps:
    """What the compiled pass does to T task vectors; every tensor is per task, [T], None where it does not apply.

    Entries outside `low` … `high` become 0, then those whose draw is not below `keep` (densities, with the runner's
    seeds); what is left grows by `times`, or is divided by `over`. With `spread`, the chance to be kept goes with the
    rank of |τ| within its row from keep − spread to keep + spread, and `over_chance` divides what is kept by it.
    `combine` is "sum" (Σ factors · τ), "elect_mean", "elect_sum", "elect_max" (votes are factors · τ; a mean divides by
    the agreeing `weights`, or their number), "consensus" (the sum, where `min_tasks` TALL masks of `mask_threshold`
    agree), "tall" (one model per task), or "pairs", "signed" and "raw" (PCB-Merging, which clamps magnitudes to `low` …
    `high`, and maps scores of `border` … `best` to shares of 0 … 1). The result is divided by `divisor` and multiplied
    by `common`.
    """

    combine: str
    factors: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    keep: Sequence[float] | None = None
    spread: Sequence[float] | None = None
    over_chance: bool = False
    times: Tensor | None = None
    over: Tensor | None = None
    weights: Tensor | None = None
    mask_threshold: Tensor | None = None
    border: Tensor | None = None
    best: Tensor | None = None
    min_tasks: int = 0
    zero_is_positive: bool = True
    divisor: float = 1.0
    common: float = 1.0


@cache
def kernels() -> ModuleType:
    """The compiled loops; imported when first needed, because that takes a second."""
    from explorer.merging import _fused_kernels

    return _fused_kernels


@cache
def _row_kernels() -> ModuleType:
    from explorer.merging import _fused_rows

    return _fused_rows


def readable(source: Source, name: str) -> bool:
    """Whether the compiled loops are at hand and can read this tensor of this source; depends on no value or chunk."""
    if (
        source.device.type != "cpu"
        or not readiness.ready()
        or any(source.holds_delta(t, name) for t in range(len(source.tasks)))
    ):
        return False
    empty = [source.base(name, 0, 0), *(source.task(t, name, 0, 0) for t in range(len(source.tasks)))]
    return all(tensor.dtype in KINDS for tensor in empty)


def applies(method: Method, source: Source, name: str, stored: torch.dtype) -> bool:
    """Whether the compiled pass can make this tensor; depends on no value and no chunk."""
    return method.fused_function is not None and stored in KINDS and readable(source, name)


def write(steps: Steps, source: Source, chunk: Chunk, outs: Sequence[Tensor], seeds: Sequence[int] = ()) -> bool:
    """Merge a chunk into `outs` [n] (one, or one per task in the source's order), rounded to their dtype.

    False when some number is not finite or does not fit: what `outs` hold is then to be written again.
    """
    change, size, _ = _run(steps, source, chunk, outs, seeds, (places.COMBINE, steps.combine.upper()))
    limit = int(torch.tensor(torch.finfo(outs[0].dtype).max, dtype=torch.float32).view(torch.int32))
    return change < INFINITY and size <= limit


def balance(steps: Steps, source: Source, chunk: Chunk) -> int | None:
    """The sum of the elected signs over a chunk; None when a task vector is not finite."""
    change, _, total = _run(steps, source, chunk, (), (), (places.COMBINE, "ELECTION"))
    return int(total) if change < INFINITY else None


def _run(
    steps: Steps, source: Source, chunk: Chunk, outs: Sequence[Tensor], seeds: Sequence[int], kind: tuple[int, str]
) -> tuple[int, int, int]:
    count = len(source.tasks)
    base = source.base(chunk.name, chunk.start, chunk.stop).contiguous()
    tasks = [source.task(t, chunk.name, chunk.start, chunk.stop).contiguous() for t in range(count)]
    settings = Settings.of(steps, count, kind)
    padding = settings.numbers.shape[1] - count
    ranked = steps.spread is not None
    merge = partial(_row_kernels().merge_rows, _chances(steps, source, chunk)) if ranked else kernels().merge
    return merge(
        base.data_ptr(),
        KINDS[base.dtype],
        np.array([t.data_ptr() for t in (*tasks, *[base] * padding)], np.int64),
        np.array([KINDS[t.dtype] for t in tasks], np.int64),
        np.array([o.data_ptr() for o in outs], np.int64),
        KINDS[outs[0].dtype] if outs else 0,
        base.numel(),
        chunk.start,
        settings.options,
        settings.numbers,
        settings.scalars,
        settings.limits,
        seed_words(seeds or (0,) * count),
    )


@dataclass(frozen=True, eq=False)
class Settings:
    """Steps as the compiled loops take them: options [OPTIONS], numbers [ROWS, T], scalars [2], limits [T].

    T is rounded up to a multiple of four: the fast loops take four tasks at a time, and the base with factor 0 adds
    nothing.
    """

    options: np.ndarray
    numbers: np.ndarray
    scalars: np.ndarray
    limits: np.ndarray

    @staticmethod
    def of(steps: Steps, count: int, kind: tuple[int, str] | None = None) -> Settings:
        """For `count` tasks; `kind` is the option that says what to make, and its name."""
        place, name = kind or (places.COMBINE, steps.combine.upper())
        options = np.zeros(places.OPTIONS, np.int64)
        options[place] = getattr(places, name)
        bounded = steps.low is not None or steps.high is not None
        options[places.TRIMS] = bounded and options[places.COMBINE] < places.PAIRS
        options[places.DRAWS] = steps.keep is not None
        options[places.GROWS] = 1 if steps.times is not None else 2 if steps.over is not None else 0
        options[places.TIES_POSITIVE] = steps.zero_is_positive
        options[places.MIN_TASKS] = steps.min_tasks
        options[places.DIVIDES] = steps.over_chance
        options[places.FAST] = _fast(steps, name, count)
        scalars = np.array([steps.divisor, steps.common], np.float32)
        limits = np.array([round(d * 2**32) - 2**31 for d in steps.keep or (1.0,) * count], np.int64)
        return Settings(options, _numbers(steps, count, -count % 4), scalars, limits)


def seed_words(seeds: Sequence[int]) -> np.ndarray:
    """Both halves of every seed, [T, 2]."""
    return np.array([(s % 2**32, (s >> 32) % 2**32) for s in seeds], np.uint32)


def _chances(steps: Steps, source: Source, chunk: Chunk) -> np.ndarray:
    """Each task's chances by rank, [T, columns]."""
    assert steps.keep is not None and steps.spread is not None
    columns = _draws.row_length(source.shape(chunk.name))
    tables = [
        _draws.chances(keep, spread, columns, dtype=torch.float32)
        for keep, spread in zip(steps.keep, steps.spread, strict=True)
    ]
    return torch.stack(tables).numpy()


def _fast(steps: Steps, kind: str, count: int) -> int:
    """Whether a loop over four tasks of two bytes at once knows these steps, and which; the others go task by task."""
    if steps.keep is not None or steps.times is not None or steps.over is not None:
        return 0
    trims = steps.low is not None or steps.high is not None
    if kind == "SUM" and not trims and steps.divisor == steps.common == 1:
        return 1
    plain = trims and steps.high is None and steps.weights is None
    if kind in ("ELECT_MEAN", "ELECTION") and count <= 4 and plain:
        return places.PLAIN
    return int(kind in (("SUM", "ELECT_MEAN", "ELECT_SUM", "ELECTION") if trims else ("CONSENSUS",)))


def _numbers(steps: Steps, count: int, padding: int) -> np.ndarray:
    grow = steps.times if steps.times is not None else steps.over
    rows: Mapping[int, tuple[Tensor | None, float]] = {
        places.FACTOR: (steps.factors, 0.0),
        places.LOW: (steps.low, 0.0),
        places.HIGH: (steps.high, np.inf),
        places.GROWTH: (grow, 1.0),
        places.WEIGHT: (steps.weights, 1.0),
        places.MASK: (steps.mask_threshold, 0.0),
        places.BORDER: (steps.border, 0.0),
        places.BEST: (steps.best, 0.0),
    }
    numbers = np.zeros((places.ROWS, count + padding), np.float32)
    for row, (given, default) in rows.items():
        numbers[row, :] = default
        if given is not None:
            numbers[row, :count] = given.numpy()
    for row in (places.FACTOR, places.WEIGHT):  # padding has neither vote nor share
        numbers[row, count:] = 0
    return numbers
