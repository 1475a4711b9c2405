"""What the part "Your data" says: tables of rows, labels and tasks. Everything from a file is untrusted text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from explorer.data import DataFile, Guess, LabelMatch
from explorer.data.bringing import how_made
from viz.panels import words

INTRO = (
    "Score any of these fine-tunes on examples of your own: a table (CSV, TSV, JSON lines or list, Parquet), a zip "
    "of images, or a local folder of `datasets`. Choose the task, bring the file, confirm which column is what. The "
    "data stay on this machine, no other session sees them, and they go with this session."
)
NO_DATA = "Nothing has been read yet: upload a file, or name one inside an allowed folder, and its first rows appear."
_SHOWN_ROWS, _SHOWN_CELL, _SHOWN_COLUMNS, _SHOWN_LABELS = 5, 80, 12, 30


def tasks_table(names: tuple[str, ...], tasks: Mapping[str, Any], own: frozenset[str]) -> str:
    """Which data each open task is scored on."""
    rows = [_task_row(name, tasks.get(name), name in own) for name in names]
    return words.table(pd.DataFrame(rows), caption="Evaluation data of each task", numeric=("examples",))


def _task_row(name: str, task: Any, own: bool) -> dict[str, str]:
    if task is None:
        return {
            "task": name,
            "scored on": "nothing yet: bring data for it",
            "kind": "–",
            "examples": "–",
            "labels": "–",
        }
    noted = how_made(task)
    told = f"your {noted.get('file', 'data')}" if own else "held-out data of its name"
    if noted.get("n_bad"):
        told += f", {noted['n_bad']:,} bad rows left out"
    labels = f"{len(task.labels)}: {_cut(', '.join(task.labels), 60)}" if task.labels else "–"
    return {
        "task": name,
        "scored on": told,
        "kind": task.kind.replace("_", " "),
        "examples": f"{task.n:,}",
        "labels": labels,
    }


def preview(data: DataFile) -> str:
    """The first rows of a table, and what was noticed about it."""
    columns = data.columns[:_SHOWN_COLUMNS]
    rows = [{data.unit: str(r.number), **{c: _cut(r.values.get(c)) for c in columns}} for r in data.first(_SHOWN_ROWS)]
    more = len(data.columns) - len(columns)
    read = f"{data.path.name}: {data.format}, {len(data.columns)} columns" + (f" ({more} not shown)" if more else "")
    told = words.note("\n".join([read + ".", *(f"{n[:1].upper()}{n[1:]}." for n in data.notes)]))
    frame = pd.DataFrame(rows, columns=[data.unit, *columns])
    return told + words.table(frame, caption="First rows of the file")


def guessed(guess: Guess | None, help: str) -> str:
    """How sure the guess of kind and columns is, and what the kind does."""
    if guess is None:
        return words.note(help)
    said = {
        "sure": "Names and contents of the columns fit.",
        "likely": "This is likely; look at the columns.",
        "a mere guess": "This is a mere guess: check every column.",
        "incomplete": f"No column was found for {' or '.join(guess.missing)}: choose one, or another kind.",
    }[guess.words]
    return words.note(f"{help} {said}", kind="problem" if guess.missing else "info")


def labels_table(found: LabelMatch | None) -> str:
    """Labels of the file beside those of the head, and what does not fit."""
    if found is None:
        return ""
    rows = [{"in the file": _cut(v), "rows": f"{n:,}", "label of the task": label or "none: these rows are left out"}
            for v, n, label in found.rows()[:_SHOWN_LABELS]]  # fmt: skip
    more = len(found.counts) - len(rows)
    told = [*found.sentences, *([f"{more:,} more labels are not shown."] if more else [])]
    note = words.note("\n".join(told), kind="problem" if found.lacking else "info")
    return note + words.table(pd.DataFrame(rows), caption="Labels of the file", numeric=("rows",))


def made(done: Any) -> str:
    """What became of every row, with the numbers of the bad ones."""
    lines = [f"{done.task.name} is scored on {done.task.n:,} examples of your file now.", *done.sentences]
    lines += [f"{done.unit} {row.number:,}: {row.why}" for row in done.sample.bad[:10]]
    if done.sample.n_bad > 10:
        lines.append(f"… and {done.sample.n_bad - 10:,} more; the task file lists them in made.json.")
    return words.note("\n".join(lines), kind="done")


def _cut(value: Any, most: int = _SHOWN_CELL) -> str:
    text = "" if value is None else " ".join(str(value)[: 4 * most].split())
    return text if len(text) <= most else text[: most - 1] + "…"
