"""A task's coefficient as a curve over depth: a multiplier for each place of the network, and back from patterns.

    coefficient of a tensor = the task's coefficient x the multiplier of the tensor's place

A place is a knot over depth (embeddings, each block or thirds of many, what comes after) and a lane (the kind of
module: attention, mlp, norm, rest). A `Curve` holds numbers of lanes that are not flat. What a recipe holds are plain
patterns (`explorer.blocks`), whose last one, `*`, is the task's coefficient itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from explorer.blocks import block_value, compact
from explorer.checkpoints.groups import OTHER, STACK_STRIDE, Group, group_of

LANES = ("attention", "mlp", "norm", "rest")
LOWEST, HIGHEST = 0.0, 2.0
"""Range of a multiplier."""
MOST_BLOCKS = 16
"""More blocks than these are taken together, as thirds of each stack."""
_AFTER_BLOCKS = STACK_STRIDE - 2
_DECIMALS = 6

Curve = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Knot:
    """One place over depth: a short label, its full name, and how deep its blocks lie (0 first, 1 last)."""

    label: str
    title: str
    depth: float | None = None


@dataclass(frozen=True)
class Places:
    """The knots of a model in depth order, and of every tensor its name, lane and knot."""

    knots: tuple[Knot, ...]
    tensors: tuple[tuple[str, str, int], ...]

    def holds(self, lane: str) -> tuple[bool, ...]:
        """At which knots the lane has a tensor."""
        held = {knot for _, own, knot in self.tensors if own == lane}
        return tuple(i in held for i in range(len(self.knots)))


@lru_cache(maxsize=32)
def places_of(names: tuple[str, ...]) -> Places:
    """Where the tensors of a merge lie. Blocks are taken as thirds of their stack where there are more than 16."""
    groups = {n: group_of(n) for n in names}
    layers = {(g.layer_index, g.layer): g for g in groups.values()}
    blocks = [g for _, g in sorted(layers.items()) if _is_block(g)]
    knots: dict[str, Knot] = {}
    for _, group in sorted(layers.items()):
        knots[group.layer] = _block_knot(group, blocks) if _is_block(group) else _outer_knot(group)
    order = list(dict.fromkeys(knots.values()))
    place = {layer: order.index(knot) for layer, knot in knots.items()}
    return Places(tuple(order), tuple((n, _lane(g.kind), place[g.layer]) for n, g in groups.items()))


def _is_block(group: Group) -> bool:
    return group.layer_index % STACK_STRIDE < _AFTER_BLOCKS


def _outer_knot(group: Group) -> Knot:
    """The knot of what lies in no block: embeddings, what follows the blocks, or other."""
    stack, _, word = group.layer.rpartition(" ")
    short = {"embeddings": "emb", "final": "end", OTHER: "rest"}.get(word, word)
    return Knot(f"{stack[:1]} {short}".strip(), group.layer)


def _block_knot(group: Group, blocks: Sequence[Group]) -> Knot:
    """The knot of one block: its own, or that of its third of the stack."""
    stack = group.layer_index // STACK_STRIDE
    word = group.layer.rpartition(" ")[0]
    letter = "" if word == "layer" else word[:1]
    numbers = [g.layer_index % STACK_STRIDE for g in blocks if g.layer_index // STACK_STRIDE == stack]
    last = max(1, numbers[-1])
    number = group.layer_index % STACK_STRIDE
    if len(blocks) <= MOST_BLOCKS or len(numbers) < 3:
        return Knot(f"{letter}{number}", group.layer, number / last)
    cuts = [len(numbers) * i // 3 for i in range(4)]
    third = next(numbers[a:b] for a, b in pairwise(cuts) if number in numbers[a:b])
    depth = sum(third) / len(third) / last
    title = f"{'layers' if word == 'layer' else word} {third[0]} to {third[-1]}"
    return Knot(f"{letter}{third[0]}–{third[-1]}", title, depth)


def _lane(kind: str) -> str:
    if kind.startswith(("attention", "cross-attention", "fused qkv")):
        return "attention"
    return "mlp" if kind.startswith("mlp") else "norm" if kind == "norm" else "rest"


def presets(places: Places) -> dict[str, tuple[float, ...]]:
    """Named curves: a multiplier for each knot.

    With t = 0 at the first knot and 1 at the last: ramp up t, ramp down 1 − t, middle only 1 in the middle third and 0
    elsewhere; LiNeS 0.5 + 0.5 · depth of the block, 0.5 outside the blocks (α = β = 0.5 of the paper).
    """
    count = len(places.knots)
    along = [i / (count - 1) if count > 1 else 0.5 for i in range(count)]
    reach = max(1 / 6 + 1e-9, min((abs(t - 0.5) for t in along), default=0))
    made = {
        "flat": [1.0] * count,
        "ramp up": along,
        "ramp down": [1 - t for t in along],
        "middle only": [float(abs(t - 0.5) <= reach) for t in along],
        "LiNeS": [0.5 + 0.5 * (knot.depth or 0.0) for knot in places.knots],
    }
    return {name: tuple(round(v, 3) for v in values) for name, values in made.items()}


def blocks_of(scale: float, curve: Curve, places: Places, low: float, high: float) -> float | dict[str, float]:
    """The value of a recipe for a coefficient and its curve: one number where the curve changes nothing, else patterns.

    Each tensor takes scale x multiplier, rounded to six decimals and kept in `low`..`high`.
    """
    lanes = tuple((lane, tuple(curve[lane])) for lane in LANES if lane in curve)
    made = _blocks_of(scale, lanes, places, low, high)
    return dict(made) if isinstance(made, Mapping) else made


@lru_cache(maxsize=512)
def _blocks_of(
    scale: float, lanes: tuple[tuple[str, tuple[float, ...]], ...], places: Places, low: float, high: float
) -> float | Mapping[str, float]:
    curve = dict(lanes)
    values = {
        name: _product(scale, curve[lane][knot], low, high) if lane in curve else scale
        for name, lane, knot in places.tensors
    }
    return scale if all(v == scale for v in values.values()) else compact(values, scale)


def _product(scale: float, multiplier: float, low: float, high: float) -> float:
    if multiplier == 1:
        return scale
    return min(max(round(scale * multiplier, _DECIMALS), low), high)


def curve_of(value: Any, default: float, places: Places, low: float, high: float) -> tuple[float, Curve | None]:
    """A recipe's value as a coefficient and its curve; the curve is None where none gives these very values.

    The coefficient is the last number written, which `*` stands for in what `blocks_of` makes. A plain number has the
    flat curve. A coefficient of 0 has no curve beside the flat one.
    """
    if not isinstance(value, Mapping):
        return float(value), {}
    scale, found = _curve_of(tuple(value.items()), default, places, low, high)
    return scale, None if found is None else dict(found)


@lru_cache(maxsize=512)
def _curve_of(
    items: tuple[tuple[str, float], ...], default: float, places: Places, low: float, high: float
) -> tuple[float, Curve | None]:
    patterns = dict(items)
    scale = float(items[-1][1]) if items else default
    wanted = {name: float(block_value(patterns, name, default)) for name, _, _ in places.tensors}
    found = {value: _multiplier(value, scale, low, high) for value in dict.fromkeys(wanted.values())}
    curve = {lane: [1.0] * len(places.knots) for lane in LANES}
    for name, lane, knot in places.tensors:
        curve[lane][knot] = found[wanted[name]]
    # Not a number differs from itself: a value without a multiplier has no curve.
    if any(curve[lane][knot] != found[wanted[name]] for name, lane, knot in places.tensors):
        return scale, None
    return scale, {lane: tuple(values) for lane, values in curve.items() if any(m != 1 for m in values)}


def _multiplier(value: float, scale: float, low: float, high: float) -> float:
    """The roundest multiplier that gives the value; not a number where none does."""
    if value == scale:
        return 1.0
    if scale == 0:
        return math.nan
    tries = (round(value / scale, digits) for digits in (3, 4, 5, 8))
    fits = (m for m in tries if LOWEST <= m <= HIGHEST and _product(scale, m, low, high) == value)
    return next(fits, math.nan)
