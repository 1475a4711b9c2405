"""Between the controls of the Merge place and a recipe: which values go where, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from explorer.params import Range, Spec
from explorer.recipe import Recipe
from explorer.session import with_values
from viz.panels.draw import colours_of
from viz.parts import Controls, controls_value, mixer_value, read_controls, read_mixer

__all__ = ["Controls", "describe_change", "mixer_spec", "other_specs", "recipe_from", "show_controls", "show_mixer"]

_MIXED = ("scale", "weight")


def mixer_spec(specs: tuple[Spec, ...]) -> Spec | None:
    """The per-task coefficient that the Mixer sets: `scale`, else `weight`, else none."""
    by_name = {s.name: s for s in specs if s.per_task}
    return next((by_name[name] for name in _MIXED if name in by_name), None)


def other_specs(specs: tuple[Spec, ...]) -> tuple[Spec, ...]:
    """The parameters that the settings below the Mixer set, plain ones first."""
    mixed = mixer_spec(specs)
    rest = [s for s in specs if s is not mixed]
    return tuple(sorted(rest, key=lambda s: s.advanced))


def recipe_from(recipe: Recipe, method: str, specs: tuple[Spec, ...], mixer: Any, controls: Any) -> Recipe:
    """The recipe that the controls say. Raises ParameterError for anything out of range; nothing is trusted."""
    mixed = mixer_spec(specs)
    common = read_controls(controls, other_specs(specs), who=method)
    common = {k: v for k, v in common.items() if v != next(s.default for s in specs if s.name == k)}
    if mixed is None or not isinstance(mixed.allowed, Range):
        return with_values(recipe, method, common, {})
    coefficients = read_mixer(mixer, recipe.task_names, mixed.allowed.low, mixed.allowed.high)
    return with_values(recipe, method, common, {mixed.name: coefficients})


def show_mixer(recipe: Recipe, specs: tuple[Spec, ...], previous: Any = None) -> dict[str, Any]:
    """The Mixer's value for a recipe; mute, lock and solo of `previous` stay."""
    mixed = mixer_spec(specs)
    colours = list(colours_of(recipe.task_names).values())
    if mixed is None or not isinstance(mixed.allowed, Range):
        off = "This method has no coefficient per task."
        return mixer_value(recipe.task_names, colours, {}, disabled=off)
    given = recipe.values().get(mixed.name, mixed.default)
    coefficients = dict(given) if isinstance(given, Mapping) else dict.fromkeys(recipe.task_names, given)
    return mixer_value(
        recipe.task_names,
        colours,
        coefficients,
        low=mixed.allowed.low,
        high=mixed.allowed.high,
        step=mixed.allowed.step or 0.01,
        default=mixed.default,
        help=mixed.help,
        previous=_consistent(previous, coefficients),
        label=mixed.label,
    )


def _consistent(previous: Any, coefficients: Mapping[str, float]) -> Any:
    """Mute and solo flags only while they agree with the coefficients: undo may bring a muted task back."""
    if not isinstance(previous, dict):
        return None
    rows = [r for r in previous.get("tasks", []) if isinstance(r, dict)]
    muted = [r for r in rows if r.get("muted") and coefficients.get(str(r.get("name")), 0) != 0]
    solo = previous.get("solo")
    if muted or (solo and any(v != 0 for t, v in coefficients.items() if t != solo)):
        return {**previous, "solo": None, "tasks": [{**r, "muted": False} for r in rows]}
    return previous


def show_controls(recipe: Recipe, title: str, specs: tuple[Spec, ...]) -> dict[str, Any]:
    """The settings' value for a recipe."""
    known = {s.name for s in specs}
    values = {k: v for k, v in recipe.values().items() if k in known}
    return controls_value(title, other_specs(specs), values, empty=f"{title} has no further settings.")


def switch_method(recipe: Recipe, old: tuple[Spec, ...], method: str, new: tuple[Spec, ...]) -> Recipe:
    """The recipe under another method: values that both know stay, untouched coefficients take the new default."""
    before, after = mixer_spec(old), mixer_spec(new)
    values = recipe.values()
    shared = {s.name: s for s in other_specs(new)}
    common = {k: v for k, v in values.items() if k in shared and not isinstance(v, Mapping) and _fits(shared[k], v)}
    if after is None:
        return with_values(recipe, method, common, {})
    coefficients = dict.fromkeys(recipe.task_names, after.default)
    given = values.get(before.name) if before else None
    if before and before.name == after.name and isinstance(given, Mapping):
        moved = any(not math.isclose(v, before.default) for v in given.values())
        if moved and all(_fits(after, v) for v in given.values()):
            coefficients = dict(given)
    return with_values(recipe, method, common, {after.name: coefficients})


def _fits(spec: Spec, value: Any) -> bool:
    try:
        spec.check(value, who=spec.name)
    except Exception:
        return False
    return True


def describe_change(before: Recipe | None, now: Recipe, title: str) -> str:
    """What a person changed, in a few words: `spam 0.30 → 0.45`, `density 0.2 → 0.3`, or the method's title."""
    if before is None or before.method != now.method:
        return title
    parts = []
    old, new = before.values(), now.values()
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changed = [t for t in b if a.get(t) != b[t]]
            if len(changed) > 2:
                parts.append(f"{name} of {len(changed)} tasks")
            else:
                parts += [f"{t} {_short(a.get(t))} → {_short(b[t])}" for t in changed]
        elif a != b:
            parts.append(f"{name} {_short(a)} → {_short(b)}")
    return ", ".join(parts) or title


def _short(value: Any) -> str:
    if value is None:
        return "default"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
