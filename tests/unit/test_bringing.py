"""Data of one session: used, taken away, brought back, never seen by another; and a task made for every kind."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kind_examples import examples
from workbench_zoo import TASKS, make_bench, make_models

from explorer.data import Plan, guess_mapping, make_task, open_data
from explorer.data.bringing import (
    Brought,
    brought,
    for_others,
    how_made,
    packed,
    plan_for,
    read_named,
    remove_data,
    scored_on,
    use_data,
)
from explorer.errors import DataError, OutputError, PathError
from explorer.evaluation import KINDS, load_task
from explorer.session import undo
from explorer.streaming import stream
from explorer.workbench import Workbench

EXAMPLES = examples()
COLUMNS = {"text": ("words",), "label": ("colour",)}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


def uploaded(bench: Workbench, folder: Path, session: str = "a", extra: str = "") -> Brought:
    """A table that a session uploaded, read and guessed for the first task."""
    file = folder / "own.csv"
    rows = "".join(f"{c} {n},{c}\n" for n in ("one", "two", "three") for c in ("red", "green", "blue"))
    file.write_text(f"words,colour\n{rows}{extra}", encoding="utf-8")
    slot = bench.slot(session)
    data = read_named(bench, slot, str(bench.uploads.keep(session, file)))
    return brought(bench, slot.session.recipe, TASKS[0], data)


def test_a_session_scores_its_task_on_its_own_table_until_it_is_taken_away(bench: Workbench, tmp_path: Path) -> None:
    slot, found = bench.slot("a"), uploaded(bench, tmp_path, extra="white,purple\n")
    assert found.guesses[0].kind == "text_classification" and dict(found.guesses[0].mapping) == COLUMNS
    before = slot.session.recipe
    plan = plan_for(bench, before, TASKS[0], "text_classification", COLUMNS, examples=6, seed=1)
    made = use_data(bench, slot, found.data, plan)
    assert (made.task.n, made.sample.n_bad, made.task.labels) == (6, 1, ("red", "green", "blue"))
    assert slot.session.recipe.tasks[0].evaluation == str(made.folder)
    last = list(stream(bench, slot, slot.session.recipe, slot.newest()))[-1].scores.table
    assert dict(zip(last["task"], last["n_total"], strict=True))[TASKS[0]] == 6
    assert how_made(scored_on(bench, slot.session.recipe)[TASKS[0]])["seed"] == 1
    remove_data(slot, TASKS[0])
    assert slot.session.recipe == before
    slot.session = undo(slot.session)  # the data are still there
    assert scored_on(bench, slot.session.recipe)[TASKS[0]].n == 6


def test_a_head_and_a_table_that_do_not_fit_change_nothing(bench: Workbench, tmp_path: Path) -> None:
    slot, found = bench.slot("a"), uploaded(bench, tmp_path)
    before = slot.session
    plan = plan_for(bench, before.recipe, TASKS[0], "text_classification", {"text": ("words",), "label": ("words",)})
    with pytest.raises(DataError, match="must be labels of the head"):
        use_data(bench, slot, found.data, plan)
    assert slot.session is before
    assert not list(bench.uploads.folder_of("a").glob("task*/*"))


def test_no_other_session_reads_scores_or_links_to_it(bench: Workbench, tmp_path: Path) -> None:
    slot, found = bench.slot("a"), uploaded(bench, tmp_path)
    recipe = slot.session.recipe
    use_data(bench, slot, found.data, plan_for(bench, recipe, TASKS[0], "text_classification", COLUMNS))
    used = slot.session.recipe
    with pytest.raises(PathError, match="allowed folder"):
        read_named(bench, bench.slot("b"), str(found.data.path))
    assert for_others(bench, used) == for_others(bench, used, bench.slot("b")) == recipe
    assert for_others(bench, used, slot) == used
    held = bench.uploads.folder_of("a")
    bench.uploads.forget("a")
    assert not held.exists()


def test_the_task_file_is_what_evaluate_takes(bench: Workbench, tmp_path: Path) -> None:
    slot, found = bench.slot("a"), uploaded(bench, tmp_path)
    plan = plan_for(bench, slot.session.recipe, TASKS[0], "text_classification", COLUMNS)
    made = use_data(bench, slot, found.data, plan)
    archive = packed(bench, slot, TASKS[0])
    assert archive is not None and archive == packed(bench, slot, TASKS[0])
    with zipfile.ZipFile(archive) as held:
        held.extractall(tmp_path / "tasks")
    again = load_task(tmp_path / "tasks" / TASKS[0])
    assert again.digest == made.task.digest and again.head is not None
    assert packed(bench, slot, "nothing of that name") is None


def test_an_upload_that_cannot_be_kept_says_so(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="must be storable"):
        bench.uploads.keep("a", tmp_path / "gone.csv")


# ---------------------------------------------------------------- every kind


def as_table(task: Path, kind: str, folder: Path) -> Path:
    """The rows of a task as a person would have them: JSON lines with names for labels, or a zip of pictures."""
    loaded = load_task(task)
    fields = {f.name: f.type for f in KINDS.get(kind).fields}
    folder.mkdir()
    if "image" in fields.values():
        with zipfile.ZipFile(folder / "own.zip", "w") as archive:
            for i, row in enumerate(loaded.rows):
                archive.write(row["image"], f"{loaded.labels[row['label']]}/{i:03d}.png")
        return folder / "own.zip"
    lines = []
    for row in loaded.rows:
        named = dict(row)
        for name in (n for n, kind_of in fields.items() if kind_of in ("label", "labels") and n in row):
            one = not isinstance(row[name], list)
            named[name] = loaded.labels[row[name]] if one else [loaded.labels[v] for v in row[name]]
        lines.append(json.dumps(named))
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "own.jsonl"


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_every_kind_is_guessed_and_made_from_a_table_of_its_rows(kind: str, tmp_path: Path) -> None:
    built = EXAMPLES[kind](tmp_path / "made")
    before = load_task(built.task)
    data = open_data(as_table(built.task, kind, tmp_path / "table"))
    guess = guess_mapping(KINDS.get(kind), data)
    assert not guess.missing and all(field == column for field, (column,) in guess.mapping.items())
    declared = json.loads((built.task / "task.json").read_text(encoding="utf-8"))
    head = built.task / declared["head"] if "head" in declared and before.head is not None else None
    plan = Plan("again", kind, guess.mapping, head_labels=before.labels, head_file=head, parameters=before.parameters)
    made = make_task(data, tmp_path / "again", plan)
    assert made.sample.n_bad == 0 and made.task.n == before.n and made.task.labels == before.labels
    if "image" in {f.type for f in KINDS.get(kind).fields}:
        assert np.array_equal(np.sort(made.task.answers), np.sort(before.answers))
    else:
        names = [f.name for f in KINDS.get(kind).fields]
        known = [{n: r[n] for n in names if n in r} for r in before.rows]
        assert [dict(r) for r in made.task.rows] == known


# ---------------------------------------------------------------- pictures


def a_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_pictures_that_are_none_are_listed_and_tricks_are_refused(tmp_path: Path) -> None:
    if "image_classification" not in KINDS:
        pytest.skip("no kind for pictures is registered")
    built = EXAMPLES["image_classification"](tmp_path / "made")
    rows = load_task(built.task).rows
    good = {f"red/{i}.png": Path(row["image"]).read_bytes() for i, row in enumerate(rows[:4])}
    tricks = {"blue/broken.png": b"no picture", "../../up.png": next(iter(good.values())), "notes.txt": b"text"}
    path = a_zip(tmp_path / "own.zip", {**good, "green/a.png": next(iter(good.values())), **tricks})
    data = open_data(path)
    plan = Plan("p", "image_classification", {"image": ("image",), "label": ("label",)})
    made = make_task(data, tmp_path / "task", plan)
    assert made.task.n == 5 and made.sample.n_bad == 3
    said = " ".join(row.why for row in made.sample.bad)
    assert "up.png" in said and "notes.txt" in said
    assert not (tmp_path.parent / "up.png").exists()
    held = {p.name for p in made.folder.iterdir()}
    assert held == {"task.json", "test.jsonl", "made.json", "images"}
    assert len(list((made.folder / "images").iterdir())) == 5
    with pytest.raises(DataError, match="images"):
        table = tmp_path / "own.csv"
        table.write_text("image,label\na.png,red\nb.png,blue\n")
        make_task(open_data(table), tmp_path / "none", replace(plan))
    with pytest.raises(DataError):
        open_data(a_zip(tmp_path / "bomb.zip", {"red/a.png": b"\0" * (80 << 20)}))
