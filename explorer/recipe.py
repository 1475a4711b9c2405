"""A recipe: what is merged, how, and from which seed. YAML in, YAML out, one digest.

schema: 1
base: sample_checkpoints/base
tasks:
  spam:   {checkpoint: sample_checkpoints/spam, scale: 0.3}
method: ties
parameters: {density: 0.2, scope: model}
add_ons:
- lines: {alpha: 0.1, beta: 0.9}
dtype: float16
seed: 0
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from explorer.errors import RecipeError, all_problems, near, sentence
from explorer.seeds import digest_of

SCHEMA = 1
DTYPES = ("float16", "bfloat16", "float32", "float64")
POLICIES = ("refuse", "keep_base", "common_rows")
_SAFE_NAME = re.compile(r"[^\s./\\\x00-\x1f][^/\\\x00-\x1f]{0,79}")
_WEIGHTS = re.compile(r"\.(?:safetensors|bin|pt|pth|ckpt|pkl|pickle)$", re.IGNORECASE)
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,127}))?", re.ASCII)
_PATHS = ("checkpoint", "statistics", "evaluation")
_KEYS = (
    *("schema", "base", "tasks", "method", "parameters", "add_ons", "dtype", "seed", "include", "exclude", "policy"),
    "made_with",  # what a recipe was exported with; no part of the merge
)
Where = tuple[str, ...]
"""The keys that lead to a value, such as ("tasks", "spam")."""


@dataclass(frozen=True)
class TaskEntry:
    """One task of a merge: its checkpoint, and the parameters that are its own (such as `scale`).

    `statistics` is the path of what was measured on the task's data, for methods that need it; `evaluation` the folder
    of the evaluation task that it is scored on, where that is not one of its name. Neither changes merged weights.
    """

    name: str
    checkpoint: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    statistics: str | None = None
    evaluation: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain values."""
        paths = {name: getattr(self, name) for name in _PATHS}
        return {**{name: path for name, path in paths.items() if path}, **self.parameters}


@dataclass(frozen=True)
class Recipe:
    """A merge, complete and repeatable.

    `add_ons` are applied to the method's result one after the other, each a name and its parameters.
    `dtype` None means: each tensor keeps the base's. `include` / `exclude` are glob patterns over tensor names;
    what is excluded keeps the base's values. `policy` says what happens to tensors that cannot be merged: "refuse" the
    merge; "keep_base" keeps the base's values; "common_rows" does so too, but of embeddings and output heads whose
    number of rows alone differs it merges the rows in common (rows that only a fine-tune has are dropped).
    """

    base: str
    tasks: tuple[TaskEntry, ...]
    method: str = "task_arithmetic"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    seed: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    policy: str = "refuse"
    add_ons: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(t.name for t in self.tasks)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """What is opened: the base, then each task's checkpoint."""
        return (self.base, *(t.checkpoint for t in self.tasks))

    def values(self) -> dict[str, Any]:
        """Method parameters as the method takes them: per-task ones as a mapping task -> value."""
        merged: dict[str, Any] = dict(self.parameters)
        for name in dict.fromkeys(n for t in self.tasks for n in t.parameters):
            common = merged.get(name)
            several = dict(common) if isinstance(common, Mapping) else {}
            if common is not None and not isinstance(common, Mapping):
                several = {t.name: common for t in self.tasks}
            several.update({t.name: t.parameters[name] for t in self.tasks if name in t.parameters})
            merged[name] = several
        return merged

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, in reading order; defaults that say nothing are left out."""
        tasks = {t.name: t.to_dict() for t in self.tasks}
        plain: dict[str, Any] = {"schema": SCHEMA, "base": self.base, "tasks": tasks, "method": self.method}
        plain["parameters"] = dict(self.parameters)
        if self.add_ons:
            plain["add_ons"] = [{name: dict(values)} for name, values in self.add_ons]
        if self.dtype:
            plain["dtype"] = self.dtype
        plain["seed"] = self.seed
        if self.include:
            plain["include"] = list(self.include)
        if self.exclude:
            plain["exclude"] = list(self.exclude)
        if self.policy != "refuse":
            plain["policy"] = self.policy
        return plain

    def to_yaml(self) -> str:
        """The recipe as YAML text; `Recipe.from_yaml` gives an equal recipe back."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)

    @property
    def digest(self) -> str:
        """Changes with anything that can change the merged weights."""
        import json

        return digest_of(json.dumps(self.to_dict(), sort_keys=True, default=str))

    def with_parameters(self, **changes: Any) -> Recipe:
        """The same recipe with some method parameters replaced."""
        return replace(self, parameters={**self.parameters, **changes})

    @staticmethod
    def from_yaml(text: str, *, source: str = "recipe") -> Recipe:
        """Read YAML text. Raises RecipeError naming every problem at once."""
        import yaml

        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            where = " ".join(str(error).split())
            raise RecipeError(sentence(source, "must be YAML", where, "Mend the line that is named.")) from error
        return Recipe.from_dict(data, source=source)

    @staticmethod
    def load(path: Path) -> Recipe:
        """Read a recipe file. Raises RecipeError when it cannot be read or is no recipe."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                sentence(str(path), "must be a readable recipe file", str(error), "Check the path.")
            ) from error
        return Recipe.from_yaml(text, source=str(path))

    @staticmethod
    def from_dict(data: Any, *, source: str = "recipe") -> Recipe:
        """Read plain values. Raises RecipeError naming every problem at once."""
        if not isinstance(data, dict):
            got = type(data).__name__
            raise RecipeError(sentence(source, "must be a mapping with base, tasks and method", got, "See the README."))
        problems = recipe_problems(data, source)
        if problems:
            raise RecipeError(all_problems(source, [text for _, text in problems]))
        tasks = tuple(_entry(name, entry) for name, entry in data["tasks"].items())
        return Recipe(
            base=data["base"],
            tasks=tasks,
            method=data["method"],
            parameters=dict(data.get("parameters") or {}),
            add_ons=tuple(_add_on(entry) for entry in data.get("add_ons") or ()),
            dtype=data.get("dtype"),
            seed=data.get("seed", 0),
            include=tuple(data.get("include") or ()),
            exclude=tuple(data.get("exclude") or ()),
            policy=data.get("policy", "refuse"),
        )


def hub_parts(text: str) -> tuple[str, str | None] | None:
    """`org/name` and the revision (None for the newest) of a hub name; None for anything else, such as a path.

    What is there as a file or folder is a path, and so is what ends like a file of weights.
    """
    match = _HUB_NAME.fullmatch(text)
    if not match or ".." in text or _WEIGHTS.search(text) or Path(text).exists():
        return None
    return match[1], match[2]


def model_name(path: str) -> str:
    """What to call a checkpoint: its folder, its file without the suffix of weights, or its name on the hub."""
    parts = hub_parts(path)
    return parts[0].partition("/")[2] if parts else _WEIGHTS.sub("", Path(path).name)


def _entry(name: str, entry: Any) -> TaskEntry:
    if isinstance(entry, str):
        return TaskEntry(name, entry)
    own = {k: v for k, v in entry.items() if k not in _PATHS}
    return TaskEntry(name, entry["checkpoint"], own, entry.get("statistics"), entry.get("evaluation"))


def _add_on(entry: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    ((name, values),) = entry.items()
    return name, dict(values or {})


def _is_add_on(entry: Any) -> bool:
    if isinstance(entry, str):
        return True
    if not isinstance(entry, dict) or len(entry) != 1:
        return False
    ((name, values),) = entry.items()
    return isinstance(name, str) and isinstance(values or {}, dict)


def recipe_problems(data: dict[str, Any], source: str) -> list[tuple[Where, str]]:
    """Everything that keeps plain values from being a recipe, and where it stands."""
    unknown = [k for k in data if k not in _KEYS]
    problems: list[tuple[Where, str]] = [
        ((str(k),), sentence(source, "has only known keys", repr(k), near(str(k), _KEYS))) for k in unknown
    ]

    def say(key: str, must: str, got: object, advice: str) -> None:
        problems.append(((key,), sentence(source, must, got, advice)))

    if data.get("schema", SCHEMA) != SCHEMA:
        say("schema", f"schema must be {SCHEMA}", data["schema"], "Update the explorer.")
    for key in ("base", "method"):
        if not isinstance(data.get(key), str):
            say(key, f"{key} must be text", repr(data.get(key)), f"Add a line `{key}: …`.")
    problems += _task_problems(data.get("tasks"), source)
    for key in ("parameters", "made_with"):
        if not isinstance(data.get(key) or {}, dict):
            say(key, f"{key} must be a mapping", repr(data[key]), "Use {a: 1}.")
    add_ons = data.get("add_ons") or []
    if not isinstance(add_ons, list) or not all(_is_add_on(entry) for entry in add_ons):
        must = "add_ons must be a list of names or {name: {parameter: value}}"
        say("add_ons", must, repr(add_ons), "Use [{lines: {alpha: 0.1}}].")
    for key, known in (("dtype", DTYPES), ("policy", POLICIES)):
        value = data.get(key)
        if value not in known and not (key == "dtype" and value is None) and key in data:
            say(key, f"{key} must be one of " + ", ".join(known), repr(value), near(str(value), known))
    seed = data.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        say("seed", "seed must be a whole number", repr(seed), "Use 0.")
    for key in ("include", "exclude"):
        patterns = data.get(key) or []
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            say(key, f"{key} must be a list of name patterns", repr(patterns), "Use ['*.bias'].")
    return problems


def _task_problems(tasks: Any, source: str) -> list[tuple[Where, str]]:
    if not isinstance(tasks, dict) or not tasks:
        got, must = "none" if not tasks else type(tasks).__name__, "tasks must name at least one checkpoint"
        return [(("tasks",), sentence(source, must, got, "Use {name: {checkpoint: path}}."))]
    problems: list[tuple[Where, str]] = []
    for name, entry in tasks.items():

        def say(must: str, got: object, advice: str, where: Where = ("tasks", str(name))) -> None:
            problems.append((where, sentence(source, must, got, advice)))

        if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name):
            must = "task names must be plain text, at most 80 characters"
            say(must, repr(name), "Quote it; leave out / and \\ and a leading dot.")
        path = entry if isinstance(entry, str) else entry.get("checkpoint") if isinstance(entry, dict) else None
        if not isinstance(path, str):
            say(f"task {name} must have a checkpoint", repr(entry), "Add `checkpoint: path`.")
        for key, what in (("statistics", "file"), ("evaluation", "folder")):
            given = entry.get(key) if isinstance(entry, dict) else None
            if given is not None and not (isinstance(given, str) and given):
                must, advice = f"{key} of task {name} must be the path of a {what}", "or leave the line out."
                say(must, repr(given), f"Write `{key}: path`, {advice}")
    return problems
