"""Checkpoints as modules ready to answer, with the layers on top that a task needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explorer.errors import CheckpointError, sentence
from explorer.evaluation._api import KINDS
from explorer.evaluation._task import EvaluationTask
from explorer.evaluation.models import bind, build_module, resolve
from explorer.seeds import digest_of

if TYPE_CHECKING:
    from explorer.checkpoints import Checkpoint


def load_module(
    checkpoint: Checkpoint | Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A checkpoint (opened, or its folder) as a module ready to answer; weights are converted once to `dtype`.

    Raises CheckpointError when the folder is no usable checkpoint, has no config.json, or lacks a parameter.
    """
    return Loaded(checkpoint, device=device, dtype=dtype)(None)


class Loaded:
    """A checkpoint as the modules that tasks need: its weights are read once, when a module is first asked for.

    Called with a task it gives the module of the task's kind, with the task's own layers on top where it has some;
    with None the bare model. Raises CheckpointError as `load_module`.
    """

    def __init__(
        self, checkpoint: Checkpoint | Path | str, *, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.checkpoint, self._device, self._dtype = opened(checkpoint), device, dtype
        self._tensors: dict[str, Tensor] = {}
        self._modules: dict[str, nn.Module] = {}

    def __call__(self, task: EvaluationTask | None) -> nn.Module:
        """The module that serves this task."""
        key = module_key(task)
        if key not in self._modules:
            module = module_of(self.checkpoint.config, task, self._device, self._dtype)
            wanted = resolve(module, module.state_dict(keep_vars=True), self.checkpoint.tensors).values()
            for name in wanted:
                if name not in self._tensors:
                    self._tensors[name] = self._ready(self.checkpoint.read(name))
            bind(module, {n: self._tensors[n] for n in wanted}, self._head(task))
            self._modules[key] = module
        return self._modules[key]

    def _ready(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

    def _head(self, task: EvaluationTask | None) -> dict[str, Tensor]:
        return {n: self._ready(t) for n, t in task.own_head.items()} if task else {}


def module_key(task: EvaluationTask | None) -> str:
    """Equal for tasks that the same module serves."""
    if task is None:
        return "AutoModel"
    auto, overrides = _architecture(task)
    return digest_of(auto, sorted(overrides.items(), key=str), task.digest) if task.own_head else auto


def module_of(
    config: Mapping[str, Any], task: EvaluationTask | None, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    """The module, still without values, that a task's kind asks for. Raises CheckpointError as `build_module`."""
    auto, overrides = _architecture(task)
    return build_module(config, device, dtype, auto=auto, overrides=overrides)


def _architecture(task: EvaluationTask | None) -> tuple[str, Mapping[str, Any]]:
    return (KINDS.get(task.kind).auto, task.config) if task else ("AutoModel", {})


def opened(checkpoint: Checkpoint | Path | str) -> Checkpoint:
    """An opened checkpoint that can be made a module of."""
    from explorer.checkpoints import open_checkpoint
    from explorer.checkpoints.adapter import Adapter

    if isinstance(checkpoint, (str, Path)):
        checkpoint = open_checkpoint(checkpoint)
    if isinstance(checkpoint, Adapter):
        advice = f"Write a recipe with {checkpoint.settings.trained_on} as base and the adapter as a task."
        must, got = "must be a whole model to be evaluated", "a PEFT adapter"
        raise CheckpointError(sentence(str(checkpoint.path), must, got, advice))
    if not checkpoint.config:
        advice = "Evaluate the folder that holds the weights and their config.json."
        must = "needs a config.json that says the architecture"
        raise CheckpointError(sentence(str(checkpoint.path), must, "none", advice))
    return checkpoint
