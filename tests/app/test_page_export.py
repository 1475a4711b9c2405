"""The main path: move a slider, wait for the scores, export, and find the very same scores in the exported folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from driving import (
    PATIENCE_SECONDS,
    ROOT,
    TASKS,
    App,
    choose,
    drag,
    is_scored,
    merged,
    numbers,
    open_merge,
    slider,
    until,
    wait_scored,
)
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def export(page: Page, name: str, *, expected: str = "Wrote") -> str:
    """Export under a name; what the page said about it."""
    page.get_by_label("Folder name").fill(name)
    page.locator("#export-model").click()
    until(page, lambda: expected in page.locator("#export-note").inner_text())
    return page.locator("#export-note").inner_text()


def right_answers(model_folder: Path, tasks: Path, task: str) -> int:
    """Right answers on a task's test split by transformers alone: mean pooling, nearest row of the head."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    folder = tasks / task
    (head,) = load_file(folder / "head.safetensors").values()
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    right = 0
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        texts = [r["text"] for r in batch]
        inputs = tokenizer(texts, truncation=True, max_length=64, padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        right += int(((pooled @ head.T).argmax(1) == torch.tensor([r["label"] for r in batch])).sum())
    return right


def evaluated(folder: Path, tasks: Path) -> dict[str, tuple[float, int, int]]:
    """Score, right answers and examples per task by `python -m explorer evaluate`."""
    command = [sys.executable, "-m", "explorer", "evaluate", str(folder), "--json", "--tasks-folder", str(tasks)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)["table"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return {r["task"]: (r["score"], int(r["correct"]), int(r["n"])) for r in rows if r["model"] == "merged"}


def bytes_of(folder: Path) -> dict[str, str]:
    """Digest of every file beneath a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_what_the_page_shows_is_what_the_exported_folder_does(page: Page, app: App) -> None:
    open_merge(page)
    drag(page, slider(page, "newsgroups"), 0.6)
    wait_scored(page, "newsgroups, scale: 0.6}")
    shown = merged(page)
    printed = {r["task"]: r["score"] for r in numbers(page, "scores") if r["model"] == "merged"}
    assert list(shown) == list(TASKS)
    said = export(page, "main-path")
    assert "main-path" in said and "MB" in said
    folder = app.exports / "main-path"
    assert {"config.json", "tokenizer.json", "explorer_recipe.yaml", "README.md"} <= {p.name for p in folder.iterdir()}
    again = evaluated(folder, app.tasks)
    assert {t: (right, n) for t, (_, right, n) in again.items()} == shown
    assert {t: f"{score:.5g}" for t, (score, _, _) in again.items()} == printed
    for task, (right, _) in shown.items():
        # Other batches, other last bits: at most one answer on the edge may fall to the other side.
        assert abs(right_answers(folder, app.tasks, task) - right) <= 1, task


def test_a_taken_name_is_said_and_nothing_is_lost(page: Page, app: App) -> None:
    open_merge(page)
    export(page, "taken")
    before = bytes_of(app.exports / "taken")
    slider(page, "spam").press("Shift+ArrowRight")
    wait_scored(page, "spam, scale: 0.4}")
    shown = merged(page)
    said = export(page, "taken", expected="taken: ")
    assert "must be a new or empty folder" in said
    expect(page.locator("#export-note .problem")).to_be_visible()
    assert bytes_of(app.exports / "taken") == before
    assert sorted(p.name for p in app.exports.iterdir() if p.name.startswith((".", "taken"))) == ["taken"]
    assert is_scored(page) and merged(page) == shown
    page.get_by_label("Replace a folder of that name").check()
    export(page, "taken")
    assert bytes_of(app.exports / "taken") != before
    bad = export(page, "../outside", expected="plain folder name")
    assert "../outside" in bad and not (app.exports.parent / "outside").exists()


def test_tall_masks_export_one_folder_per_task(page: Page, app: App) -> None:
    open_merge(page)
    choose(page, "TALL masks")
    wait_scored(page, "method: tall_masks")
    shown = merged(page)
    said = export(page, "tall")
    folder = app.exports / "tall"
    assert all(task in said for task in TASKS)
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(TASKS)
    assert all(list((folder / task).glob("*.safetensors")) for task in TASKS)
    assert {t: (right, n) for t, (_, right, n) in evaluated(folder, app.tasks).items()} == shown
    assert abs(right_answers(folder / "spam", app.tasks, "spam") - shown["spam"][0]) <= 1
