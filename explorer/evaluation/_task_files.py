"""Reading the files of a task folder: rows of a split, images beside them, and heads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explorer.errors import near, sentence
from explorer.evaluation._api import Row, TaskKind
from explorer.evaluation.pictures import PictureError, Pictures, file_of


def inside(folder: Path, relative: Any, what: str, who: str, problems: list[str]) -> Path | None:
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


def split_file(folder: Path, declared: Mapping[str, Any], split: str, who: str, problems: list[str]) -> Path | None:
    splits = declared.get("splits")
    if not isinstance(splits, dict) or not splits:
        problems.append(sentence(who, "splits must name a file per split", repr(splits), 'Use {"test": "test.jsonl"}.'))
        return None
    if split not in splits:
        problems.append(sentence(who, "split must be one that task.json names", repr(split), near(split, splits)))
        return None
    return inside(folder, splits[split], f"split {split}", who, problems)


def rows_of(path: Path | None, kind: TaskKind | None, classes: int, problems: list[str]) -> tuple[list[Row], str]:
    """Checked rows and a digest of the file; a bad line becomes a problem with its number."""
    if path is None:
        return [], ""
    content = path.read_bytes()
    hashed = hashlib.blake2b(content, digest_size=16)
    beside = _Beside(path.parent, hashed)
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
        row, wrong = _checked(row, kind, classes, beside)
        if wrong:
            problems.append(f"{where}: {wrong}. Mend or remove the line.")
        else:
            rows.append(row)
    if not lines:
        problems.append(sentence(path.name, "must hold at least one example", "none", "Add one JSON object per line."))
    return rows, hashed.hexdigest()


class _Beside:
    """The pictures beside a split's file; each file's content goes into the digest once, in the order of rows."""

    def __init__(self, folder: Path, hashed: Any) -> None:
        self._folder, self._hashed = folder, hashed
        self._pictures, self._known = Pictures(), set[str]()

    def resolved(self, relative: Any, name: str) -> tuple[str, str | None]:
        """The picture with its file's whole path, and what is wrong with it."""
        file, number = file_of(relative) if isinstance(relative, str) else (relative, None)
        found: list[str] = []
        path = inside(self._folder, file, name, "row", found)
        if path is None:
            return "", found[0].rstrip(".")
        if str(path) not in self._known:
            self._known.add(str(path))
            self._hashed.update(path.read_bytes())
        place = str(path) if number is None else f"{path}#{number}"
        try:
            self._pictures.check(place)
        except PictureError as error:
            return place, f"{name} {relative} {error}"
        return place, None


def _checked(row: Any, kind: TaskKind | None, classes: int, beside: _Beside) -> tuple[Any, str | None]:
    """The row with its images' paths resolved (they are relative to the split's file), and what is wrong with it."""
    if not isinstance(row, dict):
        return row, f"must be a JSON object; got {type(row).__name__}"
    types = {f.name: f.type for f in kind.fields} if kind else {"label": "label"}
    for name in (n for n, kind_of in types.items() if kind_of == "label"):
        if wrong := _label_problem(row.get(name), classes):
            return row, wrong
    if kind and (wrong := kind.row_problem(row)):
        return row, wrong
    for label in (x for name, kind_of in types.items() if kind_of == "labels" for x in row[name]):
        if wrong := _label_problem(label, classes):
            return row, wrong
    for name in (n for n, kind_of in types.items() if kind_of == "image"):
        place, wrong = beside.resolved(row.get(name), name)
        if wrong:
            return row, wrong
        row = {**row, name: place}
    return row, None


def _label_problem(label: Any, classes: int) -> str | None:
    if not isinstance(label, int) or isinstance(label, bool):
        return f"label must be a whole number; got {'nothing' if label is None else type(label).__name__}"
    if classes and not 0 <= label < classes:
        return f"label must be from 0 to {classes - 1}; got {label}"
    return None


@dataclass(frozen=True)
class Heads:
    """What a task's head file holds: the frozen matrix [labels, hidden] float32, or named tensors; its digest."""

    weight: Tensor | None = None
    own: Mapping[str, Tensor] = field(default_factory=dict)
    digest: str = ""


def heads(folder: Path, declared: Mapping[str, Any], kind: TaskKind | None, classes: int, who: str, problems: list[str]
          ) -> Heads:  # fmt: skip
    """The task's head; nothing for kinds that need none, where a kind's own head stays with the fine-tune, and where
    one is to be made of label texts."""
    own = kind is not None and "own_head" in kind.needs
    if kind is None or not ("head" in kind.needs or (own and "head" in declared)):
        return Heads()
    if not own and "head" not in declared and "label_texts" in declared:
        texts = declared["label_texts"]
        if not isinstance(texts, list) or len(texts) != classes or not all(isinstance(t, str) and t for t in texts):
            must = f"label_texts must hold one text per label, {classes}"
            problems.append(sentence(who, must, f"{texts!r}"[:80], "Say in a few words what each label means."))
        return Heads()
    path = inside(folder, declared.get("head"), "head", who, problems)
    if path is None:
        return Heads()
    from safetensors.torch import load

    content = path.read_bytes()
    try:
        tensors = load(content)
    except Exception as error:
        got = " ".join(str(error).split())[:200]
        problems.append(sentence(path.name, "must be a safetensors file", got, "Write the head again."))
        return Heads()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()):
        problems.append(sentence(path.name, "must hold finite numbers", "NaN or infinity", "Write the head again."))
    if own:
        return Heads(own={n: t.to(torch.float32) if t.is_floating_point() else t for n, t in tensors.items()},
                     digest=digest)  # fmt: skip
    weight = tensors.get("weight")
    if weight is None or weight.ndim != 2 or not weight.is_floating_point() or (classes and len(weight) != classes):
        got = "no tensor `weight`" if weight is None else f"{weight.dtype} {tuple(weight.shape)}"
        must = f"must hold `weight`, floating, [{classes or 'classes'}, hidden]"
        problems.append(sentence(path.name, must, got, "One row per label, in the order of labels."))
        return Heads()
    return Heads(weight.to(torch.float32), digest=digest)
