"""B against the pinned A: the same examples, found again without a model, or scored again beside what is shown."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.comparing import AB_DIFFERENCE, compare, difference_table, score_aside, stop_aside
from explorer.errors import Cancelled
from explorer.evaluation import Evaluator, TaskScore, holm, mcnemar, mean_metric, paired_bootstrap
from explorer.history import MAX_SETTINGS
from explorer.noting import models_key, noted, setting_of
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.streaming import LiveUpdate, stream
from explorer.workbench import Workbench
from viz.charts import CHARTS


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


def scale(zoo: Path, value: float) -> Recipe:
    return recipe_of(zoo, parameters={"scale": value})


def run(bench: Workbench, recipe: Recipe) -> list[LiveUpdate]:
    slot = bench.slot("a")
    return list(stream(bench, slot, recipe, slot.newest()))


def answered(correct: str, *, first: int = 0, n_total: int = 10) -> TaskScore:
    """Ones and zeros from an example on: what was answered correctly."""
    right = np.array([c == "1" for c in correct])
    return TaskScore("t", np.arange(first, first + len(right)), np.zeros(len(right), np.int64), right, n_total)


def test_a_table_by_hand() -> None:
    a = {"x": answered("1111100000"), "y": answered("10", n_total=4), "z": answered("1")}
    b = {"x": answered("1111111110"), "y": answered("010", first=1, n_total=4), "w": answered("1")}
    rows = difference_table(a, b).set_index("task")
    assert list(rows.index) == ["x", "y", ""], "tasks that both have answered, then the mean"
    x, y, mean = rows.loc["x"], rows.loc["y"], rows.loc[""]
    assert (x["n"], x["only_a"], x["only_b"], x["score_a"], x["score_b"]) == (10, 0, 4, 0.5, 0.9)
    assert x["difference"] == pytest.approx(0.4) and x["p"] == 2 * 0.5**4 and x["p_holm"] == 2 * x["p"]
    assert (y["n"], y["n_total"], y["difference"], y["p"]) == (1, 4, 0, 1), (
        "only the second example was answered by both"
    )
    assert mean["difference"] == pytest.approx(0.2) and mean["n"] == 11 and math.isnan(mean["p"])
    right = [np.array([c == "1" for c in s]) for s in ("1111111110", "1111100000")]
    found = paired_bootstrap({"x": right[0]}, {"x": right[1]})
    assert (x["low"], x["high"]) == (found.low, found.high) and x["p"] == mcnemar(*right)
    assert difference_table(a, {}).empty


def credited(values: list[float]) -> TaskScore:
    """Answers with credits from 0 to 1."""
    n = len(values)
    return TaskScore("t", np.arange(n), np.zeros(n, np.int64), np.array(values), n, mean_metric("F1"))


def test_a_metric_other_than_accuracy_is_tested_and_named() -> None:
    a, b = credited([0.2, 0.4, 0.5] * 20), credited([0.6, 0.8, 0.4] * 20)
    rows = difference_table({"x": a, "y": answered("10")}, {"x": b, "y": answered("11")}).set_index("task")
    x, mean = rows.loc["x"], rows.loc[""]
    assert (x["metric"], x["test"], x["only_a"], x["only_b"]) == ("F1", "permutation", 20, 40)
    assert x["p"] == 1 / 1000 and x["p_holm"] == 2 / 1000 and x["low"] > 0.15
    assert (rows.loc["y", "test"], mean["test"], mean["metric"]) == ("McNemar", "permutation", "")
    table = difference_table({"x": a}, {"x": b})
    chart = CHARTS.get("ab_difference")
    result = Result("ab_difference", ("x",), table, AB_DIFFERENCE)
    assert chart.table_of(result)["verdict"][0] == "B better"
    assert chart.table_of(result, min_effect=0.2)["verdict"].tolist() == ["B better"] * 2
    small = Result("ab_difference", ("x",), difference_table({"x": a}, {"x": credited([0.21, 0.4, 0.5] * 20)}), ())
    assert chart.table_of(small)["verdict"][0] == "no difference worth naming"
    hover = chart(result).to_dict()["data"][0]["hovertext"][0]
    assert "F1: A 36.67 %, B 60.00 %" in hover and "A better on 20 examples, B on 40" in hover
    assert "permutation p 0.001" in hover and "McNemar" not in hover


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == [1.0, 1.0] and holm([]) == []
    first, missing, third = holm([0.01, float("nan"), 0.02])
    assert (first, third) == (0.02, 0.02) and math.isnan(missing)


def test_what_is_held_is_compared_without_a_model(bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = run(bench, scale(zoo, 0.3))[-1], run(bench, scale(zoo, 1.5))[-1]

    def refuse(*_: object) -> None:
        raise AssertionError("no model may run")

    monkeypatch.setattr(Evaluator, "_predict", refuse)
    found = compare(bench, a.recipe, b.recipe, names=("old", "new"))
    assert found.complete and not found.missing and found.result.tasks == TASKS
    assert (found.result.provenance["a"], found.result.provenance["b"]) == ("old", "new")
    for side, update in (("score_a", a), ("score_b", b)):
        held = found.result.table.set_index("task")[side]
        merged = update.scores.table[update.scores.table["model"] == "merged"]
        assert held[list(TASKS)].to_dict() == dict(zip(merged["task"], merged["score"], strict=True))
    same = compare(bench, b.recipe, b.recipe).result.table
    assert (same[["difference", "low", "high"]] == 0).all(axis=None) and (same["p_holm"].dropna() == 1).all()


def test_estimates_are_compared_on_the_examples_that_both_have(bench: Workbench, zoo: Path) -> None:
    run(bench, scale(zoo, 0.3))
    slot = bench.slot("a")
    updates = stream(bench, slot, scale(zoo, 1.5), slot.newest())
    first = next(updates)
    found = compare(bench, scale(zoo, 0.3), scale(zoo, 1.5))
    assert found.result.table["n"].tolist() == [first.done, first.done] and not (found.complete or found.missing)
    updates.close()


def test_a_that_is_not_held_any_more_is_scored_beside_b(bench: Workbench, zoo: Path) -> None:
    a, b = scale(zoo, 0.3), scale(zoo, 1.5)
    before = run(bench, a)[-1].scores.table
    run(bench, b)
    slot = bench.slot("a")
    live, wanted = slot.live, compare(bench, a, b).result.table
    assert live is not None
    held_b, weights = live.key, {n: t.clone() for n, t in live.weights().items()}
    for key in [k for k in bench.store._values if k.startswith("predictions/") and held_b not in k]:
        bench.store.drop(key)
    found = compare(bench, a, b)
    assert found.missing and found.result.table.empty
    last = list(score_aside(bench, slot, a))[-1]
    assert last.finished and last.scores.table.equals(before)
    assert slot.live is live and live.key == held_b and all(t.equal(weights[n]) for n, t in live.weights().items())
    assert slot.aside is not None and slot.aside.live is None, "its rows are freed"
    found = compare(bench, a, b)
    assert not found.missing and found.result.table.equals(wanted)


def test_scoring_aside_ends_with_the_tab_and_with_the_next_pin(bench: Workbench, zoo: Path) -> None:
    slot = bench.slot("a")
    for end in (
        lambda: stop_aside(slot),
        lambda: bench.close("a"),
        lambda: next(score_aside(bench, slot, scale(zoo, 0))),
    ):
        updates = score_aside(bench, slot, scale(zoo, 0.7))
        next(updates)
        end()
        with pytest.raises(Cancelled):
            list(updates)
        bench.store.drop("predictions/")


def test_rows_beside_count_towards_the_memory_of_all(bench: Workbench, zoo: Path) -> None:
    slot = bench.slot("a")
    updates = score_aside(bench, slot, scale(zoo, 0.7))
    next(updates)
    assert slot.aside is not None and slot.aside.live is not None
    held = slot.aside.live
    bench.store.budget_bytes = held.resident.resident_bytes + held.resident_bytes + 1
    bench.live(slot, scale(zoo, 0.2))
    assert slot.aside.live is None, "the place beside gives way to what is shown"
    updates.close()


def test_updates_become_settings_of_these_models(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    recipe = scale(zoo, 0.3)
    key = models_key(bench, recipe)
    updates = run(bench, recipe)
    first, last = (setting_of(u, key, when=5.0) for u in (updates[0], updates[-1]))
    assert [s.task for s in first.scores] == [TASKS[0]] and not first.complete
    assert last.complete and last.normalized == pytest.approx(updates[-1].summary.normalized_accuracy)
    assert last.worst is not None and last.worst.task == updates[-1].move("").worst_task
    session = bench.slot("a").session
    for update in updates:
        session = noted(session, update, key)
    (only,) = session.history.of(key)
    assert only.complete and only.id == last.id and only.when > 1e9 and MAX_SETTINGS > 1
    copy = tmp_path / "copy"
    shutil.copytree(zoo, copy)
    moved = make_bench(copy, tmp_path / "exports")
    assert models_key(moved, recipe_of(copy, method="ties")) == key, "by content, whatever the method"
    fewer = recipe_of(zoo, tasks={TASKS[0]: str(zoo / TASKS[0])})
    assert models_key(bench, fewer) != key
