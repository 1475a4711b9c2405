"""Many people at once, and one who drags: everybody is answered with the right numbers, the last value wins."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.errors import Cancelled
from explorer.executor import CancelToken
from explorer.recipe import Recipe
from explorer.streaming import LiveUpdate, stream

PEOPLE, MOVES = 10, 3


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


def accuracies(update: LiveUpdate) -> dict[str, float]:
    rows = update.scores.table[update.scores.table["model"] == "merged"]
    return dict(zip(rows["task"], rows["score"], strict=True))


def persons_recipe(zoo: Path, person: int, move: int) -> Recipe:
    """Different models, methods and coefficients for everyone; nobody's setting is another's."""
    names = [TASKS, TASKS[:1], TASKS[1:]][person % 3]
    scale = -1.0 + 0.09 * (PEOPLE * move + person)
    tasks = {t: {"checkpoint": str(zoo / t), "scale": scale} for t in names}
    return recipe_of(zoo, tasks=tasks, method=("task_arithmetic", "ties")[person % 2])


def test_ten_people_at_once_are_all_answered_and_nothing_is_mixed(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    found: dict[tuple[int, int], dict[str, float]] = {}
    order: list[int] = []
    ready = threading.Barrier(PEOPLE)

    def person(number: int) -> None:
        slot = bench.slot(f"person {number}")
        ready.wait(60)
        for move in range(MOVES):
            for update in stream(bench, slot, persons_recipe(zoo, number, move), slot.newest()):
                order.append(number)
                found[number, move] = accuracies(update)

    threads = [threading.Thread(target=person, args=(n,)) for n in range(PEOPLE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    alone = make_bench(zoo, tmp_path / "alone")
    for (number, move), got in found.items():
        slot = alone.slot("alone")
        assert got == accuracies(list(stream(alone, slot, persons_recipe(zoo, number, move), slot.newest()))[-1])
    assert len(found) == PEOPLE * MOVES
    first_answers = [order.index(number) for number in range(PEOPLE)]
    assert max(first_answers) < len(order) // 2, "somebody had no answer until the others were nearly done"


def test_of_sixty_events_in_a_drag_one_is_late_at_most_and_the_last_wins(zoo: Path, tmp_path: Path) -> None:
    bench = make_bench(zoo, tmp_path / "exports")
    slot, finished = bench.slot("a"), []
    late: list[int] = []

    def event(scale: float, token: CancelToken) -> None:
        updates = stream(bench, slot, recipe_of(zoo, parameters={"scale": scale}), token)
        with suppress(Cancelled):
            while True:
                asked = token.cancelled
                update = next(updates, None)
                if asked and update is not None:
                    late.append(1)  # an answer to a question that was taken back before it was asked for
                if update is None:
                    break
                if update.finished:
                    finished.append(scale)

    event(0.0, slot.newest())
    assert slot.live is not None
    before, answers = slot.live.resident_bytes, bench.store.used_bytes
    threads = []
    for number in range(1, 61):
        thread = threading.Thread(target=event, args=(0.01 * number, slot.newest()))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(240)
    last = recipe_of(zoo, parameters={"scale": 0.6})
    assert finished[-1] == pytest.approx(0.6) and not late
    assert len(finished) < 30, "older settings were scored to their end"
    assert slot.live.key == slot.live.key_of(last)
    assert slot.live.resident_bytes == before
    assert bench.store.used_bytes - answers < 60 * 10_000, "only answers are kept, no weights"
