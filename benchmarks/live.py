"""How soon the page answers: starts the app, moves real sliders in a real browser, and prints the times.

    python benchmarks/live.py [--moves N] [--method NAME] [--quick]

Needs what the tests need (requirements-dev.txt and a browser). Nothing else should run on the machine meanwhile.
Prints every figure, and ends with one line of JSON that holds them all and describes the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "app"), str(ROOT / "tests" / "unit")]

import browser as finder
import torch
from driving import TASKS, App, choose, go, is_scored, running_app, slider, topic, until, wait_drawn, wait_scored
from machine import machine
from playwright.sync_api import Locator, Page, sync_playwright

from explorer.live import LiveModel
from explorer.merging import METHODS as EVERY_METHOD
from explorer.recipe import Recipe
from explorer.samples import FOLDER, sample_recipe
from explorer.workbench import Workbench

METHODS = ("task_arithmetic", "weight_average", "ties", "tall_masks", "consensus")
TARGETS = {"first_scores_seconds": 1.5, "all_scored_seconds": 20.0, "first_figure_seconds": 10.0}

# From the key press to the frame in which the newer figure is painted, all on the browser's own clock.
CLOCK = """() => {
  const clock = window.clock = { pressed: 0, stale: 0, first: 0, complete: 0, drawings: 0 };
  const panel = document.querySelector('#scores .explorer-panel'), host = panel.querySelector('.host');
  document.addEventListener('keydown', () => Object.assign(clock, { pressed: performance.now(), stale: 0, first: 0,
    complete: 0, drawings: 0 }), true);
  const painted = (act) => requestAnimationFrame(() => setTimeout(() => act(performance.now())));
  new MutationObserver(() => {
    if (panel.classList.contains('is-stale') && !clock.stale) clock.stale = performance.now();
  }).observe(panel, { attributes: true, attributeFilter: ['class'] });
  new MutationObserver(() => {
    if (!clock.stale) return;
    clock.drawings += 1;
    const all = document.querySelector('#headline').textContent.includes('all scored');
    painted((now) => { clock.first = clock.first || now; if (all) clock.complete = now; });
  }).observe(host, { attributes: true, attributeFilter: ['data-drawn'] });
}"""

# The same for one figure that needs no scoring.
FIGURE_CLOCK = """(id) => {
  const clock = window.figureClock = { pressed: 0, drawn: 0 };
  document.addEventListener('keydown', () => Object.assign(clock, { pressed: performance.now(), drawn: 0 }), true);
  new MutationObserver(() => {
    if (clock.pressed && !clock.drawn)
      requestAnimationFrame(() => setTimeout(() => { clock.drawn = clock.drawn || performance.now(); }));
  }).observe(document.querySelector(`#${id} .host`), { attributes: true, attributeFilter: ['data-drawn'] });
}"""


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"median": round(statistics.median(ordered), 4), "p95": round(p95, 4), "n": len(ordered)}


def in_browser(moves: int, method: str) -> dict[str, Any]:
    """Start to first figure; `moves` moves of 0.1, each scored to its end; and as many in quick succession."""
    folder = Path(tempfile.mkdtemp(prefix="live-benchmark-"))
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=finder.find(), args=list(finder.FLAGS))
        page = made.new_page(viewport={"width": 1280, "height": 900})
        with running_app(folder) as app:
            found = _start(page, app)
            if method != "task_arithmetic":
                choose(page, EVERY_METHOD.get(method).title)
                wait_scored(page, f"method: {method}")
            page.evaluate(CLOCK)
            calm = [_move(page, i, to_end=True) for i in range(moves)]
            busy = [_move(page, moves + i, to_end=False) for i in range(moves)]
            found["contributions_seconds"] = _figure(page, "contributions", lambda i: slider(page, TASKS[i % 7]), moves)
            go(page, "Interference")
            topic(page, "Masks")
            threshold = page.get_by_role("slider", name="Mask threshold")
            found["mask_threshold_seconds"] = _figure(page, "mask-agreement", lambda i: threshold, moves)
            page.close()
        made.close()
    found["first_scores_seconds"] = spread([(c["first"] - c["pressed"]) / 1000 for c in calm])
    found["all_scored_seconds"] = spread([(c["complete"] - c["pressed"]) / 1000 for c in calm])
    found["first_scores_while_scoring_seconds"] = spread([(c["first"] - c["pressed"]) / 1000 for c in busy])
    found["out_of_date_mark_seconds"] = spread([(c["stale"] - c["pressed"]) / 1000 for c in calm])
    found["drawings_per_move"] = statistics.median(c["drawings"] for c in calm)
    return found


def _figure(page: Page, panel: str, control: Callable[[int], Locator], moves: int) -> dict[str, float]:
    """A key press on a control until its figure is painted, several times."""
    wait_drawn(page, panel)
    page.evaluate(FIGURE_CLOCK, panel)
    taken = []
    for index in range(moves):
        control(index).press("ArrowRight")
        taken.append(until(page, lambda: max(0, page.evaluate("figureClock.drawn - figureClock.pressed")), 60) / 1000)
    return spread(taken)


def _start(page: Page, app: App) -> dict[str, Any]:
    page.goto(f"{app.url}/?__theme=light", wait_until="commit")
    wait_drawn(page, "first-look")
    first = time.monotonic() - app.ready
    go(page, "Merge")
    wait_scored(page, "base:")
    scored = time.monotonic() - app.ready
    return {
        "server_start_seconds": round(app.start_seconds, 2),
        "first_figure_seconds": round(first, 2),
        "first_setting_all_scored_seconds": round(scored, 2),
    }


def _move(page: Page, index: int, *, to_end: bool) -> dict[str, float]:
    """One move of 0.1 by keyboard. Tasks take turns and only go up, so no setting comes twice."""
    slider(page, TASKS[index % len(TASKS)]).press("Shift+ArrowRight")
    wanted = "complete" if to_end else "first"
    until(page, lambda: page.evaluate("name => clock[name]", wanted), 120)
    if to_end:
        until(page, lambda: is_scored(page), 120)
    return dict(page.evaluate("clock"))


def seconds_of(function: Callable[[], Any], times: int) -> list[float]:
    """Wall time of each of several calls."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begun)
    return taken


def floor_seconds(live: LiveModel, times: int) -> list[float]:
    """Seconds that moving the bytes alone takes: every resident row is read once and the merged row written once.

    Rows are contiguous, so they are read as int64 and summed, and written by a fill; both on all of torch's threads.
    """
    longs = live.arena.resident_bytes // 8
    rows = torch.zeros(longs, dtype=torch.int64)
    merged = torch.zeros(longs // (len(live.arena.tasks) + 1), dtype=torch.int64)
    return seconds_of(lambda: (rows.sum(), merged.fill_(1)), times)


def in_process(moves: int) -> dict[str, Any]:
    """Merging and scoring without page or browser."""
    bench = Workbench(sample_recipe(), roots=[FOLDER], tasks_folders=[FOLDER / "tasks"], exports=Path("exports"))
    live = bench.live(bench.slot("benchmark"), bench.start)
    floor = statistics.median(floor_seconds(live, 20))
    found: dict[str, Any] = {"floor_seconds": round(floor, 4), "merge_seconds": {}, "merge_over_floor": {}}
    for method in METHODS:
        first, *later = (live.merge(_setting(bench, method, i), cache=bench.store) for i in range(moves + 1))
        found["merge_seconds"][method] = {"first": round(first, 4), **spread(later)}
        found["merge_over_floor"][method] = round(statistics.median(later) / floor, 1)
    evaluator = bench.evaluator(bench.start)
    for task in evaluator.tasks:
        evaluator.plan(task)
    live.merge(bench.start, cache=bench.store)
    score = lambda quick: list(evaluator.run(live.module_for, key="", only_quick=quick))  # noqa: E731
    found["quick_round_seconds"] = spread(seconds_of(lambda: score(True), min(moves, 10)))
    found["full_evaluation_seconds"] = spread(seconds_of(lambda: score(False), 3))
    return found


def _setting(bench: Workbench, method: str, index: int) -> Recipe:
    """The method with its own coefficient, or what stands for it, a little different each time."""
    name = "scale" if "scale" in {s.name for s in bench.method(method).specs} else "weight"
    entries = tuple(replace(t, parameters={name: 0.3 + 0.01 * index}) for t in bench.start.tasks)
    return replace(bench.start, method=method, tasks=entries)


def report(found: dict[str, Any]) -> None:
    """Every figure on a line of its own; a target beside the three that have one."""
    for name, value in found.items():
        if name == "machine":
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif name in TARGETS:
            got = value["median"] if isinstance(value, dict) else value
            value = f"{value}   target {TARGETS[name]}: {'met' if got <= TARGETS[name] else 'MISSED'}"
        print(f"{name:36} {value}", flush=True)


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20, help="moves of a slider by 0.1 (default 20)")
    parser.add_argument("--method", default="task_arithmetic", choices=METHODS, help="merge method that is moved")
    parser.add_argument("--quick", action="store_true", help="5 moves only, for a first impression")
    arguments = parser.parse_args()
    moves = 5 if arguments.quick else max(1, arguments.moves)
    found = {"machine": machine(), "method": arguments.method, "moves": moves}
    found |= in_browser(moves, arguments.method)
    found |= in_process(moves)
    report(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
