"""The configuration of the output: the donor's, with dtype, layers and vocabulary as they are after the merge."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from explorer.checkpoints import Checkpoint
from explorer.mergekit.inputs import Out
from explorer.mergekit.layers import Layout, layer_key, per_layer_keys
from explorer.mergekit.schema import Document, ModelRef

Taken = Mapping[str, Sequence[tuple[ModelRef, int]]]
"""Per stack, the model and the layer that lead each output layer."""


def planned_config(
    document: Document,
    models: Mapping[ModelRef, Checkpoint],
    donor: ModelRef,
    layout: Layout,
    taken: Taken,
    outs: Sequence[Out],
) -> dict[str, Any]:
    """The donor's configuration with the number of layers, lists that have one entry per layer, and the dtype."""
    config: dict[str, Any] = copy.deepcopy(dict(models[donor].config))
    if not config:
        return config
    for stack in layout.stacks:
        led = taken.get(stack.prefix, ())
        place = layer_key(config, stack)
        if place is None or [i for _, i in led] == list(range(stack.count)):
            continue
        held, key = place
        assert isinstance(held, dict)
        for name in per_layer_keys(held, stack.count):
            held[name] = [_of(models[model], name, layer, held[name]) for model, layer in led]
        held[key] = len(led)
    dtype = document.out_dtype or document.dtype or _common(outs)
    if dtype:
        config["dtype"] = dtype
        if "torch_dtype" in config:
            config["torch_dtype"] = dtype
    return config


def _of(checkpoint: Checkpoint, name: str, layer: int, fallback: Sequence[Any]) -> Any:
    """What a model's own list says of one of its layers."""
    places = [checkpoint.config, *(v for v in checkpoint.config.values() if isinstance(v, Mapping))]
    lists = [p[name] for p in places if isinstance(p.get(name), list)]
    own = next((v for v in lists if layer < len(v)), fallback)
    return own[min(layer, len(own) - 1)]


def _common(outs: Sequence[Out]) -> str | None:
    """The dtype of most numbers."""
    counts: Counter[str] = Counter()
    for out in outs:
        if not out.copied:
            counts[str(out.dtype).removeprefix("torch.")] += out.nbytes // out.dtype.itemsize
    return counts.most_common(1)[0][0] if counts else None
