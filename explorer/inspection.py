"""What the models hold, and how each fine-tune differs from the base, as tables for people and programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.align import Alignment, align
from explorer.opening import OpenModels, open_all

SHOWN_NAMES = 3


@dataclass(frozen=True, eq=False)
class Inspection:
    """`models`: one row per checkpoint. `differences`: one row per task. `problems` stop a merge; `warnings` do not.

    `notes`: heads and rows of tensors that are left out, and names that were read otherwise.
    """

    models: pd.DataFrame
    differences: pd.DataFrame
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    mergeable: int
    tensors: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "models": json.loads(self.models.to_json(orient="records")),
            "differences": json.loads(self.differences.to_json(orient="records")),
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "mergeable_tensors": self.mergeable,
            "tensors": self.tensors,
        }


def inspect_models(
    base: str | Path, tasks: Mapping[str, str | Path], *, allowed: Sequence[Path] | None = None
) -> Inspection:
    """Open and compare checkpoints by path. Raises InputError with every problem of opening at once."""
    base_checkpoint, checkpoints = open_all(base, tasks, allowed=allowed)
    return inspect_aligned(align(base_checkpoint, checkpoints))


def inspect_open(models: OpenModels) -> Inspection:
    """Compare models that are already open."""
    return inspect_aligned(models.alignment, models.policy)


def inspect_aligned(alignment: Alignment, policy: str = "refuse") -> Inspection:
    """The tables of an alignment; reads weights once, to find frozen and tied tensors and a foreign ancestor."""
    merged = alignment.merged_under(policy)
    named = [("base", alignment.base), *alignment.tasks.items()]  # pairs: a task may be called base too
    models = pd.DataFrame([_model_row(n, c) for n, c in named])
    differences = pd.DataFrame([_difference_row(alignment, task) for task in alignment.tasks])
    lineage = [w for t in alignment.tasks if (w := _lineage(alignment, t))]
    unchanged = [
        f"task {t}: every shared tensor equals the base's, so its task vector is zero. It adds nothing to a merge."
        for t, report in alignment.reports.items()
        if report.shared and len(report.frozen) == len(report.shared) and not {*merged}.intersection(report.common_rows)
    ]
    return Inspection(
        models=models,
        differences=differences,
        problems=tuple(alignment.problems(policy)),
        warnings=(*lineage, *unchanged),
        mergeable=len(merged),
        tensors=len(alignment.base.tensors),
        notes=tuple(alignment.notes(merged)),
    )


def _lineage(alignment: Alignment, task: str) -> str | None:
    return alignment.lineage_warning(task) if alignment.mergeable else None


def _model_row(name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    own = checkpoint.on_disk
    return {
        "name": name,
        "architecture": checkpoint.architecture,
        "format": own.format,
        "parameters": own.parameter_count,
        "dtype": ", ".join(own.dtypes),
        "bytes": own.total_bytes,
        "tensors": len(own.tensors),
        "digest": own.digest,
        "path": str(checkpoint.path),
    }


def _difference_row(alignment: Alignment, task: str) -> dict[str, Any]:
    report = alignment.reports[task]
    counts = report.counts()
    names = {c: _named(getattr(report, c)) for c in ("missing", "extra", "different_shape") if counts[c]}
    return {"task": task, **counts, "which": "; ".join(f"{c.replace('_', ' ')}: {n}" for c, n in names.items())}


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
