"""Layers of a model, found in the names of its tensors: stacks of numbered blocks, and what lies around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from explorer.checkpoints.groups import EMBEDDINGS, block_of, group_of

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers")
_COUNTS_OF_STACK = {
    "encoder": ("encoder_layers", "num_layers", "num_encoder_layers", "num_hidden_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers", "num_hidden_layers"),
}
_PARTS = {
    "text_decoder": ("language_model", "text_model", "decoder", "model"),
    "vision_tower": ("vision_tower", "vision_model", "visual"),
    "text_encoder": ("text_model", "encoder"),
}
"""Names that recipes have for the modules of models with several stacks, and the parts of tensor names they mean."""


@dataclass(frozen=True)
class Stack:
    """One run of numbered blocks. `prefix` is the text before the number, such as "model.layers."."""

    prefix: str
    count: int
    suffixes: tuple[tuple[str, ...], ...]
    """Texts after the number, of every layer, in the order of the names."""

    def name(self, layer: int, suffix: str) -> str:
        """The name of a tensor of one layer."""
        return f"{self.prefix}{layer}{suffix}"


@dataclass(frozen=True)
class Layout:
    """Stacks in the order of their names, and the tensors outside of them: `first` before the layers, `last` after."""

    stacks: tuple[Stack, ...]
    first: tuple[str, ...]
    last: tuple[str, ...]

    def stack(self, prefix: str) -> Stack | None:
        """The stack of that prefix."""
        return next((s for s in self.stacks if s.prefix == prefix), None)


def layout_of(names: Iterable[str]) -> Layout:
    """Where every tensor lies. Blocks that are numbered with gaps, or not from 0, count as they are numbered."""
    found: dict[str, dict[int, list[str]]] = {}
    outside = []
    for name in names:
        block = block_of(name)
        if block is None:
            outside.append(name)
        else:
            found.setdefault(block[0], {}).setdefault(block[1], []).append(block[2])
    stacks = []
    for prefix, layers in sorted(found.items()):
        count = max(layers) + 1
        if count > 10_000:  # a number that is no layer
            outside += [f"{prefix}{layer}{suffix}" for layer, held in layers.items() for suffix in held]
            continue
        stacks.append(Stack(prefix, count, tuple(tuple(sorted(layers.get(i, ()))) for i in range(count))))
    first = tuple(n for n in outside if EMBEDDINGS in group_of(n).layer)
    return Layout(tuple(stacks), first, tuple(n for n in outside if n not in set(first)))


def stacks_of_module(module: str, stacks: Iterable[Stack]) -> list[str]:
    """Prefixes of the stacks that a module of a recipe means: those whose prefix has its name as a part."""
    every = list(stacks)
    if module == "default":
        return [s.prefix for s in every]
    wanted = (module, *_PARTS.get(module, ()))
    for name in wanted:
        found = [s.prefix for s in every if name in s.prefix.split(".")]
        if found:
            return found
    return []


def module_of(name: str, owners: Mapping[str, str], first: str) -> str:
    """The module that a tensor outside the stacks belongs to: the one whose stack shares most of its name's parts.

    `owners`: prefix of a stack -> module; `first` where nothing is shared.
    """
    parts, best, most = name.split("."), first, 0
    for prefix, module in owners.items():
        shared = 0
        for mine, theirs in zip(parts, prefix.split(".")[:-2], strict=False):
            if mine != theirs:
                break
            shared += 1
        if shared > most:
            best, most = module, shared
    return best


def layer_key(config: Mapping[str, Any], stack: Stack) -> tuple[Mapping[str, Any], str] | None:
    """The part of a configuration, and its key, that says how many layers a stack has; None where nothing fits.

    Nested parts such as text_config are looked through as well; a key whose number is the stack's count wins.
    """
    named = [key for part in stack.prefix.split(".") for key in _COUNTS_OF_STACK.get(part, ())]
    places = [config, *(v for v in config.values() if isinstance(v, Mapping))]
    for key in dict.fromkeys((*named, *_COUNTS)):
        for place in places:
            if place.get(key) == stack.count:
                return place, key
    return None


def per_layer_keys(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Keys of lists with one entry per layer, such as layer_types."""
    return tuple(k for k, v in config.items() if isinstance(v, list) and len(v) == count and "layer" in k)
