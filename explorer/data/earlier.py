"""What an earlier task gives a new one: its frozen head, its labels, and its parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from explorer.data.making import Plan
from explorer.errors import DataError, sentence
from explorer.evaluation import KINDS


def head_of_task(folder: Path) -> tuple[Path, tuple[str, ...]] | None:
    """The head file of a task folder and the labels of its rows; None where it has none. Raises DataError."""
    try:
        declared = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        head, labels = declared.get("head"), declared.get("labels")
    except (OSError, ValueError, AttributeError) as error:
        got, advice = "none that can be read", "Name a task folder."
        raise DataError(sentence(str(folder), "must hold a task.json", got, advice)) from error
    if not isinstance(head, str) or not isinstance(labels, list):
        return None
    path = (folder / head).resolve()
    return (path, tuple(map(str, labels))) if path.is_relative_to(folder.resolve()) and path.is_file() else None


def like_task(plan: Plan, folder: Path) -> Plan:
    """The plan with the head and the labels of an earlier task, and with its parameters where both have the same kind.

    Raises DataError where the folder is no task with a head.
    """
    held = head_of_task(folder)
    if held is None:
        advice = "Name the folder of a task that has one."
        raise DataError(sentence(str(folder), "must hold a task with a head", "none", advice))
    declared = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    kind = KINDS.get(plan.kind)
    same = {s.name: declared[s.name] for s in kind.specs if s.name in declared and declared.get("kind") == kind.name}
    return replace(plan, head_file=held[0], head_labels=held[1], parameters={**same, **plan.parameters})
