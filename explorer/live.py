"""A merge that can be heard at once: resident models, one module, and the row its parameters are views of.

The merged row is kept in the *output* dtype, computed by the exporter's kernel; the evaluated module reads it
widened to the compute dtype. So what is scored is, bit for bit, what an export would hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explorer.compute import readiness
from explorer.compute.arena import Arena, Row, arena_bytes
from explorer.compute.source import Chunk, base_chunk, chunks, deltas
from explorer.compute.streamed import Streamed
from explorer.errors import CheckpointError, sentence
from explorer.evaluation import EvaluationTask, module_key, module_of
from explorer.evaluation.models import bind, build_module
from explorer.executor import CancelToken, SerialExecutor, ThreadExecutor
from explorer.merging import METHODS, merge_into, prepare
from explorer.opening import OpenModels
from explorer.recipe import Recipe
from explorer.seeds import digest_of
from explorer.store import Store


@dataclass(frozen=True)
class Resident:
    """Models at hand for merging: the arena of what is merged, and the module's other tensors, ready to use.

    `place` says where base and tasks are: "device"; "host", in main memory beside a graphics card that is too small
    for them; or "disk". Shared by every session that has the same models open; nothing here is ever written to.
    """

    models: OpenModels
    arena: Arena | Streamed
    fixed: Mapping[str, Tensor]
    compute_dtype: torch.dtype
    place: str = "device"

    @property
    def resident_bytes(self) -> int:
        """Bytes held for base and tasks, wherever they are held, and for the module's other tensors."""
        behind = self.arena.source if isinstance(self.arena, Streamed) else self.arena
        held = behind.resident_bytes if isinstance(behind, Arena) else 0
        return held + sum(t.nbytes for t in self.fixed.values())


PLACES = ("device", "host", "disk")


def load_resident(models: OpenModels, device: torch.device, place: str = "device") -> Resident:
    """Read everything once onto the device, or to where it is streamed from at every merge.

    Raises CheckpointError when a file cannot be read.
    """
    compute = torch.float32
    merged = set(models.names)
    others = (n for n in models.base.tensors if n not in merged)
    fixed = {n: _widened(models.base.read(n), compute, device) for n in others}
    arena: Arena | Streamed
    if place == "device":
        arena = Arena(models.source, device)
    elif place == "host":
        arena = Streamed(Arena(models.source), device)
    else:
        arena = Streamed(models.source, device)
    return Resident(models, arena, fixed, compute, place)


def resident_bytes(models: OpenModels, place: str = "device") -> int:
    """Bytes that `load_resident` would hold, to within the padding; reads no weights."""
    merged = set(models.names)
    others = [i for n, i in models.base.tensors.items() if n not in merged]
    fixed = sum(i.numel * (torch.float32.itemsize if i.is_float else i.dtype.itemsize) for i in others)
    return fixed + (0 if place == "disk" else arena_bytes(models.source))


def rows_bytes(models: OpenModels) -> int:
    """Bytes that one session's merged rows take on the device at least: as stored, and as the module computes."""
    sizes = ((models.base.info(n).numel, models.base.info(n).dtype.itemsize) for n in models.names)
    return sum(n * (size + torch.float32.itemsize) for n, size in sizes)


def _widened(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype).contiguous()


class LiveModel:
    """One session's merged model. Not thread-safe: one caller at a time.

    Raises CheckpointError when the base has no config.json, or transformers cannot make a model of it.
    """

    def __init__(self, resident: Resident) -> None:
        base = resident.models.base
        if not base.config:
            must, advice = "needs a config.json to be scored", "Put the model's config.json beside its weights."
            raise CheckpointError(sentence(str(base.path), must, "none", advice))
        self.resident = resident
        self.arena = resident.arena
        self._row = self.arena.merged_row(resident.compute_dtype)
        self._stored: list[Row] = []
        self._stored_dtype: str | None = ""
        self._shown: int | None = None
        self._executor = ThreadExecutor(2) if self.arena.device.type == "cpu" else SerialExecutor()
        self.module: nn.Module = build_module(base.config, self.arena.device, resident.compute_dtype)
        bind(self.module, {**resident.fixed, **self._row.views()})
        self._modules: dict[str, nn.Module] = {module_key(None): self.module}
        self.key = ""

    def key_of(self, recipe: Recipe) -> str:
        """What `key` is once this recipe is merged: the weights, and the config that says how they answer."""
        return scores_key(recipe, self.resident.models)

    def merge(self, recipe: Recipe, *, cache: Store, cancel: CancelToken | None = None) -> float:
        """Merge by the recipe into the row; the seconds it took. A merge that is already there costs nothing.

        Raises ParameterError for illegal values, Cancelled when a newer setting arrived.
        """
        started = time.perf_counter()
        key = self.key_of(recipe)
        if key == self.key:
            return 0.0
        method = METHODS.get(recipe.method)
        prepared = prepare(
            method,
            self.arena,
            recipe.values(),
            executor=self._executor,
            cache=cache,
            cancel=cancel,
            seed=recipe.seed,
            add_ons=recipe.add_ons,
        )
        self.key, self._shown = "", None
        single = method.output == "single"
        self._allocate(recipe.dtype, 1 if single else len(self.arena.tasks))
        dtype = getattr(torch, recipe.dtype) if recipe.dtype else None
        merge_into(prepared, self.arena, self._stored, dtype, executor=self._executor, cancel=cancel)
        self.key = key
        self._show(0)
        seconds = time.perf_counter() - started
        readiness.prepare_in_background()  # after the first merge, which is not to compete with a compiler
        return seconds

    def _allocate(self, dtype: str | None, rows: int) -> None:
        if (len(self._stored), self._stored_dtype) != (rows, dtype):
            self._stored = []
            self._stored = [self.arena.merged_row(getattr(torch, dtype) if dtype else None) for _ in range(rows)]
            self._stored_dtype = dtype

    def _show(self, index: int) -> None:
        if self._shown == index:
            return
        for name in self.arena.names:
            self._row.flat(name).copy_(self._stored[index].flat(name))
        self._shown = index

    def bare(self, task: str) -> nn.Module:
        """The model without layers of a task's own, with the weights that serve the task of this name."""
        self._show(self.arena.tasks.index(task) if len(self._stored) > 1 else 0)
        return self.module

    def module_for(self, task: EvaluationTask) -> nn.Module:
        """The module with the weights that serve this task, and the task's own layers on top where it has some.

        Raises CheckpointError when transformers cannot make the module that the task's kind asks for.
        """
        self.bare(task.name)
        key = module_key(task)
        if key not in self._modules:
            resident = self.resident
            base, device, dtype = resident.models.base, self.arena.device, resident.compute_dtype
            module = module_of(base.config, task, device, dtype)
            head = {n: _widened(t, dtype, device) for n, t in task.own_head.items()}
            bind(module, {**resident.fixed, **self._row.views()}, head)
            self._modules[key] = module
        return self._modules[key]

    def weights(self, task: str | None = None) -> dict[str, Tensor]:
        """The merged tensors as an export would hold them (views; do not write)."""
        return self._stored[self.arena.tasks.index(task) if task and len(self._stored) > 1 else 0].views()

    def rebuild_errors(self, cancel: CancelToken | None = None) -> dict[str, float]:
        """Per task ‖θ̂_t − θ_t‖ / ‖θ_t − θ_0‖ over the merged tensors, as stored; NaN for a task equal to the base.

        For methods with one model per task; one pass over what is resident.
        """
        tasks = self.arena.tasks

        def one(chunk: Chunk) -> Tensor:
            base, moved = base_chunk(self.arena, chunk), deltas(self.arena, chunk)
            rows = [row.flat(chunk.name)[chunk.start : chunk.stop].to(base.dtype) for row in self._stored]
            off = torch.stack(rows) - base - moved
            return torch.stack([off.double().square().sum(1), moved.double().square().sum(1)])

        total = torch.zeros(2, len(tasks), dtype=torch.float64, device=self.arena.device)
        pieces = list(chunks(self.arena))
        for part in self._executor.map(one, pieces, total=len(pieces), label="rebuild", cancel=cancel):
            total = total + part
        return dict(zip(tasks, (total[0] / total[1]).sqrt().tolist(), strict=True))

    @property
    def resident_bytes(self) -> int:
        """Bytes of this session's own rows, without the shared models."""
        return self._row.resident_bytes + sum(r.resident_bytes for r in self._stored)


def scores_key(recipe: Recipe, models: OpenModels) -> str:
    """The key under which a recipe's predictions are held: `LiveModel.key` of the same models; reads no weights."""
    return weights_key(recipe, digest_of(models.source.digest, json.dumps(models.base.config, sort_keys=True)))


def weights_key(recipe: Recipe, source_digest: str) -> str:
    """Changes with anything that can change the merged weights; the same setting has the same key."""
    values: dict[str, Any] = recipe.values()
    # Tasks in any order give the same weights; patterns and add-ons are taken in the order they are written.
    ordered = sorted((k, sorted(v.items(), key=str) if isinstance(v, Mapping) else v) for k, v in values.items())
    add_ons = [(name, sorted(given.items(), key=str)) for name, given in recipe.add_ons]
    return digest_of(source_digest, recipe.method, ordered, add_ons, recipe.seed, recipe.dtype)
