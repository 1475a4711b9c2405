"""Which hidden units of a checkpoint may change places without changing what the model computes.

In a transformer these are the units between the two matrices of each feed-forward network: rows of the matrices that
lead in (up and gate, with their biases), columns of the one that leads out. Read from tensor names and shapes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.checkpoints.groups import group_of
from explorer.checkpoints.handle import Checkpoint
from explorer.compute.matching import Axes, PermutationSpec, chain_spec

_MODULE = re.compile(r"^(?:(?P<owner>.*?)\.)??(?:intermediate\.dense|output\.dense|[^.]+)\.(?P<part>weight|bias)$")
_KINDS = {"mlp in": "in", "mlp gate": "gate", "mlp out": "out"}
_INPUTS_FIRST = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Model types whose matrices are stored [in, out]; asked only where the shapes do not tell."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class HiddenUnits:
    """The spec of a checkpoint's free hidden units, and a sentence for every feed-forward network left out."""

    spec: PermutationSpec
    left_out: tuple[str, ...] = ()


def hidden_units(checkpoint: Checkpoint) -> HiddenUnits:
    """Units of the feed-forward networks; where the whole model is a chain of linear layers, those between them."""
    shapes = {n: i.shape for n, i in checkpoint.tensors.items() if i.is_float}
    chain = chain_units(shapes)
    return HiddenUnits(chain) if chain.axes else feed_forward_units(shapes, checkpoint.config)


def feed_forward_units(shapes: Shapes, config: Mapping[str, Any] | None = None) -> HiddenUnits:
    """One permutation per feed-forward network, named after the module that holds it.

    Knows what `group_of` knows: BERT, ViT, GPT-2, Llama and their relatives, experts one by one. Left out, with the
    reason: fused or stacked matrices, and networks with another tensor over their units, such as a norm inside.
    """
    owners: dict[str, dict[str, str]] = {}
    for name in shapes:
        role, found = _KINDS.get(group_of(name).kind), _MODULE.match(name)
        if role and found:
            owners.setdefault(found["owner"] or "", {}).setdefault(f"{role} {found['part']}", name)
    inputs_first = (config or {}).get("model_type") in _INPUTS_FIRST
    axes: dict[str, Axes] = {}
    left_out = []
    for owner, parts in owners.items():
        if "in weight" in parts or "gate weight" in parts or "out weight" in parts:
            made = _network(owner, parts, shapes, inputs_first)
            if isinstance(made, str):
                left_out.append(f"{owner or 'the model'}: {made}")
            else:
                axes |= made
    return HiddenUnits(PermutationSpec(axes), tuple(left_out))


def _network(owner: str, parts: Mapping[str, str], shapes: Shapes, inputs_first: bool) -> dict[str, Axes] | str:
    """The axes of one feed-forward network, or why its units cannot be told."""
    if not {"in weight", "out weight"} <= set(parts):
        return "left out; its matrices are fused, or one of them is missing"
    weights = [parts[p] for p in ("in weight", "gate weight", "out weight") if p in parts]
    if any(len(shapes[w]) != 2 for w in weights):
        return "left out; its matrices are stacked"
    into, out = shapes[parts["in weight"]], shapes[parts["out weight"]]
    bias = shapes[parts["in bias"]] if "in bias" in parts else None
    first = _inputs_first(into, bias, inputs_first)
    units, width = into[::-1] if first else into
    fits = out == ((units, width) if first else (width, units))
    gates = [p for p in ("weight", "bias") if f"gate {p}" in parts]
    alike = all(shapes[parts[f"gate {p}"]] == shapes.get(parts.get(f"in {p}", "")) for p in gates)
    if not fits or not alike:
        return "left out; the shapes of its matrices do not fit each other"
    inside = [n for n in shapes if _inside(n, owner) and n not in parts.values() and units in shapes[n]]
    if inside and units != width:
        return f"left out; {inside[0]} acts on its units too"
    leading: Axes = (None, owner) if first else (owner, None)
    made: dict[str, Axes] = {parts[f"{r} weight"]: leading for r in ("in", "gate") if f"{r} weight" in parts}
    made |= {parts[f"{r} bias"]: (owner,) for r in ("in", "gate") if f"{r} bias" in parts}
    return {**made, parts["out weight"]: leading[::-1]}


def _inputs_first(into: tuple[int, ...], bias: tuple[int, ...] | None, otherwise: bool) -> bool:
    """Whether a matrix is stored [in, out]: its bias has one number per unit; a square matrix or no bias leaves it."""
    if bias is None or into[0] == into[1]:
        return otherwise
    return into[1] == bias[0]


def _inside(name: str, owner: str) -> bool:
    """Whether a tensor belongs to the same module; attention has units of its own, whatever their number."""
    return name.startswith(f"{owner}." if owner else "") and not group_of(name).kind.startswith(
        ("attention", "cross-attention", "fused qkv")
    )


def chain_units(shapes: Shapes) -> PermutationSpec:
    """The spec of linear layers in a row, where the tensors are just that: each takes what the one before gives.

    Layers are taken in the order of the numbers in their names. An empty spec for anything else.
    """
    weights = sorted((n for n in shapes if n.endswith("weight")), key=_natural)
    layers: list[tuple[str, str | None]] = []
    for name in weights:
        bias = name.removesuffix("weight") + "bias"
        layers.append((name, bias if bias in shapes else None))
    named = {n for layer in layers for n in layer if n}
    plain = len(layers) > 1 and named == set(shapes) and all(len(shapes[w]) == 2 for w in weights)
    return chain_spec(layers) if plain and _is_chain(layers, shapes) else PermutationSpec({})


def _is_chain(layers: Sequence[tuple[str, str | None]], shapes: Shapes) -> bool:
    fits = all(shapes[a][0] == shapes[b][1] for (a, _), (b, _) in itertools.pairwise(layers))
    return fits and all(bias is None or shapes[bias] == shapes[weight][:1] for weight, bias in layers)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]
