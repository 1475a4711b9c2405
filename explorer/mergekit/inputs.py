"""One output tensor and where it comes from; what is missing or does not fit is gathered, not raised one by one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.adapted import AdaptedCheckpoint
from explorer.checkpoints.groups import group_of
from explorer.mergekit.schema import Document, ModelRef, Source
from explorer.mergekit.trouble import Trouble

_SHOWN = 5
_EMBEDDING = re.compile(r"(?:embed_tokens|word_embeddings|wte|shared|tok_embeddings|embed_in)\.weight$")
_OUTPUT = re.compile(r"(?:lm_head|embed_out|predictions\.decoder|lm_head\.decoder)\.weight$")


@dataclass(frozen=True)
class Out:
    """One output tensor: its inputs as (model, tensor name), and the values of the method's parameters.

    `base`: the place of the base among the inputs, None where the method has none. `each`: per input. `copied`: no
    float, so it is copied, and the inputs must agree.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    inputs: tuple[tuple[ModelRef, str], ...]
    base: int | None
    copied: bool = False
    shared: Mapping[str, Any] = field(default_factory=dict)
    each: tuple[Mapping[str, Any], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as it is stored."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def tasks(self) -> tuple[int, ...]:
        """Places of the inputs that are not the base."""
        return tuple(i for i in range(len(self.inputs)) if i != self.base)

    def with_values(self, shared: Mapping[str, Any], each: Sequence[Mapping[str, Any]]) -> Out:
        """The same with the values of its parameters."""
        return replace(self, shared=shared, each=tuple(each))


class Missing:
    """What many tensors lack, so that it is said once."""

    def __init__(self) -> None:
        self.tensors: dict[ModelRef, list[str]] = {}
        self.shapes: list[tuple[str, tuple[tuple[int, ...], ...], tuple[ModelRef, ...]]] = []
        self.kinds: list[str] = []
        self.parameters: dict[tuple[str, str], tuple[int, str]] = {}

    def parameter(self, name: str, tensor: str, source: Source | None, document: Document) -> None:
        """A required parameter without a value."""
        model, line = (str(source.model), source.line or document.line) if source else ("", document.line)
        self.parameters.setdefault((name, model), (line, tensor))

    def report(self, trouble: Trouble) -> None:
        """Say it all."""
        for (name, model), (line, tensor) in self.parameters.items():
            who = f"{name} for {model}" if model else name
            advice = f"Add `parameters: {{{name}: …}}`; a filter that leaves tensors out needs a last `value` for all."
            trouble.say(line, who, "must have a value for every tensor", f"none for {tensor}", advice)
        for lacking, names in self.tensors.items():
            must = f"{lacking} must hold every tensor of the merge"
            trouble.say(1, "models", must, f"no {_listed(names)}", "Merge models of one architecture and one class.")
        vocabulary = [s for s in self.shapes if _is_vocabulary(*s[:2])]
        for name, shapes, models in vocabulary:
            got = f"{name} with " + ", ".join(f"{s[0]} rows in {m}" for s, m in zip(shapes, models, strict=True))
            advice = "Give the models one vocabulary first, or leave out the model whose tokens differ."
            trouble.say(1, "vocabulary", "all models must have the same tokens", got, advice)
        others = [s for s in self.shapes if s not in vocabulary]
        if others:
            name, shapes, models = others[0]
            got = f"{name} with " + ", ".join(f"{list(s)} in {m}" for s, m in zip(shapes, models, strict=True))
            more = f" and {len(others) - 1} more tensors" if len(others) > 1 else ""
            trouble.say(1, "shapes", "all inputs of a tensor must have one shape", got + more, "Merge models alike.")
        if self.kinds:
            must, got = "a tensor must be of floats in all models or in none", _listed(self.kinds)
            trouble.say(1, "tensors", must, got, "Save the models again in one precision.")


def out_tensor(
    name: str,
    inputs: Sequence[tuple[ModelRef, str]],
    base: ModelRef | None,
    models: Mapping[ModelRef, Checkpoint],
    document: Document,
    missing: Missing,
) -> Out | None:
    """The tensor with its inputs and shape; None where something is missing, which is then noted.

    A model that lacks an output head because it is tied to its embedding gives that embedding.
    """
    found = []
    for model, tensor in inputs:
        held = tensor if tensor in models[model].tensors else _tied(models[model], tensor)
        if held is None:
            missing.tensors.setdefault(model, []).append(tensor)
        else:
            found.append((model, held))
    if len(found) < len(inputs):
        return None
    infos = [models[m].info(n) for m, n in found]
    shapes = tuple(i.shape for i in infos)
    if len(set(shapes)) > 1:
        missing.shapes.append((name, shapes, tuple(m for m, _ in found)))
        return None
    if len({i.is_float for i in infos}) > 1:
        missing.kinds.append(name)
        return None
    place = next((i for i, (m, _) in enumerate(found) if m == base), None)
    dtype = _output_dtype([stored_dtype(models[m], n) for m, n in found], document)
    return Out(name, shapes[0], dtype, tuple(found), place, copied=not infos[0].is_float)


def _output_dtype(stored: Sequence[torch.dtype], document: Document) -> torch.dtype:
    dtype = stored[0]
    if not dtype.is_floating_point:
        return dtype
    named = document.out_dtype or document.dtype
    if named:
        return getattr(torch, named)
    for other in stored[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype


def stored_dtype(checkpoint: Checkpoint, name: str) -> torch.dtype:
    """The dtype of a tensor on disk: an adapter's change does not widen the base's."""
    return (checkpoint.base if isinstance(checkpoint, AdaptedCheckpoint) else checkpoint).info(name).dtype


def _tied(checkpoint: Checkpoint, name: str) -> str | None:
    if not _OUTPUT.search(name):
        return None
    return next((n for n in checkpoint.tensors if _EMBEDDING.search(n)), None)


def is_vocabulary(name: str) -> bool:
    """Whether the rows of a tensor stand for tokens."""
    return bool(_EMBEDDING.search(name) or _OUTPUT.search(name) or group_of(name).kind == "head")


def _is_vocabulary(name: str, shapes: Sequence[tuple[int, ...]]) -> bool:
    return is_vocabulary(name) and all(s and s[1:] == shapes[0][1:] for s in shapes)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
