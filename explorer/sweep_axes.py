"""What a sweep may vary: every number that a merge has, for all tasks together or for one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from explorer.errors import ParameterError, near, sentence
from explorer.merging import ADD_ONS, METHODS
from explorer.params import Range, Spec, check_values
from explorer.recipe import Recipe

COEFFICIENTS = ("scale", "weight")
"""The per-task parameter that each task has an axis of its own for: the first of these that a method has."""

_DIGITS = 6


@dataclass(frozen=True)
class Axis:
    """One number of a recipe that may vary.

    `spec` declares what it may be. With `task` it is that task's own; with `add_on` a setting of that add-on; else all
    tasks get the same number. `factor`: the number multiplies what each task has, so their proportions stay.
    """

    name: str
    label: str
    spec: Spec
    task: str | None = None
    add_on: str | None = None
    factor: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest legal value, an open end one step inside."""
        low, high = self.spec.edges()
        return float(low), float(high)

    @property
    def usual(self) -> tuple[float, float]:
        """The range to begin with: all that is legal, without what is below 0, where merging means forgetting."""
        low, high = self.ends
        return (max(0.0, low), high) if high > 0 else (low, high)

    @property
    def step(self) -> float:
        """What a control of it moves by; 0 where the declaration does not say."""
        allowed = self.spec.allowed
        given = allowed.step if isinstance(allowed, Range) else None
        return float(given or (1 if self.spec.type is int else 0))

    def put(self, recipe: Recipe, value: float) -> Recipe:
        """The recipe with this number; everything else stays. Whole-number parameters are rounded."""
        number: Any = round(value) if self.spec.type is int else float(value)
        if self.add_on:
            return _with_add_on(recipe, self.add_on, self.spec.name, number)
        if self.factor:
            return _per_task(recipe, self.spec.name, {t: _times(v, value) for t, v in _several(recipe, self).items()})
        if self.task:
            return _per_task(recipe, self.spec.name, {**_several(recipe, self), self.task: number})
        if any(self.spec.name in t.parameters for t in recipe.tasks):
            return _per_task(recipe, self.spec.name, dict.fromkeys(recipe.task_names, number))
        return recipe.with_parameters(**{self.spec.name: number})

    def value_of(self, recipe: Recipe, start: Recipe) -> float | None:
        """Where a recipe stands on this axis; None where that is no single number. `start` is what a factor is of."""
        if self.add_on:
            given = dict(recipe.add_ons).get(self.add_on)
            return None if given is None else _number(given.get(self.spec.name, self.spec.default))
        now = _several(recipe, self)
        if self.task:
            return _number(now.get(self.task))
        if self.factor:
            return _ratio(now, _several(start, self))
        values = set(map(str, now.values()))
        return _number(next(iter(now.values()))) if len(values) == 1 else None


def axes_of(recipe: Recipe) -> tuple[Axis, ...]:
    """Every number of the recipe's method and add-ons that a sweep may vary: the coefficients first.

    Raises UnknownNameError for an unknown method or add-on.
    """
    method = METHODS.get(recipe.method)
    numbers = [s for s in method.specs if isinstance(s.allowed, Range)]
    mixed = next((s for name in COEFFICIENTS for s in numbers if s.name == name and s.per_task), None)
    several = len(recipe.tasks) > 1
    made: list[Axis] = []
    if mixed:
        made.append(Axis(mixed.name, f"{mixed.label} of all tasks" if several else mixed.label, mixed))
        made += [f for f in [_factor(recipe, mixed)] if f]
        own = recipe.task_names if several else ()
        made += [Axis(f"{mixed.name} of {t}", f"{mixed.label} of {t}", mixed, task=t) for t in own]
    rest = sorted((s for s in numbers if s is not mixed), key=lambda s: s.advanced)
    made += [Axis(s.name, f"{s.label} of all tasks" if s.per_task and several else s.label, s) for s in rest]
    for name, given in dict(recipe.add_ons).items():
        add_on = ADD_ONS.get(name)
        free = [s for s in add_on.specs if isinstance(s.allowed, Range) and not isinstance(given.get(s.name), Mapping)]
        made += [Axis(f"{name}: {s.name}", f"{add_on.title}: {s.label}", s, add_on=name) for s in free]
    return tuple(made)


def task_axes(recipe: Recipe) -> tuple[Axis, ...]:
    """The axes of single tasks: what a mix of three is made of. Empty where the method has no coefficient per task."""
    return tuple(a for a in axes_of(recipe) if a.task)


def axis_of(recipe: Recipe, name: str) -> Axis:
    """An axis by name. Raises ParameterError with near names."""
    known = {a.name: a for a in axes_of(recipe)}
    if name not in known:
        raise ParameterError(sentence("sweep", "varies a number of this merge", repr(name), near(str(name), known)))
    return known[name]


def settled(recipe: Recipe) -> tuple[Any, ...]:
    """Everything that decides the merged weights, the same for every way to write it. Raises as `check_values`."""
    method = METHODS.get(recipe.method)
    checked = check_values(method.specs, recipe.values(), who=method.name, tasks=recipe.task_names)
    several = {s.name for s in method.specs if s.per_task}
    for name in several:
        if not isinstance(checked[name], Mapping):
            checked[name] = dict.fromkeys(recipe.task_names, checked[name])
    add_ons = [(n, check_values(ADD_ONS.get(n).specs, given, who=n)) for n, given in recipe.add_ons]
    return recipe.method, checked, add_ons, recipe.dtype, recipe.seed, models_of(recipe)


def models_of(recipe: Recipe) -> tuple[Any, ...]:
    """What of a recipe says which weights are merged."""
    tasks = sorted((t.name, t.checkpoint, t.statistics) for t in recipe.tasks)
    return recipe.base, tasks, recipe.policy, recipe.include, recipe.exclude


def _factor(recipe: Recipe, spec: Spec) -> Axis | None:
    """The axis that keeps the tasks' proportions, where they differ: from 0 to the largest legal factor."""
    now = _several(recipe, Axis(spec.name, spec.label, spec))
    numbers = [n for v in now.values() for n in (v.values() if isinstance(v, Mapping) else (v,))]
    if len(set(map(str, now.values()))) < 2 or not any(numbers) or not isinstance(spec.allowed, Range):
        return None
    low, high = spec.edges()
    most = min((high if n > 0 else low) / n for n in numbers if n)
    if most <= 0:
        return None
    step = spec.allowed.step or 0.01
    top = int(most / step * (1 + 1e-9)) * step
    shape = replace(spec, type=float, default=1.0, allowed=Range(0, round(top, _DIGITS), step=step), per_task=False)
    return Axis(f"{spec.name} times", f"{spec.label} of every task, times", shape, factor=True)


def _several(recipe: Recipe, axis: Axis) -> dict[str, Any]:
    """A method parameter's value for every task, the default where the recipe gives none."""
    spec = next(s for s in METHODS.get(recipe.method).specs if s.name == axis.spec.name)
    value = spec.check(recipe.values().get(spec.name, spec.default), who=recipe.method, tasks=recipe.task_names)
    per_task = spec.per_task and isinstance(value, Mapping) and set(value) == set(recipe.task_names)
    return dict(value) if per_task else dict.fromkeys(recipe.task_names, value)


def _per_task(recipe: Recipe, name: str, values: Mapping[str, Any]) -> Recipe:
    tasks = tuple(replace(t, parameters={**t.parameters, name: values[t.name]}) for t in recipe.tasks)
    return replace(recipe, tasks=tasks, parameters={k: v for k, v in recipe.parameters.items() if k != name})


def _with_add_on(recipe: Recipe, name: str, setting: str, number: Any) -> Recipe:
    changed = tuple((n, {**given, setting: number} if n == name else given) for n, given in recipe.add_ons)
    return replace(recipe, add_ons=changed)


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, Mapping):
        return {pattern: _times(one, factor) for pattern, one in value.items()}
    return round(float(value) * factor, _DIGITS)


def _ratio(now: Mapping[str, Any], start: Mapping[str, Any]) -> float | None:
    """The one factor that leads from the start to now, to the digits that recipes keep; None where there is none."""
    pairs = [(_number(now.get(t)), _number(v)) for t, v in start.items()]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(known) < len(pairs) or not any(b for _, b in known):
        return None
    factor = max(known, key=lambda pair: abs(pair[1]))
    ratio = factor[0] / factor[1]
    return ratio if all(abs(a - ratio * b) < 10.0**-_DIGITS * 5 for a, b in known) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
