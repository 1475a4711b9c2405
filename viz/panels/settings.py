"""Between the controls of the Merge place and a recipe: which values go where, and back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from explorer.errors import ParameterError
from explorer.params import Range, Spec
from explorer.recipe import Recipe
from explorer.session import with_values
from viz.panels.add_ons import describe_add_ons
from viz.panels.draw import colours_of
from viz.parts import Controls, controls_value, mixer_value, read_controls, read_mixer

__all__ = [
    "Controls",
    "describe_change",
    "mixer_spec",
    "other_specs",
    "recipe_from",
    "show_controls",
    "show_mixer",
    "turn_of",
]

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


def turn_of(*values: Any) -> int | None:
    """The newest turn that the parts put into their values, or None: tells which of two requests is the later one."""
    turns = [v.get("turn") for v in values if isinstance(v, dict)]
    return max((t for t in turns if type(t) is int and 0 < t < 1 << 53), default=None)


def recipe_from(recipe: Recipe, method: str, specs: tuple[Spec, ...], mixer: Any, controls: Any) -> Recipe:
    """The recipe that the controls say. Raises ParameterError for anything out of range; nothing is trusted.

    A control shows one value; where the recipe had one per task and the control still shows the first, all stay.
    """
    mixed = mixer_spec(specs)
    shown = read_controls(controls, other_specs(specs), who=method)
    several = _several(recipe, other_specs(specs)) if recipe.method == method else {}
    per_task = {n: v for n, v in several.items() if next(iter(v.values())) == shown[n]}
    defaults = {s.name: s.default for s in specs}
    common = {k: v for k, v in shown.items() if k not in per_task and v != defaults[k]}
    if mixed is not None and isinstance(mixed.allowed, Range):
        read = read_mixer(mixer, recipe.task_names, mixed.allowed.low, mixed.allowed.high)
        blocks = _blocks(recipe, mixed) if recipe.method == method else {}
        # Values per tensor stay until their task's slider is moved.
        per_task[mixed.name] = {
            t: blocks[t] if t in blocks and math.isclose(v, _one(blocks[t])) else v for t, v in read.items()
        }
    return with_values(recipe, method, common, per_task)


def _several(recipe: Recipe, specs: tuple[Spec, ...]) -> dict[str, dict[str, Any]]:
    """The legal values that the recipe gives per task, complete and in task order: parameter -> task -> value."""
    given = {s: v for s in specs if isinstance(v := recipe.values().get(s.name), Mapping)}
    found = {}
    for spec, value in given.items():
        with contextlib.suppress(ParameterError):
            found[spec.name] = spec.check(value, who=recipe.method, tasks=recipe.task_names)
    return found


def _coefficients(recipe: Recipe, spec: Spec) -> dict[str, float]:
    """The recipe's value of a per-task parameter for every task; the default where it gives none, or none that fits."""
    value = recipe.values().get(spec.name, spec.default)
    try:
        value = spec.check(value, who=recipe.method, tasks=recipe.task_names)
    except ParameterError:
        value = spec.default
    several = dict(value) if isinstance(value, Mapping) else dict.fromkeys(recipe.task_names, value)
    return {t: _one(v) for t, v in several.items()}


def _one(value: Any) -> float:
    """The number that stands for a value per tensor on a slider: what most tensors take, the last one written."""
    return float(list(value.values())[-1] if isinstance(value, Mapping) else value)


def _blocks(recipe: Recipe, spec: Spec) -> dict[str, Any]:
    """The tasks whose coefficient differs by tensor, with their patterns."""
    value = recipe.values().get(spec.name)
    return {t: v for t, v in value.items() if isinstance(v, Mapping) and v} if isinstance(value, Mapping) else {}


def show_mixer(recipe: Recipe, specs: tuple[Spec, ...], previous: Any = None) -> dict[str, Any]:
    """The Mixer's value for a recipe; mute, lock and solo of `previous` stay, with the values they hide."""
    mixed = mixer_spec(specs)
    colours = list(colours_of(recipe.task_names).values())
    if mixed is None or not isinstance(mixed.allowed, Range):
        off = "This method has no coefficient per task."
        return mixer_value(recipe.task_names, colours, {}, disabled=off)
    coefficients = _coefficients(recipe, mixed)
    previous = _consistent(previous, coefficients)
    return mixer_value(
        recipe.task_names,
        colours,
        {**coefficients, **_hidden(previous, mixed)},
        low=mixed.allowed.low,
        high=mixed.allowed.high,
        step=mixed.allowed.step or 0.01,
        default=mixed.default,
        help=mixed.help + _blocks_note(recipe, mixed),
        previous=previous,
        label=mixed.label,
    )


def _blocks_note(recipe: Recipe, spec: Spec) -> str:
    named = ", ".join(_blocks(recipe, spec))
    return f". Set per tensor in the recipe: {named}; moving such a slider sets all its tensors" if named else ""


def _rows(mixer: Any) -> list[dict[str, Any]]:
    """The rows of a mixer's value as far as they are rows: it comes from the page."""
    rows = mixer.get("tasks") if isinstance(mixer, dict) else None
    return [r for r in rows if isinstance(r, dict)] if isinstance(rows, list) else []


def _consistent(previous: Any, coefficients: Mapping[str, float]) -> Any:
    """Mute and solo flags only while they agree with the coefficients: undo may bring a muted task back."""
    rows = _rows(previous)
    if not rows:
        return None
    muted = [r for r in rows if r.get("muted") and coefficients.get(str(r.get("name")), 0) != 0]
    solo = previous.get("solo")
    if muted or (solo and any(v != 0 for t, v in coefficients.items() if t != solo)):
        return {**previous, "solo": None, "tasks": [{**r, "muted": False} for r in rows]}
    return {**previous, "tasks": rows}


def _hidden(previous: Any, spec: Spec) -> dict[str, float]:
    """What the sliders of silenced tasks show: the value that comes back with them, not the 0 they count as."""
    rows, solo = _rows(previous), previous.get("solo") if previous else None
    silent = {str(r.get("name")): r.get("value") for r in rows if r.get("muted") or (solo and r.get("name") != solo)}
    return {n: float(v) for n, v in silent.items() if isinstance(v, (int, float)) and _fits(spec, v)}


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
    if before and before.name == after.name:
        given = _coefficients(recipe, before)
        moved = any(not math.isclose(v, before.default) for v in given.values())
        if moved and all(_fits(after, v) for v in given.values()):
            coefficients = given
    return with_values(recipe, method, common, {after.name: coefficients})


def _fits(spec: Spec, value: Any) -> bool:
    try:
        spec.check(value, who=spec.name)
    except ParameterError:
        return False
    return True


def describe_change(before: Recipe | None, now: Recipe, title: str, defaults: Mapping[str, Any] | None = None) -> str:
    """What a person changed, in a few words: `spam 0.30 → 0.45`, `density 0.2 → 0.3`, or the method's title.

    `defaults` stand for what a recipe leaves open; without them the words say `default`.
    """
    if before is None or before.method != now.method:
        return title
    parts = []
    old, new, known = before.values(), now.values(), dict(defaults or {})
    for name in dict.fromkeys([*old, *new]):
        a, b = (values.get(name, known.get(name)) for values in (old, new))
        if isinstance(a, Mapping) != isinstance(b, Mapping):  # one value for all tasks, against one per task
            a, b = (v if isinstance(v, Mapping) else dict.fromkeys(now.task_names, v) for v in (a, b))
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changed = [t for t in b if a.get(t) != b[t]]
            what = "" if name in _MIXED else f"{name} of "
            if len(changed) > 2:
                parts.append(f"{name} of {len(changed)} tasks")
            else:
                parts += [f"{what}{t} {_short(a.get(t))} → {_short(b[t])}" for t in changed]
        elif a != b:
            parts.append(f"{name} {_short(a)} → {_short(b)}")
    parts += describe_add_ons(before, now)
    if before.dtype != now.dtype:
        parts.append(f"stored as {now.dtype or 'the base'}")
    return ", ".join(parts) or title


def _short(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, Mapping):
        return "per tensor"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
