"""Evaluation tasks: a folder with task.json, a frozen head, and one JSON-lines file per split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.errors import DataError, ParameterError, UnknownNameError, all_problems, near, sentence
from explorer.evaluation._api import KINDS, Row, TaskKind
from explorer.params import check_values
from explorer.seeds import digest_of

SCHEMA = 1
_TEXTS = ("name", "kind", "source", "licence", "split_rule", "description")
_KEYS = ("schema", "version", "labels", "label_texts", "head", "splits", *_TEXTS)
_SHOWN_AT_MOST = 20


@dataclass(frozen=True, eq=False)
class EvaluationTask:
    """One split of one task, checked. `answers` are the right labels [n] int64; `head` [classes, width] float32.

    `chance` is the accuracy of guessing labels, `majority` that of always saying the commonest one; both 0-1.
    `digest` changes with anything that can change an answer: data, head, task.json, split.
    """

    name: str
    kind: str
    version: int
    split: str
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    answers: np.ndarray
    head: Tensor | None
    parameters: Mapping[str, Any]
    chance: float
    majority: float
    digest: str
    licence: str
    source: str
    folder: Path

    @property
    def n(self) -> int:
        """Examples of this split."""
        return len(self.rows)


def load_task(folder: Path | str, *, split: str = "test") -> EvaluationTask:
    """Reads and checks one split of a task folder; every problem is reported at once (at most 20 are spelled out).

    Raises DataError: a missing or unreadable file, a bad line (with its number), a label out of range, an empty
    text, an unknown split, kind or key (near names offered), a head of the wrong shape, a path outside the folder.
    """
    folder = Path(folder)
    problems: list[str] = []
    declared = _read_json(folder / "task.json")
    who = str(declared.get("name") or folder.name)
    kind = _kind(declared, who, problems)
    labels = _labels(declared, who, problems)
    parameters = _parameters(declared, kind, who, problems)
    rows, row_bytes = _rows(_split_file(folder, declared, split, who, problems), kind, len(labels), problems)
    head, head_bytes = _head(folder, declared, kind, len(labels), who, problems)
    if problems:
        shown = problems[:_SHOWN_AT_MOST]
        if len(problems) > _SHOWN_AT_MOST:
            shown.append(f"… and {len(problems) - _SHOWN_AT_MOST} more")
        raise DataError(all_problems(who, shown))
    assert kind is not None
    answers = np.array([row["label"] for row in rows], dtype=np.int64)
    return EvaluationTask(
        name=who,
        kind=kind.name,
        version=declared.get("version", 1),
        split=split,
        labels=labels,
        rows=tuple(rows),
        answers=answers,
        head=head,
        parameters=parameters,
        chance=kind.chance(labels),
        majority=float(np.bincount(answers).max() / len(rows)),
        digest=digest_of(json.dumps(declared, sort_keys=True), row_bytes, head_bytes, split),
        licence=str(declared.get("licence", "")),
        source=str(declared.get("source", "")),
        folder=folder,
    )


def find_tasks(root: Path | str) -> dict[str, Path]:
    """Task folders directly under `root`, name -> folder in name order; the name is the one in task.json.

    A folder whose task.json cannot be read goes by its own name, so that loading it says what is wrong.
    Raises DataError when `root` is no folder or two folders hold the same name.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(sentence(str(root), "must be a folder of task folders", "no such folder", "Check the path."))
    found: dict[str, Path] = {}
    for folder in sorted(p.parent for p in root.glob("*/task.json")):
        try:
            name = str(_read_json(folder / "task.json").get("name") or folder.name)
        except DataError:
            name = folder.name
        if name in found:
            got = f"{found[name].name} and {folder.name} both named {name!r}"
            raise DataError(sentence(str(root), "task names must differ", got, "Rename one in its task.json."))
        found[name] = folder
    return dict(sorted(found.items()))


def task_folder(root: Path | str, name: str) -> Path:
    """The folder of the task `name` under `root`. Raises UnknownNameError with near names."""
    known = find_tasks(root)
    if name not in known:
        raise UnknownNameError(sentence("task", "must be a known name", repr(name), near(name, known)))
    return known[name]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        got, advice = error.strerror or str(error), "A task is a folder with task.json, a head and its splits."
        raise DataError(sentence(str(path), "must be a readable file", got, advice)) from error
    except ValueError as error:
        raise DataError(sentence(str(path), "must be JSON in UTF-8", str(error), "Mend the line it names.")) from error
    if not isinstance(data, dict):
        raise DataError(sentence(str(path), "must hold a JSON object", type(data).__name__, "See the sample tasks."))
    return data


def _kind(declared: Mapping[str, Any], who: str, problems: list[str]) -> TaskKind | None:
    schema, version = declared.get("schema"), declared.get("version", 1)
    if schema != SCHEMA:
        problems.append(sentence(who, f"schema must be {SCHEMA}", repr(schema), f"Write schema {SCHEMA}."))
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        problems.append(sentence(who, "version must be a whole number from 1", repr(version), "Write version 1."))
    for key in _TEXTS:
        if not isinstance(declared.get(key, ""), str):
            problems.append(sentence(who, f"{key} must be text", repr(declared[key]), "Put it in quotes."))
    name = declared.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        advice = near(str(name), KINDS.names())
        problems.append(sentence(who, "kind must be a known task kind", repr(name), advice))
        return None
    return KINDS.get(name)


def _labels(declared: Mapping[str, Any], who: str, problems: list[str]) -> tuple[str, ...]:
    labels = declared.get("labels")
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(x, str) and x for x in labels):
        got = "nothing" if labels is None else f"{len(labels)} entries" if isinstance(labels, list) else repr(labels)
        problems.append(sentence(who, "labels must be a list of at least two names", got, 'Use ["ham", "spam"].'))
        return ()
    if len(set(labels)) < len(labels):
        twice = sorted({x for x in labels if labels.count(x) > 1})
        problems.append(sentence(who, "labels must differ", f"{', '.join(twice)} twice", "Rename one."))
    return tuple(labels)


def _parameters(declared: Mapping[str, Any], kind: TaskKind | None, who: str, problems: list[str]) -> dict[str, Any]:
    if kind is None:
        return {}
    names = [s.name for s in kind.specs]
    for key in declared:
        if key not in _KEYS and key not in names:
            advice = near(key, [*_KEYS, *names])
            problems.append(sentence(who, "task.json takes only known keys", repr(key), advice))
    try:
        return check_values(kind.specs, {k: v for k, v in declared.items() if k in names}, who=who)
    except ParameterError as error:
        problems.append(str(error))
        return {}


def _inside(folder: Path, relative: Any, what: str, who: str, problems: list[str]) -> Path | None:
    """The file inside the task folder, or a problem: absolute, climbing out, a link that leaves, missing."""
    if not isinstance(relative, str) or not relative:
        problems.append(sentence(who, f"{what} must name a file", repr(relative), "Write its name in task.json."))
        return None
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        problems.append(sentence(who, f"{what} must lie inside the task's folder", relative, "Copy it there."))
        return None
    if not path.is_file():
        problems.append(sentence(who, f"{what} must be a file", f"no file {relative}", "Add it, or correct its name."))
        return None
    return path


def _split_file(folder: Path, declared: Mapping[str, Any], split: str, who: str, problems: list[str]) -> Path | None:
    splits = declared.get("splits")
    if not isinstance(splits, dict) or not splits:
        problems.append(sentence(who, "splits must name a file per split", repr(splits), 'Use {"test": "test.jsonl"}.'))
        return None
    if split not in splits:
        problems.append(sentence(who, "split must be one that task.json names", repr(split), near(split, splits)))
        return None
    return _inside(folder, splits[split], f"split {split}", who, problems)


def _rows(path: Path | None, kind: TaskKind | None, classes: int, problems: list[str]) -> tuple[list[Row], str]:
    """Checked rows and a digest of the file; a bad line becomes a problem with its number."""
    if path is None:
        return [], ""
    content = path.read_bytes()
    rows: list[Row] = []
    lines = [(i, line) for i, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    for number, line in lines:
        where = f"{path.name} line {number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:
            got = getattr(error, "msg", "bytes that are not UTF-8")
            problems.append(sentence(where, "must be one JSON object in UTF-8", got, "Mend or remove the line."))
            continue
        wrong = _row_problem(row, kind, classes)
        if wrong:
            problems.append(f"{where}: {wrong}. Mend or remove the line.")
        else:
            rows.append(row)
    if not lines:
        problems.append(sentence(path.name, "must hold at least one example", "none", "Add one JSON object per line."))
    return rows, hashlib.blake2b(content, digest_size=16).hexdigest()


def _row_problem(row: Any, kind: TaskKind | None, classes: int) -> str | None:
    if not isinstance(row, dict):
        return f"must be a JSON object; got {type(row).__name__}"
    label = row.get("label")
    if not isinstance(label, int) or isinstance(label, bool):
        return f"label must be a whole number; got {'nothing' if label is None else type(label).__name__}"
    if classes and not 0 <= label < classes:
        return f"label must be from 0 to {classes - 1}; got {label}"
    return kind.row_problem(row) if kind else None


def _head(
    folder: Path, declared: Mapping[str, Any], kind: TaskKind | None, classes: int, who: str, problems: list[str]
) -> tuple[Tensor | None, str]:
    """The frozen head in float32 and a digest of its file; None for kinds that need none."""
    if kind is None or "head" not in kind.needs:
        return None, ""
    path = _inside(folder, declared.get("head"), "head", who, problems)
    if path is None:
        return None, ""
    from safetensors.torch import load

    content = path.read_bytes()
    try:
        weight = load(content).get("weight")
    except Exception as error:
        got = " ".join(str(error).split())[:200]
        problems.append(sentence(path.name, "must be a safetensors file", got, "Write the head again."))
        return None, ""
    if weight is None or weight.ndim != 2 or not weight.is_floating_point() or (classes and len(weight) != classes):
        got = "no tensor `weight`" if weight is None else f"{weight.dtype} {tuple(weight.shape)}"
        must = f"must hold `weight`, floating, [{classes or 'classes'}, hidden]"
        problems.append(sentence(path.name, must, got, "One row per label, in the order of labels."))
        return None, ""
    if not bool(torch.isfinite(weight).all()):
        problems.append(sentence(path.name, "must hold finite numbers", "NaN or infinity", "Write the head again."))
    return weight.to(torch.float32), hashlib.blake2b(content, digest_size=16).hexdigest()
