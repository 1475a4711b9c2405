"""Comparisons that read weights: same bytes, finite values, same ancestor. All stream; none holds a whole model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch

from explorer.checkpoints.adapted import AdaptedCheckpoint, delta_is_zero
from explorer.checkpoints.handle import Checkpoint
from explorer.errors import CheckpointError, all_problems, sentence
from explorer.executor import CancelToken

_CHUNK_ELEMENTS = 1 << 20
_SHOWN_PROBLEMS = 10
LINEAGE_MATRICES = 4
MAX_DRIFT, MIN_COSINE = 0.7, 0.5


def _slices(numel: int) -> Iterator[tuple[int, int]]:
    for start in range(0, numel, _CHUNK_ELEMENTS):
        yield start, min(start + _CHUNK_ELEMENTS, numel)


def same_bytes(first: Checkpoint, first_name: str, second: Checkpoint, second_name: str) -> bool:
    """True when two tensors have the same dtype, shape and bytes (so NaN equals itself, and -0 differs from 0).

    Stops at the first chunk that differs.
    """
    mine, theirs = first.info(first_name), second.info(second_name)
    if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
        return False
    for start, stop in _slices(mine.numel):
        left = first.read_flat(first_name, start, stop).view(torch.uint8)
        right = second.read_flat(second_name, start, stop).view(torch.uint8)
        if not torch.equal(left, right):
            return False
    return True


def frozen_tensors(base: Checkpoint, task: Checkpoint, names: Iterable[str]) -> tuple[str, ...]:
    """The tensors among `names` that fine-tuning left byte for byte as they are in the base, in the given order.

    Shards of equal size are compared by their digests first, which are remembered; the rest by early-ending reads.
    """
    sizes = {stamp.path: stamp.size_bytes for stamp in (*base.stamps, *task.stamps)}

    def untouched(name: str) -> bool:
        if isinstance(task, AdaptedCheckpoint) and task.holds_delta(name):
            return delta_is_zero(task, name)
        mine, theirs = base.info(name), task.info(name)
        place = (mine.offset_bytes, mine.dtype, mine.shape) == (theirs.offset_bytes, theirs.dtype, theirs.shape)
        if place and sizes[mine.file] == sizes[theirs.file]:
            same_file = base.file_digest(mine.file) == task.file_digest(theirs.file)
        else:
            same_file = False
        return same_file or same_bytes(base, name, task, name)

    return tuple(name for name in names if untouched(name))


def check_finite(checkpoint: Checkpoint, names: Sequence[str], *, cancel: CancelToken | None = None) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or infinite values, up to 10 of them.

    Reads every named tensor once, in chunks; tensors of whole numbers have nothing to check.
    """
    problems = []
    for name in names:
        if cancel:
            cancel.check("check of the weights")
        if checkpoint.info(name).is_float and (bad := _non_finite(checkpoint, name)):
            must = f"tensor {name} must hold finite numbers"
            advice = (
                "The training run diverged, or the file was damaged: use another checkpoint, or exclude the tensor."
            )
            problems.append(sentence(str(checkpoint.path), must, bad, advice))
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise CheckpointError(all_problems(str(checkpoint.path), problems[:_SHOWN_PROBLEMS] + more))


def _non_finite(checkpoint: Checkpoint, name: str) -> str:
    """What is not finite in one tensor, such as `2 NaN, 1 infinite`; empty when all is well."""
    nan = infinite = 0
    for start, stop in _slices(checkpoint.info(name).numel):
        values = checkpoint.read_flat(name, start, stop)
        if not bool(torch.isfinite(values).all()):
            nan += int(torch.isnan(values).sum())
            infinite += int(torch.isinf(values).sum())
    counts = (f"{nan} NaN" if nan else "", f"{infinite} infinite" if infinite else "")
    return ", ".join(c for c in counts if c)


def drift_and_cosine(base: Checkpoint, task: Checkpoint, names: Sequence[str]) -> tuple[float, float]:
    """How far a fine-tune moved: ||θ_t − θ_0|| / ||θ_0|| and cos(θ_t, θ_0), pooled over the named tensors.

    Sums in float64; (nan, nan) where a norm is 0 or a value is not finite.
    """
    base_square = task_square = product = 0.0
    for name in names:
        for start, stop in _slices(base.info(name).numel):
            x = base.read_flat(name, start, stop).double()
            y = task.read_flat(name, start, stop).double()
            base_square += float(x @ x)
            task_square += float(y @ y)
            product += float(x @ y)
    if not all(math.isfinite(v) and v > 0 for v in (base_square, task_square)):
        return math.nan, math.nan
    drift = math.sqrt(max(base_square + task_square - 2 * product, 0.0) / base_square)
    return drift, product / math.sqrt(base_square * task_square)


def largest_matrices(base: Checkpoint, names: Iterable[str], count: int = LINEAGE_MATRICES) -> tuple[str, ...]:
    """The names of the largest 2-D tensors, largest first, equal ones in name order."""
    matrices = [n for n in names if len(base.info(n).shape) == 2]
    return tuple(sorted(matrices, key=lambda n: (-base.info(n).numel, n))[:count])
