"""Settings of a history in words, and as one tidy table: what was set and what it scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import pandas as pd

from explorer.history import Setting
from explorer.merging import ADD_ONS, METHODS
from explorer.params import Spec
from explorer.recipe import Recipe
from explorer.results import Result, number, text

SETTINGS = (
    number("move", "number of the setting, the oldest first"),
    text("label", "the name it was given, else the method with its settings in words"),
    text("method", "merge method"),
    text("when", "time of its newest scores, UTC"),
    number("starred", "1 where it is starred", 0, 1),
    number("shown", "1 for the setting that is on the page now", 0, 1),
    number("pinned", "1 for the pinned setting A", 0, 1),
    number("complete", "1 when every held-out example was answered", 0, 1),
    text("group", "what the row says: method, setting, or score"),
    text("axis", "name of the setting or score"),
    text("task", "its task; empty where it belongs to none"),
    number("value", "its number; accuracies as fractions, undefined where it is no number or the method has it not"),
    text("words", "the value in words where it is no number"),
)
ADD_ON_AXIS, DTYPE_AXIS, SEED_AXIS = "add-ons", "stored as", "seed"
_MOST_TASKS = 3


def method_title(recipe: Recipe) -> str:
    """The method's title."""
    return METHODS.get(recipe.method).title


def setting_words(recipe: Recipe) -> str:
    """Everything that is set, defaults left out: `density 0.3, scale 0.2 … 0.8, LiNeS (alpha 0.1)`, or `defaults`."""
    method, values = METHODS.get(recipe.method), recipe.values()
    given = {s.label: values[s.name] for s in method.specs if s.name in values}
    defaults = {s.label: s.default for s in method.specs}
    parts = [f"{n} {_value(v, recipe.task_names)}" for n, v in given.items() if not _is_default(v, defaults[n])]
    for name, own in recipe.add_ons:
        settings = ", ".join(f"{k.replace('_', ' ')} {_value(v, ())}" for k, v in own.items())
        parts.append(f"{ADD_ONS.get(name).title}{f' ({settings})' if settings else ''}")
    parts += [f"stored as {recipe.dtype}"] if recipe.dtype else []
    parts += [f"seed {recipe.seed}"] if recipe.seed else []
    return ", ".join(parts) or "defaults"


def setting_label(setting: Setting) -> str:
    """The name that a person gave it, else method and settings in words."""
    return setting.name or f"{method_title(setting.recipe)}: {setting_words(setting.recipe)}"


def _is_default(value: Any, default: Any) -> bool:
    return all(v == default for v in value.values()) if isinstance(value, Mapping) else bool(value == default)


def _value(value: Any, tasks: Sequence[str]) -> str:
    """One value, or one per task: the common one, each with its task where they are few, else the range."""
    if not isinstance(value, Mapping):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    shown = [value[t] for t in tasks if t in value]
    if not shown or any(isinstance(v, (Mapping, str, bool)) for v in shown):
        return "per tensor" if not shown or any(isinstance(v, Mapping) for v in shown) else "per task"
    if len(set(shown)) == 1:
        return _value(shown[0], ())
    if len(shown) <= _MOST_TASKS:
        return " ".join(f"{t} {_value(value[t], ())}" for t in tasks if t in value)
    return f"{_value(min(shown), ())} … {_value(max(shown), ())}"


def settings_result(settings: Sequence[Setting], tasks: tuple[str, ...], *, shown: str = "") -> Result:
    """Settings of the same models as a result of kind `settings`: one row per setting and what is known of it.

    `shown`: the id of the setting that is on the page. A parameter that a method does not have has no row.
    """
    rows = []
    for move, one in enumerate(settings, start=1):
        when = datetime.fromtimestamp(one.when, timezone.utc).isoformat(sep=" ", timespec="seconds")
        flags = (int(one.starred), int(one.id == shown), int(one.pinned), int(one.complete))
        head = (move, setting_label(one), method_title(one.recipe), when, *flags)
        rows += [(*head, *row) for row in (*_set(one.recipe), *_scored(one))]
    return Result("settings", tasks, pd.DataFrame(rows, columns=[c.name for c in SETTINGS]), SETTINGS)


Row = tuple[str, str, str, float, str]
_NO_NUMBER = float("nan")


def _set(recipe: Recipe) -> Iterator[Row]:
    yield "method", "method", "", _NO_NUMBER, method_title(recipe)
    values = recipe.values()
    for spec in METHODS.get(recipe.method).specs:
        yield from _parameter(spec, values.get(spec.name, spec.default), recipe.task_names)
    titles = [ADD_ONS.get(name).title for name, _ in recipe.add_ons]
    yield "setting", ADD_ON_AXIS, "", _NO_NUMBER, " + ".join(titles) or "none"
    yield "setting", DTYPE_AXIS, "", _NO_NUMBER, recipe.dtype or "the base"
    yield "setting", SEED_AXIS, "", float(recipe.seed), ""


def _parameter(spec: Spec, value: Any, tasks: Sequence[str]) -> Iterator[Row]:
    if spec.per_task:
        for task in tasks:
            own = value.get(task, spec.default) if isinstance(value, Mapping) else value
            yield "setting", f"{spec.label} of {task}", task, *_number_or_words(own)
    else:
        yield "setting", spec.label, "", *_number_or_words(value)


def _number_or_words(value: Any) -> tuple[float, str]:
    if isinstance(value, Mapping):
        return _NO_NUMBER, "per tensor"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _NO_NUMBER, {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return float(value), ""


def _scored(setting: Setting) -> Iterator[Row]:
    for score in setting.scores:
        yield "score", f"score on {score.task}", score.task, score.score, f"{score.correct:g} of {score.n}"
    yield "score", "mean of experts", "", setting.normalized, ""
    worst = setting.worst
    yield (
        "score",
        "worst of experts",
        "",
        worst.normalized_accuracy if worst else _NO_NUMBER,
        worst.task if worst else "",
    )
