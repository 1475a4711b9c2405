"""Churn and changed examples: by hand, for every sort of outcome, and from what a workbench holds."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_zoo import made_task
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.changed_examples import GAINED, LOST, changed_examples, churn, content_of, example_table
from explorer.evaluation import TaskMetric, TaskScore, evaluate, load_module, mcnemar, mean_metric, wilson
from explorer.held import held_models
from explorer.results import Result, csv_text
from explorer.streaming import stream

ROWS = [
    {"text": "red one", "label": 0}, {"text": "=SUM(A1) two", "label": 1}, {"text": "blue Three", "label": 2},
    {"text": "red four", "label": 0}, {"text": "@green five", "label": 1}, {"text": "blue\tsix", "label": 2},
]  # fmt: skip


def answered(labels: list[int], sure: list[float] | None = None, first: int = 0) -> TaskScore:
    """Answers to ROWS from an example on."""
    gold = np.array([r["label"] for r in ROWS])[first : first + len(labels)]
    given = np.array(labels)
    known = None if sure is None else np.array(sure, np.float32)
    return TaskScore("t", np.arange(first, first + len(given)), given, given == gold, len(ROWS), confidences=known)


@pytest.fixture
def task(tmp_path: Path) -> Any:
    return made_task(tmp_path / "t", rows=ROWS)


EXPERT = answered([0, 1, 2, 1, 0, 2])
MERGED = answered([1, 1, 1, 0, 2, -1], [0.5, 0.9, 0.7, 0.6, 0.4, math.nan])


def test_churn_by_hand(task: Any) -> None:
    found = churn({"expert": {"t": EXPERT}, "base": {"t": answered([1, 1, 1], first=0)}}, {"t": MERGED}, [task])
    rows = found.table.set_index("before")
    expert, base = rows.loc["expert"], rows.loc["base"]
    assert (expert["n"], expert["changed"], expert["lost"], expert["gained"]) == (6, 5, 3, 1)
    assert expert["churn"] == 5 / 6 and (expert["low"], expert["high"]) == wilson(5, 6)
    assert expert["p"] == mcnemar(EXPERT.outcomes, MERGED.outcomes) == 0.625 and expert["p_holm"] == 1
    assert (base["n"], base["n_total"], base["changed"], base["churn"]) == (3, 6, 0, 0) and base["p"] == 1
    assert found.provenance["tests"] == 2 and found.provenance["tasks"]["t"]["digest"] == task.digest
    assert churn({"expert": {}}, {"t": MERGED}, [task]).table.empty


def test_texts_and_numbers_as_answers(task: Any) -> None:
    texts = [TaskScore("t", np.arange(3), np.array(a), np.array(c), 6, mean_metric("F1")) for a, c in (
        (["a b", "c", "d"], [1.0, 0.5, 0.0]), (["a b", "x", "yy"], [1.0, 0.75, 0.0]))]  # fmt: skip
    row = churn({"expert": {"t": texts[0]}}, {"t": texts[1]}, [task]).table.iloc[0]
    assert (row["changed"], row["lost"], row["gained"], row["metric"]) == (2, 0, 1, "F1")
    numbers = [TaskScore("t", np.arange(3), np.array(a), np.array(a), 6, mean_metric("x")) for a in (
        [0.1, 0.2, 0.3], [0.1, 0.3, 0.2])]  # fmt: skip
    row = churn({"expert": {"t": numbers[0]}}, {"t": numbers[1]}, [task]).table.iloc[0]
    assert math.isnan(row["churn"]) and math.isnan(row["changed"]) and (row["lost"], row["gained"]) == (1, 1)


def test_changed_examples_by_hand(task: Any) -> None:
    found = changed_examples(task, EXPERT, MERGED)
    table = found.table
    assert table["example"].tolist() == [3, 1, 6, 4], "the surest loss first, then the losses without, then the gains"
    assert table["change"].tolist() == [LOST, LOST, LOST, GAINED]
    first, last = table.iloc[0], table.iloc[3]
    assert (first["content"], first["right_answer"]) == ("blue Three", "blue")
    assert (first["answer_before"], first["answer_after"]) == ("blue", "green")
    assert first["confidence_after"] == pytest.approx(0.7) and math.isnan(first["confidence_before"])
    assert (last["credit_before"], last["credit_after"]) == (0, 1) and table["answer_after"][2] == ""
    known = found.provenance
    assert (known["before"], known["after"], known["n"], known["n_total"]) == ("expert", "merged", 6, 6)
    assert known["changes"] == {LOST: 3, GAINED: 1} and known["digest"] == task.digest and known["version"] == 1
    part = changed_examples(task, answered([1, 2], first=1), MERGED)
    assert part.table["example"].tolist() == [3] and part.provenance["n"] == 2, "only what both have answered"


def test_a_table_to_look_at_is_searched(task: Any) -> None:
    found = changed_examples(task, EXPERT, MERGED, names=("A", "now"))
    shown = example_table(found)
    assert list(shown.columns) == [
        "example",
        "change",
        "content",
        "right answer",
        "answer of A",
        "answer of now",
        "now, % sure",
    ]
    assert shown["now, % sure"][0] == 70 and len(shown) == 4
    assert example_table(found, search="BLUE three")["example"].tolist() == [3]
    assert example_table(found, search="red")["example"].tolist() == [1, 4]
    assert example_table(found, search=".*").empty and example_table(found, search="red blue").empty
    assert example_table(found, change=GAINED)["example"].tolist() == [4]
    assert example_table(found, most=2)["example"].tolist() == [3, 1]
    assert example_table(changed_examples(task, EXPERT, EXPERT), search="x").empty


def test_credits_go_up_and_down(task: Any) -> None:
    metric = TaskMetric("1 / perplexity", lambda o: float(np.exp(-o[:, 0].sum() / o[:, 1].sum())))
    before, after = (
        TaskScore("t", np.arange(3), np.zeros(3), np.array(loss), 6, metric)
        for loss in ([[0.0, 1], [1, 1], [4, 2]], [[0.7, 1], [0.9, 1], [4, 2.0]])
    )
    found = changed_examples(task, before, after, least=0.01)
    assert found.table["change"].tolist() == ["credit down", "credit up"]
    assert found.table["credit_after"][0] == pytest.approx(math.exp(-0.7)) and found.provenance["changes"] == {}
    assert list(example_table(found).columns)[-2:] == ["expert, credit", "merged, credit"]
    assert changed_examples(task, before, after, least=0.1).table["example"].tolist() == [1]
    alone = TaskMetric("Spearman", lambda o: 0.5 if len(o) > 1 else math.nan, lowest=-1.0)
    pair = [TaskScore("t", np.arange(3), np.zeros(3), np.full((3, 2), v), 6, alone) for v in (1.0, 2.0)]
    nothing = changed_examples(task, *pair)
    assert nothing.table.empty and nothing.provenance["comparable"] is False


def test_no_cell_of_a_csv_acts_as_a_formula(task: Any) -> None:
    texts = ["=1+1", "+cmd", "-x", "@a", "\tb", "\rc", "plain", "-5"]
    table = pd.DataFrame({"n": [-1.5] * 8, "t": texts, "=head": ["x"] * 8})
    rows = list(csv.reader(io.StringIO(csv_text(table), newline="")))
    assert rows[0] == ["n", "t", "'=head"]
    assert [r[1][:1] == "'" for r in rows[1:]] == [True] * 6 + [False] * 2 and {r[0] for r in rows[1:]} == {"-1.5"}
    told = csv_text(changed_examples(task, MERGED, answered([1, 0, 1, 1, 1, 1])).table)
    assert "'=SUM(A1) two" in told and "'@green five" in told


def test_a_workbench_holds_what_is_compared(tmp_path: Path) -> None:
    zoo = make_models(tmp_path / "zoo")
    bench, recipe = make_bench(zoo, tmp_path / "exports"), recipe_of(zoo)
    assert held_models(bench, recipe) == {"merged": {}, "expert": {}, "base": {}}
    slot = bench.slot("a")
    last = list(stream(bench, slot, recipe, slot.newest()))[-1]
    held = held_models(bench, recipe)
    for model, scores in held.items():
        rows = last.scores.table[last.scores.table["model"] == model].set_index("task")["score"]
        assert {t: s.score for t, s in scores.items()} == rows.to_dict() and set(scores) == set(TASKS)
    tasks = bench.evaluation_tasks(recipe)
    found = churn({m: held[m] for m in ("expert", "base")}, held["merged"], tasks)
    assert len(found.table) == 4 and found.table["n"].eq(60).all()
    first = found.table.iloc[0]
    examples = changed_examples(tasks[0], held["expert"][tasks[0].name], held["merged"][tasks[0].name])
    assert len(examples.table) == first["lost"] + first["gained"]
    other = changed_examples(tasks[0], held["expert"][TASKS[0]], held["base"][TASKS[0]])
    for made in (examples, other):
        made.save(tmp_path / "examples.json")
        pd.testing.assert_frame_equal(Result.load(tmp_path / "examples.json").table, made.table)
    expert = evaluate(load_module(zoo / TASKS[0]), [tasks[0]], zoo / "base").table
    assert held["expert"][TASKS[0]].score == expert.loc[expert["model"] == "merged", "score"].iloc[0]


def test_content_in_words(task: Any) -> None:
    assert content_of(task, 1) == "=SUM(A1) two"
