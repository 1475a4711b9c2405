"""Between the controls of the Merge place and a recipe: which values go where, and back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from explorer.errors import ParameterError
from explorer.params import Range, Spec
from explorer.recipe import Recipe
from explorer.session import with_values
from viz.panels.add_ons import describe_add_ons
from viz.panels.mixing import MIXED, coefficients_of, mixer_spec, one_of, read_coefficients, show_mixer
from viz.parts import Controls, controls_value, read_controls

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


def other_specs(specs: tuple[Spec, ...]) -> tuple[Spec, ...]:
    """The parameters that the settings below the Mixer set, plain ones first."""
    mixed = mixer_spec(specs)
    rest = [s for s in specs if s is not mixed]
    return tuple(sorted(rest, key=lambda s: s.advanced))


def turn_of(*values: Any) -> int | None:
    """The newest turn that the parts put into their values, or None: tells which of two requests is the later one."""
    turns = [v.get("turn") for v in values if isinstance(v, dict)]
    return max((t for t in turns if type(t) is int and 0 < t < 1 << 53), default=None)


def recipe_from(
    recipe: Recipe,
    method: str,
    specs: tuple[Spec, ...],
    mixer: Any,
    controls: Any,
    *,
    names: Sequence[str] = (),
    past: Sequence[Recipe] = (),
) -> Recipe:
    """The recipe that the controls say. Raises ParameterError for anything out of range; nothing is trusted.

    A control shows one value; where the recipe had one per task and the control still shows the first, all stay.
    `names` and `past` as in `read_coefficients`.
    """
    mixed = mixer_spec(specs)
    shown = read_controls(controls, other_specs(specs), who=method)
    several = _several(recipe, other_specs(specs)) if recipe.method == method else {}
    per_task = {n: v for n, v in several.items() if next(iter(v.values())) == shown[n]}
    defaults = {s.name: s.default for s in specs}
    common = {k: v for k, v in shown.items() if k not in per_task and v != defaults[k]}
    if mixed is not None and isinstance(mixed.allowed, Range):
        per_task[mixed.name] = read_coefficients(recipe, method, mixed, mixer, names=names, past=past)
    return with_values(recipe, method, common, per_task)


def _several(recipe: Recipe, specs: tuple[Spec, ...]) -> dict[str, dict[str, Any]]:
    """The legal values that the recipe gives per task, complete and in task order: parameter -> task -> value."""
    given = {s: v for s in specs if isinstance(v := recipe.values().get(s.name), Mapping)}
    found = {}
    for spec, value in given.items():
        with contextlib.suppress(ParameterError):
            found[spec.name] = spec.check(value, who=recipe.method, tasks=recipe.task_names)
    return found


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
        given = coefficients_of(recipe, before)
        moved = any(isinstance(v, Mapping) or not math.isclose(v, before.default) for v in given.values())
        if moved and all(_fits(after, one_of(v)) for v in given.values()):
            coefficients = {t: v if _fits(after, {t: v}, (t,)) else one_of(v) for t, v in given.items()}
    return with_values(recipe, method, common, {after.name: coefficients})


def _fits(spec: Spec, value: Any, tasks: Sequence[str] = ()) -> bool:
    try:
        spec.check(value, who=spec.name, tasks=tasks)
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
            what = "" if name in MIXED else f"{name} of "
            if len(changed) > 2:
                parts.append(f"{name} of {len(changed)} tasks")
            else:
                parts += [_moved(f"{what}{t}", a.get(t), b[t]) for t in changed]
        elif a != b:
            parts.append(f"{name} {_short(a)} → {_short(b)}")
    parts += describe_add_ons(before, now)
    if before.dtype != now.dtype:
        parts.append(f"stored as {now.dtype or 'the base'}")
    return ", ".join(parts) or title


def _moved(what: str, before: Any, now: Any) -> str:
    """`spam 0.30 → 0.45`; where only the values by tensor changed, that."""
    same = isinstance(before, Mapping) and isinstance(now, Mapping) and one_of(before) == one_of(now)
    return f"{what} by tensor" if same else f"{what} {_short(before)} → {_short(now)}"


def _short(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, Mapping):
        return f"{one_of(value):.2f} by tensor"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
