"""Which settings a sweep tries, and in which order: a coarse lattice first, then every lattice twice as fine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from explorer.errors import ParameterError, all_problems, sentence
from explorer.recipe import Recipe
from explorer.sweep_axes import Axis, axis_of, models_of, settled, task_axes

MOST_POINTS = {"sweep_curve": 101, "sweep_map": 25, "sweep_mix": 20}
"""Points of a curve, points a side of a map, steps along an edge of a triangle."""

Cell = tuple[int, ...]
"""A point's place on the grid: one number per axis; in a mix the parts of the total that each task gets."""


@dataclass(frozen=True)
class Sweep:
    """A recipe of which one number varies, or two, or three tasks' shares of a fixed total.

    `grid` holds each axis's values, ascending; of a mix one tuple, the shares 0 … `total`. `rounds` are the blocks of
    examples that each point is scored on (1: the quick balanced subset); None scores every example.
    """

    recipe: Recipe
    axes: tuple[Axis, ...]
    grid: tuple[tuple[float, ...], ...]
    total: float | None = None
    rounds: int | None = 1

    @property
    def kind(self) -> str:
        """The kind of result: sweep_curve, sweep_map or sweep_mix."""
        return "sweep_mix" if self.total is not None else ("sweep_curve" if len(self.axes) == 1 else "sweep_map")

    @cached_property
    def reach(self) -> Mapping[Cell, int]:
        """Every cell once, in the order it is scored, with how far it stands for others: half the lattice it is of.

        Half a lattice constant in steps of the grid; 0 on the finest one.
        """
        return _mix_order(len(self.grid[0]) - 1) if self.total is not None else _order([len(g) for g in self.grid])

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell once, coarse to fine."""
        return tuple(self.reach)

    def values_at(self, cell: Cell) -> tuple[float, ...]:
        """The numbers of a cell, one per axis."""
        grids = self.grid * len(cell) if self.total is not None else self.grid
        return tuple(values[i] for values, i in zip(grids, cell, strict=True))

    def recipe_at(self, cell: Cell) -> Recipe:
        """The recipe of a cell; every other setting is that of the sweep's recipe. Raises KeyError off the grid."""
        if cell not in self.reach:
            raise KeyError(cell)
        return _put(self, self.values_at(cell))

    def place_of(self, recipe: Recipe) -> tuple[float, ...] | None:
        """Where a recipe stands on the axes, on the grid or between; None where it has no place on them."""
        if not self.fits(recipe):
            return None
        values = [axis.value_of(recipe, self.recipe) for axis in self.axes]
        known = tuple(v for v in values if v is not None)
        if len(known) < len(values):
            return None
        inside = self.total is None or (math.isclose(sum(known), self.total, abs_tol=1e-4) and min(known) >= 0)
        return known if inside else None

    def fits(self, recipe: Recipe) -> bool:
        """Whether the axes are those of this recipe: the same models, method and add-ons."""
        own = self.recipe
        same = self.of_models(recipe) and recipe.method == own.method
        return same and [n for n, _ in recipe.add_ons] == [n for n, _ in own.add_ons]

    def of_models(self, recipe: Recipe) -> bool:
        """Whether the recipe merges the same weights."""
        return models_of(recipe) == models_of(self.recipe)

    def explores(self, recipe: Recipe) -> bool:
        """Whether this recipe differs from the sweep's in what is swept alone, so that its place means something."""
        place = self.place_of(recipe)
        return place is not None and settled(_put(self, place)) == settled(recipe)

    def continues(self, other: Sweep) -> bool:
        """Whether what this sweep scored is what the other one asks for: its own points may then be kept."""
        names = [[a.name for a in s.axes] for s in (self, other)]
        alike = names[0] == names[1] and (self.grid, self.total, self.rounds) == (other.grid, other.total, other.rounds)
        return alike and self.fits(other.recipe) and self._landscape() == other._landscape()

    def _landscape(self) -> tuple[Any, ...]:
        """What decides the weights of the first cell, and so of every other one on the same grid."""
        return settled(self.recipe_at(self.cells[0]))


def plan_curve(recipe: Recipe, axis: str, *, low: float, high: float, points: int, rounds: int | None = 1) -> Sweep:
    """A sweep of one number over `points` values from `low` to `high`, both included, on the steps of its control.

    Raises ParameterError naming every problem: an unknown number, an illegal or empty range, too many points.
    """
    return _plan(recipe, "sweep_curve", [(axis, low, high, points)], rounds)


def plan_map(
    recipe: Recipe, first: tuple[str, float, float, int], second: tuple[str, float, float, int], rounds: int | None = 1
) -> Sweep:
    """A sweep of two numbers, each given as (axis, low, high, points). Raises as `plan_curve`."""
    return _plan(recipe, "sweep_map", [first, second], rounds)


def plan_mix(recipe: Recipe, tasks: Sequence[str], *, total: float, steps: int, rounds: int | None = 1) -> Sweep:
    """Every way to share a fixed total of the coefficient among three tasks, in `steps` equal parts.

    The other tasks keep theirs. Raises ParameterError naming every problem.
    """
    axes = {a.task: a for a in task_axes(recipe)}
    problems = []
    if not axes:
        advice = "Choose a method with a scale or a weight per task."
        problems.append(sentence("sweep", "a mix needs a coefficient per task", repr(recipe.method), advice))
    elif len(tasks) != 3 or len(set(tasks)) != 3 or any(t not in axes for t in tasks):
        must, got = "a mix is of three different tasks of this merge", ", ".join(map(repr, tasks)) or "none"
        problems.append(sentence("sweep", must, got, "Choose three."))
    problems += _count_problems("sweep_mix", "steps", steps)
    high = next(iter(axes.values())).ends[1] if axes else math.inf
    if not (isinstance(total, (int, float)) and math.isfinite(total) and 0 < total <= high):
        must = f"the total must be in (0, {high:g}], as one task may get all of it"
        problems.append(sentence("sweep", must, repr(total), "Use a smaller total."))
    if problems:
        raise ParameterError(all_problems("sweep", problems))
    shares = tuple(round(total * i / int(steps), 6) for i in range(int(steps) + 1))
    return Sweep(recipe, tuple(axes[t] for t in tasks), (shares,), float(total), rounds)


def _plan(recipe: Recipe, kind: str, wanted: Sequence[tuple[str, float, float, int]], rounds: int | None) -> Sweep:
    axes, problems = [], []
    for name, low, high, points in wanted:
        problems += _count_problems(kind, "points", points)
        try:
            axes.append(axis := axis_of(recipe, name))
            _check_ends(axis, low, high)
        except ParameterError as error:
            problems.append(str(error))
    if len({a.name for a in axes}) < len(axes):
        problems.append(sentence("sweep", "the two numbers must differ", f"{axes[0].label!r} twice", "Choose another."))
    elif len(axes) > 1 and len({a.spec.name for a in axes}) == 1 and not all(a.task or a.add_on for a in axes):
        got = " and ".join(repr(a.label) for a in axes)
        must = "the two numbers must not set the same thing"
        problems.append(sentence("sweep", must, got, "Choose two tasks, or another parameter."))
    if problems:
        raise ParameterError(all_problems("sweep", problems))
    grid = tuple(_values(a, float(lo), float(hi), int(n)) for a, (_, lo, hi, n) in zip(axes, wanted, strict=True))
    return Sweep(recipe, tuple(axes), grid, None, rounds)


def _check_ends(axis: Axis, low: Any, high: Any) -> None:
    for end in (low, high):
        axis.spec.check(end, who="sweep")
    if not float(low) < float(high):
        must = f"the range of {axis.label} must go up"
        raise ParameterError(sentence("sweep", must, f"{low} to {high}", "Make the first end the smaller."))


def _count_problems(kind: str, what: str, given: Any) -> list[str]:
    number = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    if number and given == int(given) and 2 <= given <= MOST_POINTS[kind]:
        return []
    must = f"{what} must be a whole number in [2, {MOST_POINTS[kind]}]"
    return [sentence("sweep", must, repr(given), "Fewer points are quicker.")]


def _values(axis: Axis, low: float, high: float, points: int) -> tuple[float, ...]:
    """Equally spaced values, moved onto the control's steps where these are finer than the spacing."""
    spaced = np.linspace(low, high, points)
    step = axis.step
    if step and (high - low) / (points - 1) >= step * (1 - 1e-9):
        spaced = np.clip(np.round(spaced / step) * step, low, high)
    digits = 0 if axis.spec.type is int else 6
    return tuple(dict.fromkeys(float(round(v, digits)) + 0.0 for v in spaced.tolist()))


def _order(sizes: Sequence[int]) -> dict[Cell, int]:
    """The cells of a grid in the order of scoring, with their reach; the far ends belong to the coarsest lattice."""
    coarsest = 1 << max(0, int(math.log2(max(1, (max(sizes) - 1) // 2))))
    order: dict[Cell, int] = {}
    stride = coarsest
    while stride:
        on = [[i for i in range(n) if i % stride == 0 or i == n - 1] for n in sizes]
        for cell in itertools.product(*reversed(on)):
            order.setdefault(cell[::-1], stride // 2)
        stride //= 2
    return order


def _mix_order(steps: int) -> dict[Cell, int]:
    """The same for the points of a triangle: three whole numbers whose sum is `steps`."""
    order: dict[Cell, int] = {}
    stride = steps & -steps
    while stride:
        for i in range(0, steps + 1, stride):
            for j in range(0, steps - i + 1, stride):
                order.setdefault((i, j, steps - i - j), stride // 2)
        stride //= 2
    return order


def _put(sweep: Sweep, values: Sequence[float]) -> Recipe:
    recipe = sweep.recipe
    for axis, value in zip(sweep.axes, values, strict=True):
        recipe = axis.put(recipe, value)
    return recipe
