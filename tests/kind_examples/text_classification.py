"""Text classification: some rows of a shipped task, and the shipped base."""

from __future__ import annotations

import shutil
from pathlib import Path

from kind_examples import Built

SAMPLES = Path(__file__).resolve().parents[2] / "sample_checkpoints"
ROWS = 40


def text_classification(folder: Path) -> Built:
    """The first rows of the spam task."""
    task = folder / "spam"
    shutil.copytree(SAMPLES / "tasks" / "spam", task)
    lines = (task / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (task / "test.jsonl").write_text("\n".join(lines[:ROWS]) + "\n", encoding="utf-8")
    return Built(task, SAMPLES / "base")


EXAMPLES = {"text_classification": text_classification}
