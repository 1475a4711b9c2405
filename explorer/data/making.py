"""From a table and the columns of its fields to a task folder: what `evaluate --tasks-folder` and the page score.

OUT/task.json     kind, labels, parameters, where the rows are from
OUT/test.jsonl    one example a line
OUT/made.json     how it was made: file, digest, rows read, bad rows with their numbers, seed, columns
OUT/head.safetensors   the frozen head, or a fine-tune's own layers on top, where the kind needs some
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.checkpoints.staging import Staging
from explorer.data.fields import CellError, Mapped, is_given, list_of, value_of
from explorer.data.labels import LabelMatch, count_labels, match_labels
from explorer.data.pictures import copy_pictures
from explorer.data.reading import DataFile, Raw
from explorer.data.sampling import EXAMPLES, Sample, sample_rows
from explorer.errors import DataError, ParameterError, all_problems, near, sentence
from explorer.evaluation import KINDS, EvaluationTask, Field, TaskKind, load_task, with_head_of, write_head
from explorer.params import check_values

if TYPE_CHECKING:
    from explorer.checkpoints import Checkpoint

MADE, HEAD = "made.json", "head.safetensors"
MAX_EXAMPLES = 1_000_000
_DIGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What to make of a table. `head_file`: a frozen head to copy; `fine_tune`: where a kind's own head is taken from.

    `head_labels`: the labels of the head, in its order; empty where there is none, or it does not name them.
    `match_by`: auto, name or number; `parameters` are those of the kind.
    """

    name: str
    kind: str
    mapping: Mapped
    examples: int = EXAMPLES
    seed: int = 0
    split: str = "test"
    match_by: str = "auto"
    head_labels: tuple[str, ...] = ()
    head_file: Path | None = None
    fine_tune: Checkpoint | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A finished task folder, its task, and how it came about."""

    folder: Path
    task: EvaluationTask
    sample: Sample
    labels: LabelMatch | None
    unit: str

    @property
    def sentences(self) -> list[str]:
        """What was read, taken and left out, in words."""
        return [_taken(self.sample, self.unit), *(self.labels.sentences if self.labels else ())]


def check_plan(data: DataFile, plan: Plan) -> TaskKind:
    """The plan's kind, where it fits the table. Raises DataError or UnknownNameError with every problem at once."""
    kind = KINDS.get(plan.kind)
    problems = _mapping_problems(data, plan.mapping, kind)
    if not 2 <= plan.examples <= MAX_EXAMPLES:
        must = f"examples must be a whole number in [2, {MAX_EXAMPLES}]"
        problems.append(sentence("task", must, plan.examples, f"The default is {EXAMPLES}."))
    if not plan.name.strip() or any(ord(c) < 32 for c in plan.name):
        problems.append(sentence("task", "name must be plain text", repr(plan.name), "Use letters and digits."))
    if not re.fullmatch(r"\w[\w-]{0,40}", plan.split):
        problems.append(sentence("task", "split must be a plain word", repr(plan.split), "The default is test."))
    if any(f.type == "image" for f in kind.fields) and data.pictures is None:
        advice = "Bring a zip or a folder of images, one folder per label, or a Parquet file that holds them."
        problems.append(sentence(kind.name, "must be given images", f"a {data.format} file", advice))
    if "head" in kind.needs and plan.head_file is None:
        advice = "Choose another kind, or a task that has a head already; checkpoints bring none of this sort."
        problems.append(sentence(kind.name, "needs a frozen head", "none", advice))
    try:
        check_values(kind.specs, plan.parameters, who=kind.name)
    except ParameterError as error:
        problems.append(str(error))
    if problems:
        raise DataError(all_problems("data", problems))
    return kind


def _mapping_problems(data: DataFile, mapping: Mapped, kind: TaskKind) -> list[str]:
    fields, problems = {f.name: f for f in kind.fields}, []
    for name, columns in mapping.items():
        if name not in fields:
            problems.append(sentence(kind.name, "takes only its own fields", repr(name), near(name, fields)))
        elif len(columns) > 1 and fields[name].type != "texts":
            got, advice = f"{len(columns)} columns", "Choose the one that holds it."
            problems.append(sentence(kind.name, f"{name} must be read from one column", got, advice))
        missing = [c for c in columns if c not in data.columns]
        must = f"{name} must be read from a column of the file"
        problems += [sentence(data.path.name, must, repr(c), near(c, data.columns)) for c in missing]
    for needed in (f for f in kind.fields if not f.optional and not mapping.get(f.name)):
        advice = f"Choose a column for it; there are {', '.join(data.columns[:8])}."
        problems.append(sentence(kind.name, f"{needed.name} ({needed.help}) must have a column", "none", advice))
    return problems


def label_field(kind: TaskKind) -> Field | None:
    """The field of a kind that holds labels, if it has one."""
    return next((f for f in kind.fields if f.type in ("label", "labels")), None)


def labels_of(data: DataFile, plan: Plan, *, rows: int | None = None) -> LabelMatch | None:
    """The labels of the file, or of its first `rows`, beside those of the head. None for kinds without labels.

    Raises DataError as `match_labels`.
    """
    held = label_field(KINDS.get(plan.kind))
    if held is None or not plan.mapping.get(held.name):
        return None
    column = plan.mapping[held.name][0]
    cells = (r.values.get(column) for r in islice(data.rows(), rows) if isinstance(r, Raw))
    given = (c for c in cells if c is not None and c != "")
    counts = count_labels(given if held.type == "label" else (v for c in given for v in list_of(c, "labels")))
    return match_labels(counts, plan.head_labels, names=data.names.get(column, ()), how=plan.match_by)


def draw_sample(data: DataFile, plan: Plan, kind: TaskKind, labels: LabelMatch | None) -> Sample:
    """The rows that the task takes, each checked; a kind's own rule about a row counts as well."""
    fields = [f for f in kind.fields if plan.mapping.get(f.name)]
    letters = any(f.type == "texts" for f in kind.fields)
    held = label_field(kind)
    single = labels is not None and held is not None and held.type == "label"

    def usable(row: Raw) -> tuple[str, Any] | str:
        present = [f for f in fields if not f.optional or is_given(plan.mapping[f.name], row.values)]
        try:
            value = {f.name: value_of(f, plan.mapping[f.name], row.values, labels, letters=letters) for f in present}
        except CellError as error:
            return str(error)
        if wrong := kind.row_problem(value):
            return wrong
        return (labels.labels[value[held.name]] if single and labels and held else ""), value

    counts: dict[str, int] | None = None
    if single and labels:
        counts = {}
        for text, n in labels.counts.items():
            if text in labels.places:
                label = labels.labels[labels.places[text]]
                counts[label] = counts.get(label, 0) + n
    return sample_rows(data.rows(), usable, examples=plan.examples, seed=plan.seed, counts=counts)


def make_task(data: DataFile, out: Path, plan: Plan) -> Made:
    """Writes the task folder `out`, whole or not at all, and reads it back as every user of it will.

    Raises DataError (what is wrong with the plan, the labels or the rows), CheckpointError (a head that does not fit),
    OutputError (the folder cannot be written).
    """
    kind = check_plan(data, plan)
    labels = labels_of(data, plan)
    sample = draw_sample(data, plan, kind, labels)
    if not sample.rows:
        first = f"; first: {data.unit} {sample.bad[0].number}: {sample.bad[0].why}" if sample.bad else ""
        must, got = "must hold at least one usable row", f"none of {sample.n_read:,}{first}"
        raise DataError(sentence(data.path.name, must, got, "Check the columns that were chosen."))
    staging = Staging(out, overwrite=False)
    staging.begin()
    try:
        with staging.guard("the task"):
            _write(staging.folder, data, plan, kind, labels, sample)
            task = load_task(staging.folder, split=plan.split)
            if task.lacks_head and plan.fine_tune is not None:
                write_head(with_head_of(plan.fine_tune, task), staging.folder)
        load_task(staging.folder, split=plan.split)
        staging.publish()
    finally:
        staging.discard()
    return Made(out, load_task(out, split=plan.split), sample, labels, data.unit)


def _write(folder: Path, data: DataFile, plan: Plan, kind: TaskKind, labels: LabelMatch | None, sample: Sample) -> None:
    file = f"{plan.split}.jsonl"
    declared: dict[str, Any] = {"schema": 1, "name": plan.name, "kind": kind.name, "version": 1}
    if labels is not None:
        declared["labels"] = list(labels.labels)
    declared |= {"splits": {plan.split: file}, "source": data.path.name, **plan.parameters}
    if "head" in kind.needs and plan.head_file is not None:
        shutil.copyfile(plan.head_file, folder / HEAD)
        declared["head"] = HEAD
    image = next((f.name for f in kind.fields if f.type == "image"), None)
    if image is not None:
        copied, refused = copy_pictures(data, {number for number, _ in sample.rows}, folder)
        sample.rows = [(n, {**row, image: copied[n]}) for n, row in sample.rows if n in copied]
        for bad in refused:
            sample.refuse(bad)
    declared["split_rule"] = _taken(sample, data.unit, plan.seed)
    with open(folder / file, "w", encoding="utf-8") as lines:
        for _, row in sample.rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    _write_json(folder / MADE, _how(data, plan, sample))
    _write_json(folder / "task.json", declared)


def _how(data: DataFile, plan: Plan, sample: Sample) -> dict[str, Any]:
    counted = {"n_read": sample.n_read, "n_bad": sample.n_bad, "n": len(sample.rows)}
    bad = [{data.unit: row.number, "why": row.why} for row in sample.bad]
    chosen = {"seed": plan.seed, "examples": plan.examples, "columns": {f: list(c) for f, c in plan.mapping.items()}}
    where = {"file": data.path.name, "format": data.format, "encoding": data.encoding, "digest": _digest(data.path)}
    return {**where, **counted, **chosen, "bad": bad}


def _digest(path: Path) -> str:
    """Of the file's content; empty for a folder, whose rows speak for themselves."""
    if not path.is_file():
        return ""
    hashed = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_DIGEST_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()


def _taken(sample: Sample, unit: str, seed: int | None = None) -> str:
    n, what = len(sample.rows), f" (seed {seed})" if seed is not None else ""
    read = f"{sample.n_read:,} rows read"
    taken = f"all {n:,} usable ones taken" if n == sample.n_good else f"a seeded sample of {n:,} taken{what}"
    if not sample.n_bad:
        return f"{read}, none bad, {taken}."
    numbers = ", ".join(f"{row.number:,}" for row in sample.bad[:10])
    more = " …" if sample.n_bad > 10 else ""
    return f"{read}, {sample.n_bad:,} bad and left out ({unit} {numbers}{more}), {taken}."


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
