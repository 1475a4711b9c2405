"""Runs a merge method over a source: statistics first, then chunk by chunk. The one path that page, export, library
and tests share, so what is evaluated is what is exported, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from explorer.blocks import block_value, has_blocks, require_matches
from explorer.compute import readiness
from explorer.compute.arena import Row
from explorer.compute.source import Chunk, Source, base_chunk, deltas, numel
from explorer.executor import CancelToken, Executor, ProgressCallback, SerialExecutor
from explorer.merging import _fused
from explorer.merging._add_ons import PreparedAddOn, prepare_add_ons
from explorer.merging._api import METHODS, Method, Stat
from explorer.merging._cast import cast
from explorer.merging._fused_all import merge_all
from explorer.merging._inputs import (
    given_at,
    locate_non_finite,
    ordered,
    require_finite_base,
    require_given,
    require_tasks,
)
from explorer.merging._statistics import Statistics, at, statistics
from explorer.params import check_values
from explorer.seeds import stable_seed
from explorer.store import Store

MERGE_CHUNK_ELEMENTS = 1 << 17
"""Elements merged at a time: measured fastest on two cores, where T rows and their temporaries stay in cache."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A method with checked values and its whole-model statistics: all that a chunk needs.

    `order` is the order in which the kernel sees the source's tasks; `keeps_base` is True when every scale is 0.
    `add_ons` are applied to the merged task vector, in their order.
    """

    method: Method
    tasks: tuple[str, ...]
    values: Mapping[str, Any]
    stats: Mapping[str, Stat]
    order: tuple[int, ...]
    seed: int
    keeps_base: bool
    add_ons: tuple[PreparedAddOn, ...] = ()


def prepare(
    method: Method | str,
    source: Source,
    parameters: Mapping[str, Any] | None = None,
    *,
    executor: Executor | None = None,
    cache: Store | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    seed: int = 0,
    add_ons: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Prepared:
    """Checked values and the whole-model statistics that a method and its add-ons ask for.

    `parameters` gives values by name, per-task ones as one number or a mapping task -> number; where the parameter is
    per block, each number may be a mapping tensor-name pattern -> number (`explorer.blocks`). `add_ons`: names with
    their parameters, in the order of application. Statistics are kept in `cache`. Raises UnknownNameError,
    ParameterError with every problem, RecipeError for too few or too many tasks.
    """
    chosen = METHODS.get(method) if isinstance(method, str) else method
    tasks = tuple(source.tasks)
    require_tasks(chosen, tasks)
    values = check_values(chosen.specs, parameters or {}, who=chosen.name, tasks=tasks)
    require_given(chosen.name, source, chosen.needs_data)
    order = range(len(tasks)) if chosen.order_sensitive else sorted(range(len(tasks)), key=tasks.__getitem__)
    view = ordered(source, tuple(order))
    plain = {s.name: _per_task(values[s.name], view.tasks) if s.per_task else values[s.name] for s in chosen.specs}
    require_matches(chosen.specs, plain, source.names, who=chosen.name)
    readiness.ready(sum(numel(source, n) for n in source.names) * (len(tasks) + 1) if chosen.fused_function else 0)
    keeps_base = _all_zero(plain.get("scale"))
    stats: Mapping[str, Stat] = {}
    asked = statistics(view, executor=executor, cache=cache, progress=progress, cancel=cancel, seed=seed)
    if chosen.prepare_function and not keeps_base:
        stats = chosen.prepare_function(asked, plain)
    ready = Prepared(chosen, tasks, plain, stats, tuple(order), seed, keeps_base)
    if not add_ons:
        return ready
    return replace(ready, add_ons=prepare_add_ons(add_ons, asked, lambda f: _merged_sum(ready, source, f, asked)))


def _merged_sum(ready: Prepared, source: Source, function: Callable[[Tensor], Tensor], asked: Statistics) -> Tensor:
    """Σ over all chunks of `function` of the merged task vector, float64; whole tensors where the method needs them."""
    view = ordered(source, ready.order)

    def one(chunk: Chunk) -> Tensor:
        return function(_kernel(ready, view, chunk, deltas(view, chunk), base_chunk(source, chunk))).double()

    zero = torch.zeros((), dtype=torch.float64, device=source.device)
    if ready.keeps_base:
        return zero
    pieces = plan(ready, source)
    for part in asked.executor.map(one, pieces, total=len(pieces), label="prepare", cancel=asked.cancel):
        zero = zero + part
    return zero


def _per_task(value: Any, tasks: Sequence[str]) -> tuple[Any, ...]:
    return tuple(value[t] for t in tasks) if isinstance(value, Mapping) else (value,) * len(tasks)


def _all_zero(scale: Any) -> bool:
    if scale is None:
        return False
    return all(s == 0 for s in scale) if isinstance(scale, tuple) else bool(scale == 0)


def merge_chunk(prepared: Prepared, source: Source, chunk: Chunk) -> Tensor:
    """Merged weights of one chunk in arithmetic precision, [n], or [T, n] in the source's task order.

    Where the merged task vector is 0, and everywhere when all scales are 0, the base's own bits are kept (−0.0 too).
    Raises CheckpointError naming the tensor when an input is not finite.
    """
    base = base_chunk(source, chunk)
    merged = merge_deltas(prepared, source, chunk, base)
    return torch.where(merged == 0, base, merged + base)


def merge_deltas(prepared: Prepared, source: Source, chunk: Chunk, base: Tensor | None = None) -> Tensor:
    """The merged task vector of one chunk, scale applied, before it is added to the base; [n], or [T, n].

    `base` saves reading θ_0 of the chunk again. Raises as `merge_chunk`.
    """
    base = base_chunk(source, chunk) if base is None else base
    if prepared.keeps_base:
        require_finite_base(base, chunk)
        zero = torch.zeros_like(base)
        return zero.expand(len(prepared.tasks), -1).clone() if prepared.method.output == "per_task" else zero
    view = ordered(source, prepared.order)
    task_vectors = deltas(view, chunk)
    if not bool(torch.isfinite(task_vectors.sum())):
        locate_non_finite(source, chunk)
    merged = _kernel(prepared, view, chunk, task_vectors, base)
    for add_on in prepared.add_ons:
        merged = add_on.apply(merged, task_vectors, chunk.name)
    if prepared.method.output == "per_task" and merged.shape[0] > 1:
        back = sorted(range(len(prepared.order)), key=prepared.order.__getitem__)
        return merged if back == list(range(len(back))) else merged[back]
    return merged


def _kernel(prepared: Prepared, view: Source, chunk: Chunk, task_vectors: Tensor, base: Tensor) -> Tensor:
    method = prepared.method
    arguments = _arguments(prepared, view, chunk, base.dtype)
    if method.whole_tensors:
        shape = view.shape(chunk.name)
        task_vectors, base = task_vectors.view(-1, *shape), base.view(shape)
    if "base" in method.needs:
        arguments["base"] = base
    merged = method(task_vectors, **arguments)
    return merged.reshape(len(prepared.tasks), -1) if method.output == "per_task" else merged.reshape(-1)


def _arguments(prepared: Prepared, view: Source, chunk: Chunk, dtype: torch.dtype) -> dict[str, Any]:
    """What the method gets beside the task vectors and the base."""
    method = prepared.method
    arguments: dict[str, Any] = {}
    for s in method.specs:
        value = prepared.values[s.name]
        if s.per_block and has_blocks(value):
            several = value if isinstance(value, tuple) else (value,)
            found = tuple(block_value(one, chunk.name, s.default) for one in several)
            value = found if isinstance(value, tuple) else found[0]
        arguments[s.name] = torch.tensor(value, dtype=dtype, device=view.device) if s.per_task else value
    if "stats" in method.needs:
        arguments["stats"] = at(prepared.stats, chunk.name)
    if "seeds" in method.needs:
        arguments["seeds"] = tuple(stable_seed(prepared.seed, task, chunk.name) for task in view.tasks)
    if "offset" in method.needs:
        arguments["offset"] = chunk.start
    if "name" in method.needs:
        arguments["name"] = chunk.name
    if "given" in method.needs:
        arguments["given"] = given_at(view, method.needs_data, chunk.name)
    return arguments


def _fused_chunk(prepared: Prepared, source: Source, chunk: Chunk, stored: torch.dtype, outs: Sequence[Tensor]) -> bool:
    """Write a chunk of every row by the compiled pass, rounded to `stored` first; False where that does not apply."""
    method = prepared.method
    if prepared.keeps_base or prepared.add_ons or not _fused.applies(method, source, chunk.name, stored):
        return False
    view = ordered(source, prepared.order)
    arguments = _arguments(prepared, view, chunk, torch.float32)
    steps = method.fused_function(**arguments) if method.fused_function else None
    if steps is None:
        return False
    places = prepared.order if method.output == "per_task" else (0,)
    rounded = [out if out.dtype == stored else torch.empty_like(out, dtype=stored) for out in outs]
    if not _fused.write(steps, view, chunk, [rounded[i] for i in places], arguments.get("seeds", ())):
        return False
    for out, values in zip(outs, rounded, strict=True):
        if values is not out:
            out.copy_(values)
    return True


def plan(
    prepared: Prepared, source: Source, names: Iterable[str] | None = None, chunk_elements: int | None = None
) -> list[Chunk]:
    """The chunks of a merge, in order: whole tensors where the method needs them; nothing for empty tensors."""
    fused = prepared.method.fused_function is not None and source.device.type == "cpu" and readiness.ready()
    elements = chunk_elements or (_fused.FUSED_CHUNK_ELEMENTS if fused else MERGE_CHUNK_ELEMENTS)

    def pieces() -> Iterator[Chunk]:
        for name in source.names if names is None else names:
            total = numel(source, name)
            step = max(1, total) if prepared.method.whole_tensors else elements
            for start in range(0, total, step):
                yield Chunk(name, start, min(start + step, total))

    return list(pieces())


def merge_tensor(
    prepared: Prepared,
    source: Source,
    name: str,
    dtype: torch.dtype | None = None,
    *,
    chunk_elements: int | None = None,
) -> Tensor | list[Tensor]:
    """One merged tensor in its shape (a list with one per task for output "per_task"); None keeps the base's dtype."""
    stored = dtype or source.dtype(name)
    several = prepared.method.output == "per_task"
    shapes = {name: source.shape(name)}
    rows = [Row(shapes, {name: stored}, source.device) for _ in range(len(prepared.tasks) if several else 1)]
    merge_into(prepared, source, rows, stored, [name], chunk_elements=chunk_elements)
    tensors = [row.views()[name] for row in rows]
    return tensors if several else tensors[0]


def merge_into(
    prepared: Prepared,
    source: Source,
    out_rows: Row | Sequence[Row],
    dtype_policy: torch.dtype | None = None,
    names: Iterable[str] | None = None,
    executor: Executor | None = None,
    cancel: CancelToken | None = None,
    *,
    progress: ProgressCallback | None = None,
    chunk_elements: int | None = None,
) -> None:
    """Write merged weights into rows (one, or one per task), rounded to the stored dtype first.

    `dtype_policy` is the dtype an export would store (None: each tensor's own); a row that is wider then holds exactly
    the exported values. `names` limits the work to some tensors. Raises Cancelled between chunks; a row may then hold
    old and new chunks.
    """
    rows = [out_rows] if isinstance(out_rows, Row) else list(out_rows)
    expected = len(prepared.tasks) if prepared.method.output == "per_task" else 1
    if len(rows) != expected:
        raise ValueError(f"merge_into: {prepared.method.name} fills {expected} rows; got {len(rows)}")
    wanted = source.names if names is None else tuple(names)
    view = ordered(source, prepared.order)
    made = merge_all(
        prepared,
        source,
        rows,
        dtype_policy,
        () if chunk_elements else wanted,
        lambda name: _arguments(prepared, view, Chunk(name, 0, 0), torch.float32),
        executor=executor,
        cancel=cancel,
        progress=progress,
    )
    pieces = plan(prepared, source, [n for n in wanted if n not in made], chunk_elements)

    def write(chunk: Chunk) -> None:
        stored = dtype_policy or source.dtype(chunk.name)
        outs = [row.flat(chunk.name)[chunk.start : chunk.stop] for row in rows]
        if _fused_chunk(prepared, source, chunk, stored, outs):
            return
        rounded = cast(merge_chunk(prepared, source, chunk), stored)
        for out, values in zip(outs, rounded if rounded.dim() > 1 else [rounded], strict=True):
            out.copy_(values)

    work = (executor or SerialExecutor()).map(
        write, pieces, total=len(pieces), label="merge", progress=progress, cancel=cancel
    )
    for _ in work:
        pass
