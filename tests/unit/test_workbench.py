"""The page's workbench: turns, slots, memory, uploads, exports and the stream of scores."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

import explorer.streaming
import explorer.workbench
from explorer.compute.device import Device
from explorer.errors import Cancelled, CheckpointError, InputError, OutputError, ParameterError, PathError
from explorer.library import evaluate_model
from explorer.live import load_resident, resident_bytes, rows_bytes
from explorer.recipe import Recipe
from explorer.slots import Turns
from explorer.streaming import LiveUpdate, stream
from explorer.uploads import upload_name
from explorer.workbench import Workbench, export_folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


def run(bench: Workbench, recipe: Recipe, slot: str = "a") -> list[LiveUpdate]:
    place = bench.slot(slot)
    return list(stream(bench, place, recipe, place.newest()))


def accuracies(update: LiveUpdate, model: str = "merged") -> dict[str, float]:
    rows = update.scores.table[update.scores.table["model"] == model]
    return dict(zip(rows["task"], rows["score"], strict=True))


# ---------------------------------------------------------------- turns


def test_turns_are_exclusive_and_in_the_order_of_asking() -> None:
    turns, order, inside, most = Turns(), [], [0], [0]
    first_in, may_go = threading.Event(), threading.Event()

    def work(number: int) -> None:
        with turns.turn():
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            order.append(number)
            if number == 0:
                first_in.set()
                may_go.wait(5)
            time.sleep(0.001)
            inside[0] -= 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    threads[0].start()
    assert first_in.wait(5)
    for waiting, thread in enumerate(threads[1:], start=1):
        thread.start()
        while len(turns._waiting) <= waiting:  # asked before the next one starts
            time.sleep(0.0005)
    may_go.set()
    for thread in threads:
        thread.join(5)
    assert order == list(range(12))
    assert most[0] == 1


def test_an_error_or_an_interrupted_wait_gives_the_turn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()
    with pytest.raises(RuntimeError), turns.turn():
        raise RuntimeError
    with turns.turn(), monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt), turns.turn():
            pass
    taken = threading.Event()

    def take() -> None:
        with turns.turn():
            taken.set()

    threading.Thread(target=take, daemon=True).start()
    assert taken.wait(5)


# ---------------------------------------------------------------- streaming


def test_quick_first_then_everything_beside_base_and_expert(bench: Workbench, zoo: Path) -> None:
    updates = run(bench, recipe_of(zoo))
    assert 0 < updates[0].done < 60, "the first figures come after a small subset"
    assert set(accuracies(updates[0])) == {TASKS[0]} and set(accuracies(updates[1])) == set(TASKS)
    assert [u.done for u in updates] == sorted(u.done for u in updates)
    assert [u.finished for u in updates] == [False] * (len(updates) - 1) + [True]
    last = updates[-1]
    assert last.complete and last.done == last.total == 120 and last.eta_seconds is None
    assert set(last.scores.table["model"]) == {"merged", "base", "expert", "chance"}
    assert (last.scores.table["n"] == 60).all()
    move = last.move("label")
    assert move.complete and move.accuracies == accuracies(last) and move.worst_task in TASKS


def test_base_and_expert_are_scored_on_the_examples_the_merged_model_has_answered(bench: Workbench, zoo: Path) -> None:
    for update in run(bench, recipe_of(zoo)):
        table = update.scores.table
        n = {m: dict(zip(g["task"], g["n"], strict=True)) for m, g in table.groupby("model")}
        assert n["base"] == n["expert"] == n["merged"]


def test_streamed_scores_are_those_of_evaluate(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    last = run(bench, recipe_of(zoo))[-1]
    base = evaluate_model(zoo / "base", tasks_folder=zoo / "tasks", device="cpu").table
    base = base[base["model"] == "merged"]
    assert accuracies(last, "base") == dict(zip(base["task"], base["score"], strict=True))


def test_a_second_run_loads_no_module_again(bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    real = explorer.streaming.Loaded
    monkeypatch.setattr(explorer.streaming, "Loaded", lambda c, **k: (loaded.append(c.path.name), real(c, **k))[1])
    run(bench, recipe_of(zoo))
    assert set(loaded) == {"base", *TASKS} and loaded.count("base") == 1
    loaded.clear()
    run(bench, recipe_of(zoo, parameters={"scale": 0.7}))
    assert loaded == []


def test_no_task_of_that_name_gives_one_empty_update(bench: Workbench, zoo: Path) -> None:
    plain = {"other": {"checkpoint": str(zoo / "colours")}}
    (only,) = run(bench, recipe_of(zoo, tasks=plain))
    assert only.finished and only.complete and only.scores.tasks == ()
    assert only.summary.tasks == ()
    with pytest.raises(ParameterError, match="scale must be in"):
        run(bench, recipe_of(zoo, tasks=plain, parameters={"scale": 7}))


def test_without_config_interference_works_and_scoring_says_what_is_missing(zoo: Path, tmp_path: Path) -> None:
    folder = make_models(tmp_path / "bare")
    for name in ("base", *TASKS):
        (folder / name / "config.json").unlink()
    bench = make_bench(folder, tmp_path / "exports")
    assert bench.survey(recipe_of(folder), metrics=["cosine"])["cosine"].table.shape[0] > 0
    with pytest.raises(CheckpointError, match=r"base: needs a config.json to be scored; got none\. Put"):
        run(bench, recipe_of(folder))
    assert bench.export(recipe_of(folder), "merged").path.is_dir()


def test_a_fine_tune_that_is_one_file_is_scored_with_the_bases_config(zoo: Path, tmp_path: Path) -> None:
    folder = make_models(tmp_path / "files")
    (folder / "colours" / "config.json").unlink()
    last = run(make_bench(folder, tmp_path / "exports"), recipe_of(folder))[-1]
    whole = run(make_bench(zoo, tmp_path / "exports"), recipe_of(zoo))[-1]
    assert accuracies(last, "expert") == accuracies(whole, "expert")


# ---------------------------------------------------------------- slots


def test_a_newer_request_stops_the_older_one_within_a_batch(
    bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = bench.slot("a")
    older = stream(bench, slot, recipe_of(zoo), slot.newest())
    next(older)
    newer = slot.newest()
    with pytest.raises(Cancelled):
        next(older)
    done = list(stream(bench, slot, recipe_of(zoo, parameters={"scale": 0.9}), newer))
    assert done[-1].finished and done[-1].recipe.parameters == {"scale": 0.9}


def test_a_cancel_in_the_middle_of_a_block_is_heard_at_the_next_batch(bench: Workbench, zoo: Path) -> None:
    from explorer.executor import CancelToken

    class AfterThree(CancelToken):
        checks = 0

        def check(self, who: str = "work") -> None:
            self.checks += 1
            if self.checks > 8:
                self.cancel()
            super().check(who)

    slot, token = bench.slot("a"), AfterThree()
    with pytest.raises(Cancelled):
        list(stream(bench, slot, recipe_of(zoo), token))
    assert token.checks == 9


def test_two_tabs_at_once_never_mix_results(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    recipes = {
        "a": [recipe_of(zoo, parameters={"scale": s}) for s in (-1.0, 0.0, 2.0)],
        "b": [recipe_of(zoo, tasks={"colours": {"checkpoint": str(zoo / "numbers"), "scale": s}}) for s in (0, 1.5)],
    }
    alone = {
        (slot, i): accuracies(run(make_bench(zoo, tmp_path / "x"), r)[-1])
        for slot, several in recipes.items()
        for i, r in enumerate(several)
    }
    assert len({str(v) for v in alone.values()}) > 2, "the settings must differ, or the test shows nothing"
    found: dict[Any, dict[str, float]] = {}

    def tab(slot: str) -> None:
        for _ in range(2):
            for i, r in enumerate(recipes[slot]):
                found[slot, i] = accuracies(run(bench, r, slot)[-1])

    threads = [threading.Thread(target=tab, args=(s,)) for s in recipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == alone


def test_the_idlest_slots_go_with_their_work_and_uploads(
    bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer.workbench, "MAX_SLOTS", 2)
    first = bench.slot("a")
    token = first.newest()
    kept = bench.receive("a", [zoo / "colours" / "model.safetensors"])
    bench.slot("b")
    bench.slot("a")  # used again, so b is the idlest
    bench.slot("c")
    assert not token.cancelled and kept.exists()
    bench.slot("d")
    assert token.cancelled and not kept.exists()
    assert bench.slot("a") is not first


def test_close_frees_the_rows_and_keeps_the_session(bench: Workbench, zoo: Path) -> None:
    slot = bench.slot("a")
    token = slot.newest()
    bench.live(slot, recipe_of(zoo))
    slot.session = slot.session.__class__(recipe_of(zoo, parameters={"scale": 0.4}))
    bench.close("a")
    assert slot.live is None and token.cancelled
    assert bench.slot("a") is slot and slot.session.recipe.parameters == {"scale": 0.4}
    bench.close("never opened")


# ---------------------------------------------------------------- memory


def test_models_that_a_tab_uses_are_not_loaded_again_when_the_store_lets_go(
    bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    real = explorer.workbench.load_resident
    monkeypatch.setattr(explorer.workbench, "load_resident", lambda *a: (loads.append(1), real(*a))[1])
    slot, recipe = bench.slot("a"), recipe_of(zoo)
    live = bench.live(slot, recipe)
    bench.store.drop("resident/")
    assert bench.live(slot, recipe) is live and len(loads) == 1
    bench.close("a")
    bench.store.drop("resident/")
    del live
    gc.collect()
    bench.live(slot, recipe)
    assert len(loads) == 2


def test_models_larger_than_the_budget_are_said_and_still_compared_and_exported(zoo: Path, tmp_path: Path) -> None:
    small = make_bench(zoo, tmp_path / "exports", budget_bytes=20_000)
    recipe = recipe_of(zoo, method="ties")
    with pytest.raises(InputError, match=r"memory: a merged model needs 0.\d MiB of memory to be scored; got 0.0 MiB"):
        run(small, recipe)
    large = make_bench(zoo, tmp_path / "exports")
    one, other = (b.survey(recipe, metrics=["cosine"])["cosine"].table for b in (small, large))
    assert one.equals(other)
    files = [b.export(recipe, n).path / "model.safetensors" for b, n in ((small, "a"), (large, "b"))]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_models_that_do_not_fit_are_read_at_each_merge_to_the_same_bits(zoo: Path, tmp_path: Path) -> None:
    large = make_bench(zoo, tmp_path / "exports")
    models = large.models(recipe_of(zoo))
    budget = resident_bytes(models) - 1
    assert rows_bytes(models) + resident_bytes(models, "disk") < budget, "the test needs models larger than their rows"
    small = make_bench(zoo, tmp_path / "exports", budget_bytes=budget)
    for method in ("task_arithmetic", "ties", "dare", "tsv_merge", "tall_masks"):
        recipe = recipe_of(zoo, method=method, dtype="float16")
        found, wanted = (b.live(b.slot("a"), recipe) for b in (small, large))
        for bench, live in ((small, found), (large, wanted)):
            live.merge(recipe, cache=bench.store)
        assert (found.resident.place, wanted.resident.place) == ("disk", "device")
        for task in recipe.task_names:
            one, other = found.weights(task), wanted.weights(task)
            assert all(torch.equal(one[n].view(torch.int16), other[n].view(torch.int16)) for n in other)
    last = run(small, recipe_of(zoo))[-1]
    assert last.place == "disk" and accuracies(last) == accuracies(run(large, recipe_of(zoo))[-1])


@pytest.mark.parametrize(
    ("free", "place"), [(None, "device"), (1 << 30, "device"), (0, "host")], ids=["processor", "large", "small"]
)
def test_a_card_too_small_streams_from_main_memory(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, place: str
) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    if free is not None:
        monkeypatch.setattr(bench, "device", Device("cuda:0", "a card", free, free))
    assert bench._place(bench.models(recipe_of(zoo))) == place
    host = load_resident(bench.models(recipe_of(zoo)), torch.device("cpu"), "host")
    disk = load_resident(bench.models(recipe_of(zoo)), torch.device("cpu"), "disk")
    assert host.resident_bytes > disk.resident_bytes
    name = host.arena.names[0]
    assert torch.equal(host.arena.task(1, name, 1, 5), disk.arena.task(1, name, 1, 5))


def test_an_idle_tab_makes_room_for_the_one_in_use(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    bytes_of = bench.resident(recipe_of(zoo)).resident_bytes
    bench = make_bench(zoo, tmp_path / "exports", budget_bytes=int(1.7 * bytes_of))
    one, other = bench.slot("a"), bench.slot("b")
    bench.live(one, recipe_of(zoo))
    bench.live(other, recipe_of(zoo, tasks={"colours": str(zoo / "colours")}))
    assert one.live is None and other.live is not None


def test_a_survey_is_made_once(bench: Workbench, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = explorer.workbench.survey_models
    monkeypatch.setattr(explorer.workbench, "survey_models", lambda *a, **k: (made.append(1), real(*a, **k))[1])
    recipe = recipe_of(zoo)
    first = bench.survey(recipe, metrics=["cosine", "sign_conflict"])
    again = bench.survey(recipe_of(zoo, parameters={"scale": 0.9}), metrics=["sign_conflict", "cosine"])
    assert again is first and len(made) == 1
    bench.survey(recipe, metrics=["cosine", "sign_conflict"], trim_density=0.5)
    bench.survey(recipe_of(zoo, exclude=["*.bias"]), metrics=["cosine", "sign_conflict"])
    assert len(made) == 3


def test_weights_differ_with_what_is_merged(bench: Workbench, zoo: Path) -> None:
    """include, exclude and the order of tasks change the key under which predictions are held."""
    slot, keys = bench.slot("a"), set()
    recipes = [recipe_of(zoo), recipe_of(zoo, exclude=["*.bias"]), recipe_of(zoo, include=["encoder.*"])]
    recipes += [recipe_of(zoo, parameters={"scale": 0.5}), recipe_of(zoo, dtype="float16"), recipe_of(zoo, seed=3)]
    for recipe in recipes:
        live = bench.live(slot, recipe)
        live.merge(recipe, cache=bench.store)
        keys.add(live.key)
    assert len(keys) == len(recipes)


# ---------------------------------------------------------------- names, paths, uploads, exports


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../x", "a/b", "/etc", "a\\b", ".hidden", "x" * 81, "a\nb", "a\x00b"]
)
def test_export_names_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(PathError, match="export: the export's name must be a plain folder name"):
        export_folder(tmp_path, name)


def test_a_plain_export_name_is_taken_as_it_is(tmp_path: Path) -> None:
    assert export_folder(tmp_path, " my merge 0.3 ") == tmp_path / "my merge 0.3"


def test_only_allowed_folders_are_opened(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    outside = make_models(tmp_path / "outside", ("colours",))
    link = zoo / "link"
    link.symlink_to(outside / "colours")
    try:
        for path in (outside / "colours", zoo / ".." / "outside" / "colours", link):
            with pytest.raises(PathError, match="must lie inside an allowed folder; got a path outside"):
                bench.models(recipe_of(zoo, tasks={"colours": str(path)}))
        assert link not in [p.resolve() for p in bench.available()]
    finally:
        link.unlink()


def test_uploads_are_checkpoints_or_nothing(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    good = [zoo / "colours" / n for n in ("model.safetensors", "config.json")]
    first = bench.receive("a", good)
    second = bench.receive("a", good)
    assert first != second and first.exists(), "an upload that may be in use is never replaced"
    assert run(bench, recipe_of(zoo, tasks={"colours": str(first)}))[-1].finished
    assert first not in bench.available(), "other people's uploads are not listed"
    bad = tmp_path / "model.safetensors"
    bad.write_bytes(b"\xff" * 64)
    before = sorted(bench.scratch.rglob("*"))
    with pytest.raises(CheckpointError):
        bench.receive("a", [bad])
    with pytest.raises(OutputError, match="upload: must be storable"):
        bench.receive("a", [tmp_path / "gone.safetensors"])
    assert sorted(bench.scratch.rglob("*")) == before


@pytest.mark.parametrize(
    ("names", "got"),
    [
        ([], "no weights"),
        (["config.json"], "no weights"),
        (["model.pkl", "model.safetensors"], "model.pkl"),
        (["run.py", "model.safetensors"], "run.py"),
        (["model.safetensors", "deep/model.safetensors"], "model.safetensors twice"),
    ],
)
def test_upload_refuses_other_files(names: list[str], got: str) -> None:
    with pytest.raises(InputError, match=f"got {got}"):
        upload_name([Path(n) for n in names])


def test_upload_names_are_plain() -> None:
    assert upload_name([Path("a/../my model?.safetensors"), Path("config.json")]) == "my-model"
    assert upload_name([Path("....safetensors".replace("....", "?.")), Path("config.json")]) == "upload"


def test_temporary_files_go_with_the_workbench(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    scratch = bench.scratch
    bench.receive("a", [zoo / "colours" / "model.safetensors"])
    del bench
    gc.collect()
    assert not scratch.exists()


def test_frozen_base_is_left_alone(bench: Workbench, zoo: Path) -> None:
    """Nothing shared is written to by a merge: two tabs read the same arena."""
    resident = bench.resident(recipe_of(zoo))
    before = {n: resident.arena.base(n, 0, 10).clone() for n in resident.arena.names}
    run(bench, recipe_of(zoo, parameters={"scale": 2.0}))
    assert all(torch.equal(before[n], resident.arena.base(n, 0, 10)) for n in before)
