"""The strip of examples: a fixed stratified draw, answers as the scores have them, and markup that nothing escapes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.results import Result
from explorer.streaming import stream
from explorer.strip import EXAMPLES, strip
from explorer.workbench import Slot, Workbench
from viz.panels.why_words import NO_DATA, strip_table

SCORED = ("base", "expert", "merged")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


def picks(result: Result) -> list[tuple[str, int]]:
    return list(zip(result.table["task"], result.table["index"], strict=True))


def scored(bench: Workbench, slot: Slot, recipe: object) -> None:
    list(stream(bench, slot, recipe, slot.newest()))  # type: ignore[arg-type]


def test_the_same_few_examples_of_every_task_in_turn_and_all_of_them_once(bench: Workbench) -> None:
    slot, recipe = bench.slot("tab"), bench.start
    first = strip(bench, slot, recipe)
    assert picks(strip(bench, bench.slot("other"), recipe)) == picks(first)
    assert first.table["task"].value_counts().to_dict() == dict.fromkeys(TASKS, EXAMPLES // 2)
    assert picks(strip(bench, slot, recipe, seed=1)) != picks(first)
    pages = first.provenance["pages"]
    every = [pick for page in range(pages) for pick in picks(strip(bench, slot, recipe, page=page))]
    assert len(every) == len(set(every)) == 120 and pages == 15
    assert picks(strip(bench, slot, recipe, page=pages)) == picks(first)
    assert strip(bench, slot, recipe, page=-1).provenance["page"] == pages - 1
    quick = {t: set(bench.evaluator(recipe).plan(t).indices(0).tolist()) for t in TASKS}
    assert all(index in quick[task] for task, index in picks(first))


def test_answers_come_from_the_scores_as_they_come_in(bench: Workbench, zoo: Path) -> None:
    slot, recipe = bench.slot("tab"), recipe_of(zoo, method="ties")
    before = strip(bench, slot, recipe).table
    assert (before[[*SCORED]] == "").all(axis=None) and before[[f"{m}_right" for m in SCORED]].isna().all(axis=None)
    updates = stream(bench, slot, recipe, slot.newest())
    next(updates)
    some = strip(bench, slot, recipe).table
    assert 0 < some["merged_right"].notna().sum() == (some["task"] == TASKS[0]).sum() < len(some)
    updates.close()
    scored(bench, slot, recipe)
    found, evaluator, live = strip(bench, slot, recipe, page=3).table, bench.evaluator(recipe), slot.live
    assert live is not None
    for row in found.to_dict("records"):
        task = evaluator.tasks[row["task"]]
        (partial,) = [p for p in evaluator.run(live.module_for, key="x", tasks=[task.name]) if p.complete]
        answer = int(partial.scores[task.name].predictions[row["index"]])
        assert row["merged"] == task.labels[answer] and row["gold"] == task.labels[task.answers[row["index"]]]
        assert row["merged_right"] == float(answer == task.answers[row["index"]])
        assert row["text"] == task.rows[row["index"]]["text"] and row["base"] and row["expert"]


def test_a_pinned_setting_has_a_column_of_its_own(bench: Workbench, zoo: Path) -> None:
    slot, pinned = bench.slot("tab"), recipe_of(zoo, method="weight_average")
    now = recipe_of(zoo, method="task_arithmetic", parameters={"scale": -1})
    scored(bench, slot, pinned)
    before = strip(bench, slot, pinned).table
    scored(bench, slot, now)
    both = strip(bench, slot, now, pinned=pinned)
    assert both.table["pinned"].tolist() == before["merged"].tolist() != both.table["merged"].tolist()
    assert both.provenance["pinned"] and "pinned A" in strip_table(both)
    assert "pinned A" not in strip_table(strip(bench, slot, now))
    others = {TASKS[0]: {"checkpoint": str(zoo / TASKS[1])}, TASKS[1]: {"checkpoint": str(zoo / TASKS[0])}}
    elsewhere = strip(bench, slot, now, pinned=recipe_of(zoo, method="weight_average", tasks=others)).table
    assert (elsewhere["pinned"] == "").all()  # the setting of other models is not this one's
    moved = strip(bench, slot, recipe_of(zoo, parameters={"scale": -1}, tasks=others)).table
    assert (moved["merged"] == "").all()  # nor are the live model's answers those of other models


def test_without_an_evaluation_task_it_says_so(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path, tasks_folders=[tmp_path / "none"])
    assert strip_table(strip(bench, bench.slot("tab"), bench.start)).count(NO_DATA) == 1


def test_the_table_escapes_everything_and_says_right_and_wrong_in_words(bench: Workbench) -> None:
    slot = bench.slot("tab")
    made = strip(bench, slot, bench.start)
    evil = "<img src=x onerror=alert(1)>"
    changes = {"task": evil, "text": evil, "gold": evil, "merged": evil, "base": evil, "expert": ""}
    table = made.table.assign(**changes, merged_right=1.0, base_right=0.0, expert_right=0.0)
    shown = strip_table(dataclasses.replace(made, table=table))
    assert "<img" not in shown and shown.count("&lt;img") == 5 * EXAMPLES
    assert shown.count("<i>right</i>") == EXAMPLES and shown.count("<i>wrong</i>") == 2 * EXAMPLES
    assert shown.count("<circle") == EXAMPLES and shown.count("no answer") == EXAMPLES
    assert "not scored yet" in strip_table(dataclasses.replace(made, table=made.table.assign(merged_right=np.nan)))
    assert shown.count('scope="row"') == EXAMPLES and shown.count('scope="col"') == 6
