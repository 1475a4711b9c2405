"""The add-ons of the Merge place: a switch for each, and its settings while it is on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from explorer.params import Spec
from explorer.recipe import Recipe
from explorer.session import add_ons
from viz.parts import controls_value, read_controls

WHO = "add-ons"


def shown() -> dict[str, tuple[Spec, ...]]:
    """The add-ons that the page offers, with their parameters; those that want values per tensor live in recipes."""
    return {a.name: a.specs for a in add_ons() if not any(s.per_block for s in a.specs)}


def specs() -> tuple[Spec, ...]:
    """One switch per add-on, each followed by its parameters under the names `add_on.parameter`."""
    made = []
    for one in add_ons():
        if one.name in shown():
            made.append(Spec(one.name, bool, False, None, one.summary))
            made += [replace(s, name=f"{one.name}.{s.name}", advanced=False) for s in one.specs]
    return tuple(made)


def show_add_ons(recipe: Recipe) -> dict[str, Any]:
    """The controls' value for a recipe."""
    values: dict[str, Any] = {}
    for name, given in recipe.add_ons:
        values |= {name: True, **{f"{name}.{k}": v for k, v in given.items()}}
    known = {s.name for s in specs()}
    labels = {a.name: a.title for a in add_ons()}
    return controls_value(WHO, specs(), {k: v for k, v in values.items() if k in known}, labels=labels)


def with_add_ons(recipe: Recipe, controls: Any) -> Recipe:
    """The recipe with the add-ons that the controls say; those the page does not offer stay where they are.

    Raises ParameterError for anything out of range; nothing is trusted.
    """
    values = read_controls(controls, specs(), who=WHO)
    offered = shown()
    now = {name: _given(name, offered[name], values) for name in offered if values[name]}
    kept = [(name, now.pop(name) if name in now else given) for name, given in recipe.add_ons if _stays(name, values)]
    return replace(recipe, add_ons=(*kept, *now.items()))


def _stays(name: str, values: Mapping[str, Any]) -> bool:
    return bool(values.get(name, True))


def _given(name: str, parameters: tuple[Spec, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one add-on that are not its defaults."""
    return {s.name: v for s in parameters if (v := values[f"{name}.{s.name}"]) != s.default}


def describe_add_ons(before: Recipe, now: Recipe) -> list[str]:
    """What changed among the add-ons, in a few words: `lines on`, `lines alpha 0.5 → 0.2`, `lines off`."""
    old, new = dict(before.add_ons), dict(now.add_ons)
    parts = [f"{name} {'on' if name in new else 'off'}" for name in {**old, **new} if (name in old) != (name in new)]
    for name in new:
        if name in old and old[name] != new[name]:
            changed = {k: new[name].get(k) for k in {**old[name], **new[name]} if old[name].get(k) != new[name].get(k)}
            parts += [f"{name} {k.replace('_', ' ')} {'default' if v is None else v}" for k, v in changed.items()]
    return [p.replace("_", " ") for p in parts]
