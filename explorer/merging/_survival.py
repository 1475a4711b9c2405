"""How much of a merged task vector is left once it is rounded to the stored dtype: one streaming pass of sums.

A merge is computed in arithmetic precision and rounded once. With weights w = θ_0 + v, what is stored is round(w), and
what is left of v is v' = round(w) − round(θ_0): the stored model against the base stored the same way, so that the
rounding of weights that nobody changed does not count. Of v survives 1 − ‖v' − v‖ / ‖v‖, at least 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explorer.blocks import block_value
from explorer.compute import readiness
from explorer.compute.addresses import KINDS
from explorer.compute.source import Chunk, Source, base_chunk, deltas, numel
from explorer.executor import CancelToken, Executor, ProgressCallback, SerialExecutor
from explorer.merging._run import Prepared, cast, merge_chunk, plan
from explorer.results import SURVIVAL, Result

_SLICE = 1 << 15
"""Elements summed at a time: torch does not split so short a sum over threads, so its bits are always the same."""

_DEVICE_SLICE = 1 << 22
"""The same on a graphics card, where short sums cost a launch each; float32 counts it exactly (below 2^24)."""


def survival(
    prepared: Prepared,
    source: Source,
    dtype: torch.dtype | None = None,
    *,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Result:
    """What survives of the merged task vector, and of every task vector alone, when stored as `dtype` (None: as the
    base's tensors are). Columns SURVIVAL.

    One pass over the chunks of the merge; the sums are float64 and added in chunk order, so threads give the bits of a
    serial run. Memory is bounded by workers x tasks x chunk (or tensor).
    Raises InputError where merged weights do not fit the dtype, CheckpointError for NaN, Cancelled.
    """
    pieces = plan(prepared, source)
    work = lambda c: chunk_sums(prepared, source, c, merge_chunk(prepared, source, c), dtype)  # noqa: E731
    found = (executor or SerialExecutor()).map(
        work, pieces, total=len(pieces), label="rounding", progress=progress, cancel=cancel
    )
    return survival_table(prepared, source, found, dtype)


def tensor_sums(
    prepared: Prepared,
    source: Source,
    name: str,
    weights: Tensor | list[Tensor],
    dtype: torch.dtype | None,
    *,
    executor: Executor | None = None,
) -> Tensor:
    """The sums of one tensor whose merged weights are known already, as `merge_tensor` gives them unrounded."""
    rows = [w.reshape(-1) for w in ([weights] if isinstance(weights, Tensor) else weights)]

    def sums(chunk: Chunk) -> Tensor:
        part = torch.stack([row[chunk.start : chunk.stop] for row in rows])
        return chunk_sums(prepared, source, chunk, part, dtype)

    total = _nothing(prepared)
    for partial in (executor or SerialExecutor()).map(sums, plan(prepared, source, [name])):
        total += partial
    return total


def chunk_sums(prepared: Prepared, source: Source, chunk: Chunk, weights: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The additive sums of a chunk, [R, 4] float64: Σ v², Σ (v' − v)², entries with v ≠ 0, of these with v' = 0.

    `weights` [n], or [rows, n], are merged in arithmetic precision. R: those rows, then one per task of the source,
    whose v is its scale · τ_t. A task alone that does not fit the dtype loses everything (its sum is infinite).
    On the processor compiled loops add up half and single precision; torch's sums differ in the last places.
    """
    stored = dtype or source.dtype(chunk.name)
    quick = _compiled_sums(prepared, source, chunk, weights, stored)
    if quick is not None:
        return quick
    base, alone = base_chunk(source, chunk), deltas(source, chunk)
    merged = weights.reshape(-1, base.numel())
    scales = _scales(prepared, chunk.name)
    total = _nothing(prepared).to(base.device)
    step = _SLICE if base.device.type == "cpu" else _DEVICE_SLICE
    for start in range(0, base.numel(), step):
        place = slice(start, start + step)
        origin = base[place]
        kept = cast(origin, stored).to(origin.dtype)
        for row, values in enumerate(merged):
            total[row] += _sums(values[place], cast(values[place], stored), origin, kept)
        for row, scale in enumerate(scales, len(merged)):
            values = torch.add(origin, alone[row - len(merged), place], alpha=scale)
            total[row] += _sums(values, values.to(stored), origin, kept)
    return total.cpu()


@cache
def _kernels() -> ModuleType:
    """The compiled loops; imported when first needed, because that takes a second."""
    from explorer.merging import _survival_kernels

    return _survival_kernels


def _compiled_sums(
    prepared: Prepared, source: Source, chunk: Chunk, weights: Tensor, stored: torch.dtype
) -> Tensor | None:
    """The sums of `chunk_sums` by compiled loops; None where they know no dtype of them, or a weight does not fit."""
    if source.device.type != "cpu" or stored not in KINDS or weights.dtype != torch.float32 or not readiness.ready():
        return None
    tasks = range(len(source.tasks))
    held = [source.base(chunk.name, chunk.start, chunk.stop).contiguous()]
    held += [source.task(t, chunk.name, chunk.start, chunk.stop).contiguous() for t in tasks]
    if any(tensor.dtype not in KINDS for tensor in held):
        return None
    rows = [row.contiguous() for row in weights.reshape(-1, held[0].numel())]
    total: np.ndarray = np.zeros((len(rows) + len(tasks), 4), np.float64)
    largest = _kernels().survival_sums(
        held[0].data_ptr(),
        KINDS[held[0].dtype],
        np.array([t.data_ptr() for t in held[1:]], np.int64),
        np.array([KINDS[t.dtype] for t in held[1:]], np.int64),
        np.array([source.holds_delta(t, chunk.name) for t in tasks], np.bool_),
        np.array(_scales(prepared, chunk.name), np.float32),
        np.array([r.data_ptr() for r in rows], np.int64),
        KINDS[stored],
        held[0].numel(),
        total,
    )
    limit = int(torch.tensor(torch.finfo(stored).max, dtype=torch.float32).view(torch.int32))
    return torch.from_numpy(total) if largest <= limit else None


def _sums(weights: Tensor, stored: Tensor, base: Tensor, kept: Tensor) -> Tensor:
    """[4] float64 of one slice: weights, as stored, beside the base and the base as stored (in arithmetic precision).

    Counts are sums of ones, exact in float32 for a slice; torch adds them several times faster than it counts.
    """
    change = weights - base
    left = stored.to(weights.dtype, copy=True).sub_(kept)  # 0 wherever the change is: equal weights round alike
    lost = left - change
    squares = [(x * x).sum() for x in (change, lost)]
    changed, remaining = (x.ne_(0).sum() for x in (change, left))
    return torch.stack([*squares, changed, changed - remaining]).double()


def _scales(prepared: Prepared, name: str | None = None) -> tuple[float, ...]:
    """Each task's scale in the source's order, for one tensor; 1 where the method has none.

    Without a name a scale that differs by tensor is NaN.
    """
    given = prepared.values.get("scale", 1.0)
    default = next((s.default for s in prepared.method.specs if s.name == "scale"), 1.0)
    several = given if isinstance(given, tuple) else (given,) * len(prepared.tasks)
    if name is None:
        found = [float("nan") if isinstance(v, Mapping) else float(v) for v in several]
    else:
        found = [float(block_value(v, name, default)) for v in several]
    return tuple(found[prepared.order.index(i)] for i in range(len(prepared.order)))


def _nothing(prepared: Prepared) -> Tensor:
    tasks = len(prepared.tasks)
    return torch.zeros((tasks + (tasks if prepared.method.output == "per_task" else 1), 4), dtype=torch.float64)


def survival_table(prepared: Prepared, source: Source, partials: Iterable[Tensor], dtype: torch.dtype | None) -> Result:
    """The pooled sums of all chunks as a result with the columns SURVIVAL."""
    total = _nothing(prepared)
    for partial in partials:
        total += partial
    several = prepared.method.output == "per_task"
    labels = [("merged", t, float("nan")) for t in (prepared.tasks if several else ("",))]
    labels += [("alone", t, s) for t, s in zip(prepared.tasks, _scales(prepared), strict=True)]
    sizes: dict[str, int] = {}
    for name in source.names:
        stored = str(dtype or source.dtype(name)).removeprefix("torch.")
        sizes[stored] = sizes.get(stored, 0) + numel(source, name)
    rows = [(*label, *_finished(*sums)) for label, sums in zip(labels, total.tolist(), strict=True)]
    table = pd.DataFrame(rows, columns=[c.name for c in SURVIVAL])
    origin = {"source": source.digest, "method": prepared.method.name, "stored_as": sizes, "seed": prepared.seed}
    return Result("survival", prepared.tasks, table, SURVIVAL, origin)


def _finished(squares: float, lost_squares: float, changed: float, gone: float) -> tuple[float, ...]:
    if not changed:
        return 0.0, 0.0, float("nan"), 0, float("nan")
    norm, lost = squares**0.5, lost_squares**0.5
    return norm, lost, max(0.0, 1 - lost / norm) if norm else float("nan"), int(changed), gone / changed
