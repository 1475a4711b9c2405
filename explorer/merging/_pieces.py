"""A merge in pieces for the exporter: each is read once, merged as the page merges, rounded once, and summed up.

Pieces are independent of each other, so threads may take them in any order; the bits are those of `merge_tensor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.compute.held import HeldChunk
from explorer.compute.source import Chunk, Source, arithmetic_dtype, numel
from explorer.errors import InputError, sentence
from explorer.merging import _fused
from explorer.merging._inputs import ordered
from explorer.merging._run import MERGE_CHUNK_ELEMENTS, Prepared, _arguments, _fused_chunk, merge_chunk, merge_tensor
from explorer.merging._survival import chunk_sums

PIECE_ELEMENTS = 1 << 20
"""Elements of one piece: long enough for its own cost not to count, short enough for many in a small budget."""
_SCRATCH = 4
"""Bytes per element and task that a method's own function needs beside its inputs, in float32: the task vectors."""


@dataclass(frozen=True, eq=False)
class MergedPiece:
    """One piece as it is stored, [n] per output model, and the sums of `survival` over it."""

    values: list[Tensor]
    sums: Tensor


def pieces(prepared: Prepared, source: Source, name: str) -> list[Chunk]:
    """The pieces of one tensor, in order; a whole tensor where the method needs it. None for an empty tensor."""
    total = numel(source, name)
    step = PIECE_ELEMENTS
    if prepared.method.whole_tensors:
        columns = (source.shape(name) or (1,))[-1]
        step = max(1, PIECE_ELEMENTS // max(1, columns)) * columns if _by_rows(prepared, source, name) else total
    return [Chunk(name, start, min(start + step, total)) for start in range(0, total, max(1, step))]


def piece_bytes(prepared: Prepared, source: Source, chunk: Chunk) -> int:
    """Memory that `merge_piece` needs at most for this piece: inputs, task vectors, temporaries, outputs."""
    count, tasks = chunk.stop - chunk.start, len(source.tasks)
    models = [source.dtype(chunk.name), *(source.task(t, chunk.name, 0, 0).dtype for t in range(tasks))]
    inputs = sum(dtype.itemsize for dtype in models)
    rows = tasks if prepared.method.output == "per_task" else 1
    outputs = rows * 2 * arithmetic_dtype(source, chunk.name).itemsize
    at_once = count if prepared.method.whole_tensors and not _by_rows(prepared, source, chunk.name) else 0
    given = sum(source.given_bytes(k, t, chunk.name) for k in prepared.method.needs_data for t in range(tasks))
    return count * (inputs + outputs) + at_once * (4 * tasks + 6) * _SCRATCH + given


def merge_piece(prepared: Prepared, source: Source, chunk: Chunk, stored: torch.dtype) -> MergedPiece:
    """Merge one of `pieces`, reading every input once.

    Raises CheckpointError naming the tensor when an input is not finite; InputError when a merged weight is not, or
    does not fit the stored dtype.
    """
    held = HeldChunk(source, chunk)
    count, several = chunk.stop - chunk.start, prepared.method.output == "per_task"
    rows = len(prepared.tasks) if several else 1
    merged = torch.empty((rows, count), dtype=arithmetic_dtype(source, chunk.name), device=source.device)
    if merged.dtype != torch.float32 or not _fused_chunk(prepared, held, chunk, torch.float32, list(merged)):
        _fill(prepared, held if _held_suffices(prepared, source, chunk) else source, chunk, merged)
    _require_finite(merged, chunk.name)
    try:
        sums = chunk_sums(prepared, held, chunk, merged if several else merged[0], stored)
    except InputError as error:  # a weight that does not fit the stored dtype
        raise InputError(str(error).replace("weights must", f"weights of {chunk.name} must", 1)) from error
    return MergedPiece([row.to(stored) for row in merged], sums)


def _held_suffices(prepared: Prepared, source: Source, chunk: Chunk) -> bool:
    return not prepared.method.whole_tensors or chunk.stop - chunk.start == numel(source, chunk.name)


def _fill(prepared: Prepared, source: Source, chunk: Chunk, merged: Tensor) -> None:
    """By the method's own function, as the resident path does: in chunks that stay in the cache, or whole."""
    if prepared.method.whole_tensors and isinstance(source, HeldChunk):
        merged.copy_(merge_chunk(prepared, source, chunk).view_as(merged))
        return
    if prepared.method.whole_tensors:  # rows of a tensor whose values the compiled pass gave back
        whole = merge_tensor(prepared, source, chunk.name, merged.dtype)
        for row, tensor in zip(merged, [whole] if isinstance(whole, Tensor) else whole, strict=True):
            row.copy_(tensor.reshape(-1)[chunk.start : chunk.stop])
        return
    for start in range(chunk.start, chunk.stop, MERGE_CHUNK_ELEMENTS):
        part = Chunk(chunk.name, start, min(start + MERGE_CHUNK_ELEMENTS, chunk.stop))
        place = slice(part.start - chunk.start, part.stop - chunk.start)
        merged[:, place] = merge_chunk(prepared, source, part)


def _by_rows(prepared: Prepared, source: Source, name: str) -> bool:
    """Whether the compiled pass makes this tensor row by row, though the method's function would need all of it."""
    method = prepared.method
    if (
        prepared.keeps_base
        or prepared.add_ons
        or method.prepare_function
        or not _fused.applies(method, source, name, torch.float32)
    ):
        return False
    view = ordered(source, prepared.order)
    steps = method.fused_function(**_arguments(prepared, view, Chunk(name, 0, 0), torch.float32))  # type: ignore[misc]
    return steps is not None and steps.spread is not None


def _require_finite(merged: Tensor, name: str) -> None:
    """Raise InputError when a merged weight is no number; one sum tells of all but sums that are too large."""
    if bool(torch.isfinite(merged.sum())) or bool(torch.isfinite(merged).all()):
        return
    bad = int((~torch.isfinite(merged)).sum())
    must = f"every merged weight of {name} must be a finite number"
    raise InputError(sentence("merge", must, f"{bad} that are not", "Choose a smaller scale, or another method."))
