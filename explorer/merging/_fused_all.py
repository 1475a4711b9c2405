"""Resident models merged in a few long calls of the compiled pass, whatever the number of tensors.

The same loops as `_fused.write`, on the same values: only the way to them is shorter. It looks up where everything lies
once, turns the setting into numbers once where it is the same for every tensor, and leaves to the runner whatever is
unusual: other dtypes, values that are no number, weights that do not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from explorer.blocks import has_blocks
from explorer.compute import readiness
from explorer.compute.addresses import KINDS, UNREADABLE, Addresses, addresses_of
from explorer.compute.arena import Row
from explorer.compute.source import Source
from explorer.executor import CancelToken, Executor, ProgressCallback, SerialExecutor
from explorer.merging._fused import FUSED_CHUNK_ELEMENTS, INFINITY, Settings, seed_words
from explorer.seeds import stable_seed

if TYPE_CHECKING:
    from explorer.merging._run import Prepared

_LEAST_ELEMENTS = 1 << 18
"""A call takes at least so many, where there are as many: enough for its own cost not to count."""


@cache
def _kernels() -> ModuleType:
    """The compiled loop; imported when first needed, as those of `_fused`."""
    from explorer.merging import _fused_all_kernels

    return _fused_all_kernels


def merge_all(
    prepared: Prepared,
    source: Source,
    rows: Sequence[Row],
    dtype: torch.dtype | None,
    names: Iterable[str],
    arguments: Any,
    *,
    executor: Executor | None = None,
    cancel: CancelToken | None = None,
    progress: ProgressCallback | None = None,
) -> frozenset[str]:
    """Writes what the compiled pass can make of these tensors into the rows; returns the names of those it made.

    `arguments(name)` gives what the method's `fused` function takes. `dtype` is the stored dtype (None: each base
    tensor's own); a row that is wider is left to the runner.
    """
    plain = not prepared.keeps_base and not prepared.add_ons and prepared.method.fused_function is not None
    table = addresses_of(source) if plain and readiness.ready() else None
    if table is None:
        return frozenset()
    chosen = _chosen(table, source, rows, dtype, frozenset(names))
    settings = _settings(prepared, [table.names[i] for i in chosen], arguments) if len(chosen) else None
    if settings is None:
        return frozenset()
    outs = np.zeros((len(table.names), len(rows)), np.int64)
    which = np.zeros(len(table.names), np.int64)
    which[chosen] = np.arange(len(chosen)) if len(settings) > 1 else 0
    for column, place in enumerate(prepared.order if prepared.method.output == "per_task" else (0,)):
        outs[chosen, column] = rows[place].addresses([table.names[i] for i in chosen])
    segments, calls = segments_of(chosen, table.sizes)
    found = np.zeros((len(segments), 2), np.int64)
    stored = [dtype or source.dtype(n) for n in table.names]
    fixed = (
        segments,
        table.places,
        table.kinds,
        np.array(prepared.order, np.int64),
        outs,
        np.array([KINDS.get(d, 0) for d in stored], np.int64),
        which,
        *(np.stack([getattr(s, part) for s in settings]) for part in ("options", "numbers", "scalars", "limits")),
        _seeds(prepared, source, table.names),
        found,
    )
    pool = executor or SerialExecutor()
    work = pool.map(
        lambda call: _kernels().merge_all(*call, *fixed),
        calls,
        total=len(calls),
        label="merge",
        progress=progress,
        cancel=cancel,
    )
    for _ in work:
        pass
    return _made(table, chosen, segments, found, stored)


def _made(
    table: Addresses, chosen: np.ndarray, segments: np.ndarray, found: np.ndarray, stored: Sequence[torch.dtype]
) -> frozenset[str]:
    """Names of the chosen tensors less those where a number is not finite or does not fit the stored dtype."""
    limits = np.array([_largest(d) for d in stored], np.int64)
    bad = (found[:, 0] >= INFINITY) | (found[:, 1] > limits[segments[:, 0]])
    spoilt = set(segments[bad, 0].tolist())
    return frozenset(table.names[i] for i in chosen.tolist() if i not in spoilt)


@lru_cache(maxsize=8)
def _largest(dtype: torch.dtype) -> int:
    """Float32 bits of the largest number of a dtype."""
    return int(torch.tensor(torch.finfo(dtype).max, dtype=torch.float32).view(torch.int32))


def _chosen(
    table: Addresses, source: Source, rows: Sequence[Row], dtype: torch.dtype | None, wanted: frozenset[str]
) -> np.ndarray:
    """Indices of the wanted tensors that the loops can read and write."""
    writable = [
        n in wanted and KINDS.get(dtype or source.dtype(n)) is not None and _same(rows, n, dtype or source.dtype(n))
        for n in table.names
    ]
    readable = (table.kinds != UNREADABLE).all(axis=1) & (table.sizes > 0)
    return np.flatnonzero(readable & np.array(writable, bool))


def _same(rows: Sequence[Row], name: str, stored: torch.dtype) -> bool:
    return all(row.dtype(name) == stored for row in rows)


def _settings(prepared: Prepared, names: Sequence[str], arguments: Any) -> list[Settings] | None:
    """The setting in the loops' numbers: once where it is the same for every tensor, else per tensor."""
    make = prepared.method.fused_function
    if make is None:
        return None
    blocks = any(s.per_block and _varies(prepared.values[s.name]) for s in prepared.method.specs)
    same = not blocks and not any(isinstance(v, Mapping) for v in prepared.stats.values())
    several = [make(**arguments(name)) for name in (names[:1] if same else names)]
    if any(steps is None or steps.spread is not None for steps in several):  # ranks need whole rows
        return None
    return [Settings.of(steps, len(prepared.tasks)) for steps in several if steps is not None]


def _varies(value: Any) -> bool:
    return any(has_blocks(v) for v in value) if isinstance(value, tuple) else has_blocks(value)


def _seeds(prepared: Prepared, source: Source, names: tuple[str, ...]) -> np.ndarray:
    """Per tensor and task in the method's order, [N, T, 2]; zeros where nothing is drawn."""
    if "seeds" not in prepared.method.needs:
        return np.zeros((len(names), len(prepared.order), 2), np.uint32)
    return _seed_table(prepared.seed, names, tuple(source.tasks[i] for i in prepared.order))


@lru_cache(maxsize=4)
def _seed_table(seed: int, names: tuple[str, ...], tasks: tuple[str, ...]) -> np.ndarray:
    return np.stack([seed_words([stable_seed(seed, task, name) for task in tasks]) for name in names])


def segments_of(chosen: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Pieces [S, 3] of tensor, start and count; and the calls, each a range of pieces of about the same size."""
    whole = int(sizes[chosen].sum())
    most = min(FUSED_CHUNK_ELEMENTS, max(_LEAST_ELEMENTS, whole // 16))
    pieces = [(i, s, min(most, n - s)) for i, n in zip(chosen, sizes[chosen], strict=True) for s in range(0, n, most)]
    calls, begin, held = [], 0, 0
    for index, (_, _, count) in enumerate(pieces):
        held += count
        if held >= most:
            calls.append((begin, index + 1))
            begin, held = index + 1, 0
    if begin < len(pieces):
        calls.append((begin, len(pieces)))
    return np.array(pieces, np.int64), calls
