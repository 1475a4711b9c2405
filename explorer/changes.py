"""Changes to a recipe that are written as text, as the command line takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from explorer.errors import InputError, sentence
from explorer.recipe import Recipe


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with method parameters replaced, also where its tasks had their own. Raises InputError."""
    for change in changes:
        name, value = _setting(change, "--set", "density=0.3")
        tasks = [replace(t, parameters={k: v for k, v in t.parameters.items() if k != name}) for t in recipe.tasks]
        recipe = replace(recipe.with_parameters(**{name: value}), tasks=tuple(tasks))
    return recipe


def _setting(text: str, option: str, example: str) -> tuple[str, Any]:
    """NAME=VALUE as a name and a plain value. Raises InputError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(sentence(option, "must be NAME=VALUE", repr(text), f"For example {option} {example}."))
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value  # the parameter's own check says what it must be


def add_on_of(text: str) -> tuple[str, dict[str, Any]]:
    """NAME[:KEY=VALUE,…] as a name and its parameters. Raises InputError."""
    name, _, rest = text.partition(":")
    return name, dict(_setting(one, "--add-on", "lines:alpha=0.1,beta=0.9") for one in rest.split(",") if one)
