"""Task folders: what is read, and the sentence for everything that can be wrong with one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation_zoo import made_task, rows_of, write_task
from safetensors.torch import save_file

from explorer.errors import DataError, UnknownNameError
from explorer.evaluation import find_tasks, load_task, task_folder


def refused(folder: Path, **options: str) -> str:
    with pytest.raises(DataError) as error:
        load_task(folder, **options)
    return str(error.value)


def test_reads_a_sound_task(tmp_path: Path) -> None:
    task = made_task(tmp_path / "colours")
    assert (task.name, task.kind, task.version, task.split, task.n) == ("colours", "text_classification", 1, "test", 60)
    assert task.labels == ("red", "green", "blue")
    assert task.chance == pytest.approx(1 / 3)
    assert task.majority == 0.5  # 30 of the 60 texts begin with red
    assert dict(task.parameters) == {"max_length": 16, "pooling": "mean", "logit_scale": 20.0}
    assert (task.licence, task.source) == ("CC0-1.0", "made up")
    assert task.head is not None and task.head.shape == (3, 16) and task.head.dtype == torch.float32
    assert task.answers.tolist() == [r["label"] for r in rows_of()]


def test_a_line_separator_inside_a_text_does_not_break_the_line(tmp_path: Path) -> None:
    rows = [{"text": "red\u2028one\x85two", "label": 0}, {"text": "green", "label": 1}]
    assert made_task(tmp_path / "t", rows=rows).rows[0]["text"] == "red\u2028one\x85two"


def test_digest_follows_data_head_and_declaration(tmp_path: Path) -> None:
    first = made_task(tmp_path / "t").digest
    assert made_task(tmp_path / "t").digest == first
    assert made_task(tmp_path / "t", rows=rows_of(59)).digest != first
    assert made_task(tmp_path / "t", weight=torch.ones(3, 16)).digest != first
    assert made_task(tmp_path / "t", max_length=15).digest != first


def test_all_problems_at_once(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", kind="text_clasification", pooling="maen", licence=3, schema=2)
    message = refused(folder)
    assert "4 problems" not in message and "3 problems" in message  # without a kind its parameters are not judged
    assert "t: schema must be 1; got 2. Write schema 1." in message
    assert "licence must be text; got 3" in message
    assert "t: kind must be a known task kind; got 'text_clasification'. Did you mean 'text_classification'" in message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pooling": "maen"}, "t: pooling must be one of mean, cls; got maen. Did you mean 'mean'?"),
        ({"max_length": 0}, "t: max_length must be a whole number in [1, 8192]; got 0."),
        ({"max_lenght": 5}, "t: task.json takes only known keys; got 'max_lenght'. Did you mean 'max_length'?"),
        ({"labels": ["a"]}, "t: labels must be a list of at least two names; got 1 entries."),
        ({"labels": ["a", "b", "a"]}, "t: labels must differ; got a twice."),
        ({"version": 0}, "t: version must be a whole number from 1; got 0."),
        ({"splits": None}, "t: splits must name a file per split; got None."),
        ({"splits": {"test": "tset.jsonl"}}, "t: split test must be a file; got no file tset.jsonl."),
        (
            {"splits": {"test": "../t2/test.jsonl"}},
            "t: split test must lie inside the task's folder; got ../t2/test.jsonl.",
        ),
        ({"head": "/etc/hostname"}, "t: head must lie inside the task's folder; got /etc/hostname."),
        ({"head": None}, "t: head must name a file; got None."),
        (
            {"labels": ["a", "b", "c", "d"]},
            "head.safetensors: must hold `weight`, floating, [4, hidden]; got torch.float32 (3, 16).",
        ),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    assert says in refused(write_task(tmp_path / "t", **changes))


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t")
    (tmp_path / "outside.jsonl").write_text((folder / "test.jsonl").read_text())
    (folder / "test.jsonl").unlink()
    (folder / "test.jsonl").symlink_to(tmp_path / "outside.jsonl")
    assert "must lie inside the task's folder" in refused(folder)


def test_bad_lines_are_named_by_number(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t")
    lines = ['{"text": "red", "label": 0}', "{oops", '{"text": "red", "label": 3}', '{"text": "  ", "label": 1}', "7"]
    lines += ['{"text": "red", "label": true}', '{"text": "red"}', '{"label": 0}']
    (folder / "test.jsonl").write_text("\n".join(lines))
    message = refused(folder)
    assert "7 problems" in message
    assert "test.jsonl line 2: must be one JSON object in UTF-8; got Expecting property name" in message
    assert "test.jsonl line 3: label must be from 0 to 2; got 3. Mend or remove the line." in message
    assert "test.jsonl line 4: text must not be empty; got only white space." in message
    assert "test.jsonl line 5: must be a JSON object; got int." in message
    assert "test.jsonl line 6: label must be a whole number; got bool." in message
    assert "test.jsonl line 7: label must be a whole number; got nothing." in message
    assert "test.jsonl line 8: text must be a string; got nothing." in message


def test_many_problems_are_bounded(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "t", rows=[{"text": "red", "label": 9}] * 300)
    message = refused(folder)
    assert message.count("label must be") == 20 and "… and 280 more" in message


def test_missing_and_broken_files(tmp_path: Path) -> None:
    assert "task.json: must be a readable file; got No such file" in refused(tmp_path / "nowhere")
    folder = write_task(tmp_path / "t")
    assert "split must be one that task.json names; got 'tset'. Did you mean 'test'?" in refused(folder, split="tset")
    (folder / "test.jsonl").write_text("\n")
    (folder / "head.safetensors").write_bytes(b"no head")
    assert "test.jsonl: must hold at least one example" in refused(folder)
    assert "head.safetensors: must be a safetensors file" in refused(folder)
    save_file({"weight": torch.full((3, 16), float("nan"))}, folder / "head.safetensors")
    assert "head.safetensors: must hold finite numbers" in refused(folder)
    (folder / "task.json").write_text("{\n 'schema': 1}")
    assert "must be JSON in UTF-8; got Expecting property name enclosed in double quotes: line 2" in refused(folder)


def test_finding_tasks(tmp_path: Path) -> None:
    write_task(tmp_path / "b", name="movies")
    write_task(tmp_path / "a", name="spam")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "task.json").write_text("{")
    assert find_tasks(tmp_path) == {"c": tmp_path / "c", "movies": tmp_path / "b", "spam": tmp_path / "a"}
    assert task_folder(tmp_path, "spam") == tmp_path / "a"
    with pytest.raises(UnknownNameError, match=r"task: must be a known name; got 'spma'\. Did you mean 'spam'\?"):
        task_folder(tmp_path, "spma")
    write_task(tmp_path / "d", name="spam")
    with pytest.raises(DataError, match="task names must differ; got a and d both named 'spam'"):
        find_tasks(tmp_path)
    with pytest.raises(DataError, match="must be a folder of task folders"):
        find_tasks(tmp_path / "nowhere")


def test_importing_evaluation_is_light() -> None:
    code = (
        "import sys, explorer.evaluation; print(json.dumps([m for m in ('transformers', 'scipy') if m in sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", "import json\n" + code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == []
