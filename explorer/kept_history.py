"""A history as text that a browser keeps, and back. What comes back is trusted in nothing.

{"version": 1, "models": digest, "settings": [{"settings": text, "when": s, "scores": [[task, n, n_total, correct,
expert or null], ...], "name": text, "starred": bool, "pinned": bool, "id": digest}, ...], "removed": [digest, ...]}

`settings` is JSON inside JSON, so that a browser that reads and writes it leaves every digit of a number as it is.
There are no paths in it: settings are read for the models that are open, and only when they fit them.
"""

from __future__ import annotations

import json
import math
from typing import Any

from explorer.errors import ExplorerError, InputError, sentence
from explorer.history import MAX_NAME, MAX_SETTINGS, History, Setting, TaskCount, plain_name, settings_of
from explorer.recipe import Recipe

VERSION = 1
MAX_BYTES = 1 << 20
"""So much text is kept per set of models, and read back."""
MAX_SETTING_BYTES = 1 << 14
_LATEST = 1e11
"""Seconds since 1970: beyond the year 5000, so that every time has a date."""
_MOST_EXAMPLES = 10**9
_PATHS = ("checkpoint", "statistics", "evaluation")


def to_json(history: History, models: str) -> str:
    """The settings of one set of models as text of at most MAX_BYTES; the oldest that have no star are left out."""
    return json.dumps(kept_form(history, models), ensure_ascii=False, allow_nan=False)


def kept_form(history: History, models: str) -> dict[str, Any]:
    """What `to_json` writes, as plain values. A setting of more than MAX_SETTING_BYTES is not kept by a browser."""
    entries = [_entry(s) for s in history.of(models)]
    entries = [e for e in entries if len(e["settings"]) <= MAX_SETTING_BYTES]
    sizes = [len(json.dumps(e)) for e in entries]
    over = sum(sizes) + 40 * len(history.removed) - MAX_BYTES
    order = sorted(range(len(entries)), key=lambda i: (entries[i]["starred"] or entries[i]["pinned"], i))
    left_out: set[int] = set()
    for place in order:
        if over <= 0:
            break
        left_out.add(place)
        over -= sizes[place]
    kept = [e for i, e in enumerate(entries) if i not in left_out]
    return {"version": VERSION, "models": models, "settings": kept, "removed": list(history.removed)}


def _entry(setting: Setting) -> dict[str, Any]:
    scores = [[s.task, s.n, s.n_total, s.correct, None if math.isnan(s.expert) else s.expert] for s in setting.scores]
    plain = json.dumps(settings_of(setting.recipe), default=str)
    flags = {"name": setting.name, "starred": setting.starred, "pinned": setting.pinned}
    return {"id": setting.id, "settings": plain, "when": setting.when, "scores": scores, **flags}


def from_json(text: object, recipe: Recipe, models: str) -> tuple[tuple[Setting, ...], int]:
    """The settings that a browser kept for these models, and how many of its entries could not be read.

    Each is checked field by field and as a recipe of the open models: its method must exist and take its values.
    Raises InputError when the text is no history of this version and these models, or is larger than MAX_BYTES.
    """
    data = _read(text)
    entries = data.get("settings") if isinstance(data, dict) else None
    if not isinstance(data, dict) or data.get("version") != VERSION or not isinstance(entries, list):
        raise _refused("something else")
    if data.get("models") != models:
        raise _refused("one of other models")
    read = [_setting(e, recipe, models) for e in entries[: 2 * MAX_SETTINGS]]
    found = tuple(s for s in read if s is not None)
    return found, len(entries) - len(found)


def _read(text: object) -> Any:
    if not isinstance(text, str):
        raise _refused(type(text).__name__)
    if len(text) > 2 * MAX_BYTES:
        raise _refused(f"{len(text):,} characters")
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _refused("damaged text") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _refused(got: str) -> InputError:
    advice = "The history starts anew; what the browser held is replaced."
    return InputError(sentence("history", "must be what this page kept in the browser", got, advice))


def _setting(entry: Any, recipe: Recipe, models: str) -> Setting | None:
    """One entry, or None where any field is not what it must be."""
    if not isinstance(entry, dict):
        return None
    when, name = entry.get("when"), entry.get("name", "")
    flags = [entry.get("starred", False), entry.get("pinned", False)]
    if isinstance(when, bool) or not isinstance(when, (int, float)) or not 0 < when < _LATEST:
        return None
    if not all(isinstance(flag, bool) for flag in flags):
        return None
    if not isinstance(name, str) or len(name) > 4 * MAX_NAME:
        return None
    scores, own = _scores(entry.get("scores"), recipe.task_names), _recipe(entry.get("settings"), recipe)
    if scores is None or own is None:
        return None
    return Setting(own, models, float(when), scores, plain_name(name), starred=flags[0], pinned=flags[1])


def _scores(given: Any, tasks: tuple[str, ...]) -> tuple[TaskCount, ...] | None:
    rows = given if isinstance(given, list) and 0 < len(given) <= len(tasks) else []
    counts = [c for row in rows if (c := _count(row, tasks)) is not None]
    whole = rows and len(counts) == len(rows) == len({c.task for c in counts})
    return tuple(counts) if whole else None


def _count(row: Any, tasks: tuple[str, ...]) -> TaskCount | None:
    if not isinstance(row, list) or len(row) != 5 or not isinstance(row[0], str) or row[0] not in tasks:
        return None
    task, n, n_total, correct, expert = row
    if any(type(c) is not int for c in (n, n_total)) or not 0 <= n <= n_total <= _MOST_EXAMPLES:
        return None
    if type(correct) not in (int, float) or not -n <= correct <= n:
        return None
    if expert is not None and (type(expert) not in (int, float) or not -1 <= expert <= 1):
        return None
    return TaskCount(task, n, n_total, correct, math.nan if expert is None else float(expert)) if n else None


def _recipe(given: Any, recipe: Recipe) -> Recipe | None:
    """The open models' recipe with the kept settings, or None where they do not fit."""
    from explorer.opening import check_method

    if not isinstance(given, str) or len(given) > MAX_SETTING_BYTES:
        return None
    try:
        plain = json.loads(given, parse_constant=_no_number)
        tasks = plain["tasks"]
        if set(tasks) != set(recipe.task_names) or any(set(t) & set(_PATHS) for t in tasks.values()):
            return None
        own = {k: plain[k] for k in ("method", "parameters", "add_ons", "dtype", "seed")}
        whole = {**recipe.to_dict(), **own}
        # What is merged comes from the recipe that is open, how it is merged from the text.
        whole["tasks"] = {n: {**entry, **tasks[n]} for n, entry in _paths(recipe).items()}
        read = Recipe.from_dict(whole, source="history")
        check_method(read)
    except (ExplorerError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return read


def _paths(recipe: Recipe) -> dict[str, dict[str, str]]:
    held = {t.name: {key: getattr(t, key) for key in _PATHS} for t in recipe.tasks}
    return {name: {k: v for k, v in entry.items() if v} for name, entry in held.items()}
