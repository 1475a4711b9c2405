"""Weight matching: the order of hidden units that brings one network closest to another.

Hidden units have no names: a network whose units (rows of one layer, columns of the next) are shuffled computes the
same function. A permutation spec says which permutation acts on which axis of which tensor; `match` finds the
permutations. Paper: Git Re-Basin: Merging Models modulo Permutation Symmetries, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from explorer.errors import AlignmentError, CheckpointError, all_problems, sentence
from explorer.seeds import stable_seed

MAX_SWEEPS = 100
LEAST_GAIN = 1e-12
"""A better order must add at least this share of the inner product: below it, two orders differ by rounding."""
STAY = 1e-9
"""Bonus for a unit that keeps its place, as a share of the largest profit: exact ties move nothing."""

Axes = tuple[str | None, ...]
StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class PermutationSpec:
    """Tensor name -> for each of its axes the permutation that acts on it, None for none.

    One permutation on two axes of one tensor (a residual stream) is allowed; its gain is then taken with the other
    axis held, as in the published code.
    """

    axes: Mapping[str, Axes]

    @property
    def permutations(self) -> tuple[str, ...]:
        """Names of all permutations, in order of first use."""
        return tuple(dict.fromkeys(p for axes in self.axes.values() for p in axes if p is not None))

    def governed_by(self, permutation: str) -> list[tuple[str, int]]:
        """(tensor, axis) of everything that one permutation acts on."""
        return [(n, axis) for n, axes in self.axes.items() for axis, p in enumerate(axes) if p == permutation]

    def independent(self) -> list[PermutationSpec]:
        """The spec in parts that share no tensor: each can be matched alone, so only its tensors need be in memory.

        A tensor that no permutation acts on belongs to no part.
        """
        parts: list[dict[str, Axes]] = []
        for name, axes in self.axes.items():
            mine = {p for p in axes if p}
            if not mine:
                continue
            touching = [part for part in parts if mine & {p for other in part.values() for p in other if p}]
            joined = {n: a for part in touching for n, a in part.items()} | {name: axes}
            parts = [part for part in parts if part not in touching] + [joined]
        return [PermutationSpec(part) for part in parts]


@dataclass(frozen=True, eq=False)
class Matching:
    """Where each unit of the other network belongs: unit i of the reference is unit `permutations[p][i]` of the other.

    `gain`: how much a permutation added to the inner product of the two networks. Distances are
    ‖reference − other‖ / ‖reference‖ over the tensors of the spec, before and after; NaN for a reference of zeros.
    """

    permutations: Mapping[str, Tensor]
    gain: Mapping[str, float]
    sweeps: int
    distance_before: float
    distance_after: float

    @property
    def units(self) -> int:
        """Units of all permutations."""
        return sum(len(p) for p in self.permutations.values())

    @property
    def units_in_place(self) -> int:
        """Units that the best order leaves where they are."""
        return sum(int((p == torch.arange(len(p))).sum()) for p in self.permutations.values())

    @property
    def in_place(self) -> float:
        """Share of units that stay in place, 0-1; 1 for a spec without units."""
        return self.units_in_place / self.units if self.units else 1.0


def chain_spec(layers: Sequence[tuple[str, str | None]], *, input_axis: int = 1) -> PermutationSpec:
    """The spec of a multilayer perceptron: (weight, bias or None) of each layer from first to last.

    The units after each layer but the last are free: permutation P_i acts on the outputs of layer i and the inputs of
    layer i + 1. `input_axis` is the weights' axis of inputs: 1 for [out, in] (PyTorch), 0 for [in, out].
    Raises ValueError (a programming error) for another axis.
    """
    if input_axis not in (0, 1):
        raise ValueError(f"chain_spec: input_axis must be 0 or 1; got {input_axis}")
    axes: dict[str, Axes] = {}
    for index, (weight, bias) in enumerate(layers):
        before = f"P_{index - 1}" if index else None
        after = f"P_{index}" if index + 1 < len(layers) else None
        axes[weight] = (after, before) if input_axis else (before, after)
        if bias is not None:
            axes[bias] = (after,)
    return PermutationSpec(axes)


def sizes(spec: PermutationSpec, weights: StateDict) -> dict[str, int]:
    """Units of each permutation. Raises AlignmentError naming every tensor that does not fit the spec."""
    found: dict[str, int] = {}
    problems = []
    for name, axes in spec.axes.items():
        shape = tuple(weights[name].shape) if name in weights else None
        if shape is None or len(shape) != len(axes):
            got = "none" if shape is None else f"shape {list(shape)}"
            must = f"tensor {name} must be there with {len(axes)} axes"
            problems.append(sentence("matching", must, got, "Use a model of the same architecture."))
            continue
        for permutation, size in zip(axes, shape, strict=True):
            if permutation and found.setdefault(permutation, size) != size:
                must = f"every axis of permutation {permutation} must have {found[permutation]} units"
                problems.append(sentence("matching", must, f"{size} in {name}", "Mend the permutation spec."))
    if problems:
        raise AlignmentError(all_problems("matching", problems))
    return found


def match(
    reference: StateDict, other: StateDict, spec: PermutationSpec, *, seed: int = 0, max_sweeps: int = MAX_SWEEPS
) -> Matching:
    """Permutations of `other` that maximise Σ ⟨reference, permuted other⟩ over the tensors of the spec.

    Coordinate ascent from the identity: visit the permutations in an order drawn from `seed`, solve each exactly with
    the others held (a linear assignment of the profits Σ W_ref W_otherᵀ, float64), until a whole sweep gains nothing.
    The largest inner product is the smallest distance. A local optimum: several linked permutations may have better
    ones; a permutation that shares no tensor with another is optimal. Exact ties keep a unit in its place.
    Needs 8 n² bytes for n units; solving takes n³ steps at worst, n² where each unit's best partner is its own.
    Raises AlignmentError for tensors that do not fit the spec or each other, CheckpointError for NaN or Inf.
    """
    counts = sizes(spec, reference)
    if sizes(spec, other) != counts or any(reference[n].shape != other[n].shape for n in spec.axes):
        unlike = [n for n in spec.axes if reference[n].shape != other[n].shape]
        got = ", ".join(f"{n} {list(reference[n].shape)} and {list(other[n].shape)}" for n in unlike[:3])
        raise AlignmentError(
            sentence("matching", "both models must have the same shapes", got, "Use a model of the same architecture.")
        )
    ours, theirs = ({n: _finite(n, w[n]) for n in spec.axes} for w in (reference, other))
    permutations = {p: torch.arange(n) for p, n in counts.items()}
    gain = dict.fromkeys(counts, 0.0)
    sweeps, improved = 0, bool(counts)
    while improved and sweeps < max_sweeps:
        improved = False
        order = sorted(counts, key=lambda p: stable_seed("visit", seed, sweeps, p))
        sweeps += 1
        for name in order:
            better, more = _best(_profits(ours, theirs, spec, permutations, name), permutations[name])
            if better is not None:
                permutations[name], gain[name], improved = better, gain[name] + more, True
    after = permuted(theirs, spec, permutations)
    return Matching(permutations, gain, sweeps, _distance(ours, theirs), _distance(ours, after))


def permuted(weights: StateDict, spec: PermutationSpec, permutations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the spec with every governed axis reordered: new[i] = old[permutation[i]]. Others are left out.

    The network computes what it computed before, to the rounding of its sums.
    """
    return {name: _reordered(weights[name], axes, permutations) for name, axes in spec.axes.items()}


def inverse(permutation: Tensor) -> Tensor:
    """The permutation that undoes it."""
    return torch.argsort(permutation)


def _reordered(tensor: Tensor, axes: Axes, permutations: Mapping[str, Tensor], but: int | None = None) -> Tensor:
    for axis, name in enumerate(axes):
        if name is not None and axis != but:
            tensor = tensor.index_select(axis, permutations[name])
    return tensor


def _profits(
    ours: StateDict, theirs: StateDict, spec: PermutationSpec, permutations: Mapping[str, Tensor], name: str
) -> Tensor:
    """[n, n]: what it adds to the inner product to put unit j of the other network in place i."""
    count = len(permutations[name])
    total = torch.zeros(count, count, dtype=torch.float64)
    for tensor, axis in spec.governed_by(name):
        mine = ours[tensor].movedim(axis, 0).reshape(count, -1)
        other = _reordered(theirs[tensor], spec.axes[tensor], permutations, but=axis)
        total.addmm_(mine, other.movedim(axis, 0).reshape(count, -1).T)
    return total


def _best(profits: Tensor, current: Tensor) -> tuple[Tensor | None, float]:
    """The best order with what it adds to the current one's profit, or (None, 0) when none is better."""
    places = torch.arange(len(current))
    before = profits[places, current]
    favoured = profits.clone()
    favoured[places, current] += STAY * float(profits.abs().max()) if profits.numel() else 0.0
    # Where every place prefers a unit of its own, no assignment can be better than all preferences at once.
    best = favoured.argmax(1) if profits.numel() else places
    if len(torch.unique(best)) < len(best):
        from scipy.optimize import linear_sum_assignment  # takes a second to load, and siblings never need it

        best = torch.from_numpy(linear_sum_assignment(favoured.numpy(), maximize=True)[1])
    more = float((profits[places, best] - before).sum())
    return (best, more) if more > LEAST_GAIN * float(before.abs().sum() + 1e-300) else (None, 0.0)


def _finite(name: str, tensor: Tensor) -> Tensor:
    wide = tensor.detach().cpu().double()
    if not bool(torch.isfinite(wide).all()):
        must = f"tensor {name} must hold finite numbers"
        raise CheckpointError(sentence("matching", must, "NaN or Inf", "Check this checkpoint."))
    return wide


def _distance(ours: StateDict, theirs: StateDict) -> float:
    length = sqrt(sum(float(t.square().sum()) for t in ours.values()))
    return sqrt(sum(float((ours[n] - theirs[n]).square().sum()) for n in ours)) / length if length else float("nan")
