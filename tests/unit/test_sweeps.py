"""Sweeps over tiny models: what is scored, in whose time, and what stays when one is stopped."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workbench_zoo import make_bench, make_models, recipe_of

from explorer.errors import Cancelled, InputError
from explorer.evaluation import Evaluator
from explorer.executor import CancelToken
from explorer.live import LiveModel
from explorer.recipe import Recipe
from explorer.slots import Turns
from explorer.spare_time import SpareTime
from explorer.streaming import stream
from explorer.sweep_plans import Sweep, plan_curve, plan_mix
from explorer.sweeps import Sweeps, Swept
from explorer.workbench import Workbench

NAMES = ("colours", "numbers", "shapes")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"), NAMES)


@pytest.fixture
def bench(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.setattr("explorer.spare_time.CALM_SECONDS", 0.0)
    monkeypatch.setattr("explorer.sweeps.UPDATE_EVERY_SECONDS", 0.0)
    return make_bench(zoo, tmp_path / "exports")


def curve(zoo: Path, points: int = 5, **changes: Any) -> Sweep:
    tasks = {t: {"checkpoint": str(zoo / t)} for t in NAMES}
    return plan_curve(recipe_of(zoo, tasks=tasks, **changes), "scale", low=0, high=2, points=points)


def mixable(zoo: Path) -> Recipe:
    return recipe_of(zoo, tasks={t: {"checkpoint": str(zoo / t)} for t in NAMES})


def finish(bench: Workbench, swept: Swept) -> Swept:
    for _ in Sweeps(bench).run(swept, CancelToken()):
        pass
    return swept


def test_a_point_has_the_quick_scores_that_the_page_shows_for_its_recipe(
    bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explorer.streaming.FIRST_EVERY_SECONDS", 0.0)  # every task's first number is told
    sweep = curve(zoo)
    updates = list(Sweeps(bench).run(swept := Swept(sweep), CancelToken()))
    assert [u.progress.done for u in updates] == [0, 1, 2, 3, 4, 5] and updates[-1].finished
    assert updates[0].eta_seconds is None and updates[2].eta_seconds and updates[-1].eta_seconds == 0
    table = swept.result().table
    assert list(table["i"]) == [0, 2, 4, 1, 3] and list(table["refined"]) == [1] * 5
    assert list(updates[3].result.table["refined"]) == [0, 0, 0], "the points between are still to come"
    row = table[table["i"] == 3].iloc[0]
    slot, recipe = bench.slot("a"), sweep.recipe_at((3,))
    quick = [u for u in stream(bench, slot, recipe, slot.newest()) if u.done == row["n"]][-1]
    scores = quick.scores.table
    merged = scores[scores["model"] == "merged"].set_index("task")
    for task in NAMES:
        assert row[f"score:{task}"] == merged.loc[task, "score"]
        assert row[f"low:{task}"] == merged.loc[task, "low"]
    assert row["mean"] == pytest.approx(quick.summary.accuracy) and row["low"] <= row["mean"] <= row["high"]
    assert row["normalized"] == pytest.approx(quick.summary.normalized_accuracy)
    assert quick.summary.worst and row["worst"] == pytest.approx(quick.summary.worst.normalized_accuracy)


def test_all_points_are_scored_on_the_same_examples(bench: Workbench, zoo: Path) -> None:
    sweep = plan_mix(mixable(zoo), NAMES, total=1.5, steps=3)
    table = finish(bench, swept := Swept(sweep)).result().table
    assert len(table) == 10 and table["n"].nunique() == 1
    assert np.allclose(table[["x", "y", "z"]].sum(axis=1), 1.5)
    facts = swept.result().provenance
    assert sum(facts["examples"].values()) == table["n"].iloc[0] < sum(facts["of"].values())
    everything = finish(bench, Swept(Sweep(sweep.recipe, sweep.axes, sweep.grid, sweep.total, None)))
    assert everything.result().table["n"].iloc[0] == sum(facts["of"].values())


def test_a_stopped_sweep_keeps_what_is_done_and_goes_on(
    bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merges: list[float] = []
    real = LiveModel.merge

    def merge(self: LiveModel, recipe: Recipe, **options: Any) -> float:
        merges.append(recipe.values()["scale"])
        return real(self, recipe, **options)

    monkeypatch.setattr(LiveModel, "merge", merge)
    slot, sweeps, swept = bench.slot("a"), Sweeps(bench), Swept(curve(zoo, 9))
    token = slot.newest_in_background()
    with pytest.raises(Cancelled):
        for update in sweeps.run(swept, token):
            if update.progress.done == 4:
                token.cancel()
    assert len(swept.rows) == 4 and len(swept.result().table) == 4 and not swept.finished
    before = set(merges)
    merges.clear()
    list(sweeps.run(swept, slot.newest_in_background()))
    assert swept.finished and len(swept.result().table) == 9
    assert merges and before.isdisjoint(merges), "nothing that was scored is merged again"


def test_points_that_are_held_cost_no_merge_and_no_forward_pass(
    bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finish(bench, Swept(curve(zoo))).result().table
    calls: list[str] = []
    monkeypatch.setattr(LiveModel, "merge", lambda *a, **k: calls.append("merge"))
    monkeypatch.setattr(Evaluator, "batch_scores", lambda *a, **k: calls.append("forward"))
    again = finish(bench, Swept(curve(zoo))).result().table
    assert calls == [] and again.equals(first)


def test_thresholds_are_prepared_once_for_all_scales(
    bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = bench.store.get_or_make

    def noted(key: str, make: Any, size: Any = 0) -> Any:
        return real(key, lambda: (made.append(key), make())[1], size)

    monkeypatch.setattr(bench.store, "get_or_make", noted)
    finish(bench, Swept(curve(zoo, 2, method="ties")))
    once = len(made)
    assert [k for k in made if "resident" not in k and "task/" not in k], "there is something to prepare"
    finish(bench, Swept(plan_curve(curve(zoo, method="ties").recipe, "scale", low=0.3, high=0.9, points=4)))
    assert len(made) == once


def test_a_tabs_own_model_is_left_alone_and_the_sweeps_model_goes_with_the_last_sweep(
    bench: Workbench, zoo: Path
) -> None:
    slot, sweeps = bench.slot("a"), Sweeps(bench)
    live = bench.live(slot, sweep_recipe := curve(zoo).recipe)
    live.merge(sweep_recipe, cache=bench.store)
    key, held = live.key, {n: t.clone() for n, t in live.weights().items()}
    runs = sweeps.run(Swept(curve(zoo)), slot.newest_in_background())
    next(runs), next(runs)
    own = bench.slot(sweeps._id)
    assert own.live is not None and own.live is not live and own.live.resident is live.resident
    list(runs)
    assert own.live is None and live.key == key
    assert all(bool((held[n] == t).all()) for n, t in live.weights().items())


def test_a_closed_tab_and_a_newer_sweep_stop_the_running_one(bench: Workbench, zoo: Path) -> None:
    slot, sweeps = bench.slot("a"), Sweeps(bench)
    first = sweeps.run(Swept(curve(zoo, 9)), slot.newest_in_background())
    next(first)
    second = sweeps.run(Swept(curve(zoo, 8)), slot.newest_in_background())
    next(second)
    with pytest.raises(Cancelled):
        list(first)
    slot.newest()
    next(second)  # a live request of the same tab does not stop it
    bench.close("a")
    with pytest.raises(Cancelled):
        list(second)


def test_nothing_to_score_is_said(bench: Workbench, zoo: Path) -> None:
    recipe = recipe_of(zoo, tasks={"other": {"checkpoint": str(zoo / "colours")}})
    with pytest.raises(InputError, match="sweep: needs held-out examples of a merged task; got none"):
        finish(bench, Swept(plan_curve(recipe, "scale", low=0, high=1, points=3)))


# ---------------------------------------------------------------- spare time


def test_live_work_goes_first() -> None:
    turns, order = Turns(), []
    spare, token = SpareTime(turns), CancelToken()
    inside, leave = threading.Event(), threading.Event()

    def live() -> None:
        with turns.turn():
            inside.set()
            leave.wait(5)
        for n in range(3):
            with turns.turn():
                order.append(f"live {n}")
            time.sleep(0.03)  # a page draws between two steps: the background must not slip in

    def background() -> None:
        for n in range(2):
            with spare.turn(token):
                order.append(f"background {n}")

    threads = [threading.Thread(target=live), threading.Thread(target=background)]
    threads[0].start()
    assert inside.wait(5)
    threads[1].start()
    time.sleep(0.05)
    leave.set()
    for thread in threads:
        thread.join(5)
    assert order == ["live 0", "live 1", "live 2", "background 0", "background 1"]


def test_pieces_come_in_the_order_of_asking_and_waiting_can_be_stopped() -> None:
    spare, order = SpareTime(Turns()), []
    asked = threading.Event()

    def later() -> None:
        asked.set()
        with spare.piece(CancelToken()):
            order.append("second")

    stopped = CancelToken()
    with spare.piece(CancelToken()):
        thread = threading.Thread(target=later)
        thread.start()
        assert asked.wait(5)
        while len(spare._queue) < 2:
            time.sleep(0.001)
        stopped.cancel()
        with pytest.raises(Cancelled), spare.piece(stopped):
            pass
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"] and not spare._queue
