"""Driving the real app: starting it, opening a watched tab, and reading and moving what is on the page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect
from sample_tasks import TASKS_FOLDER

from explorer.store import cache_folder

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("definitions", "intents", "languages", "movies", "newsgroups", "products", "spam")
TOPICS = {
    "Signs": ("sign-map", "sign-pairs"),
    "Masks": ("mask-agreement", "mask-overlap", "mask-upset"),
    "Tasks": ("cosine", "positions"),
    "Sizes": ("norms", "trimming"),
}
"""Figures of the place Interference by topic, those on whole matrices apart."""
FIGURES = tuple(name for names in TOPICS.values() for name in names)
PATIENCE_SECONDS = 300
"""How long a test waits for anything. It takes seconds; the limit is for a machine that does much else besides."""


@dataclass(frozen=True)
class App:
    """A running app: its address, where it exports to, and the seconds from its command to its address."""

    url: str
    exports: Path
    start_seconds: float
    ready: float
    tasks: Path


@contextmanager
def running_app(folder: Path, *arguments: str) -> Iterator[App]:
    """`python app.py` on a free port, with its exports and its cache in `folder`; stopped at the end."""
    exports, log = folder / "exports", folder / "app.log"
    # Its own log and cache: what other runs scored earlier must not help it.
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    # Compiled loops are the same for every run: those that are kept are used, as at any later start.
    environment.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "compiled"))
    environment.setdefault("OMP_WAIT_POLICY", "passive")  # the browser needs the processor too
    command = [sys.executable, "app.py", "--port", str(_free_port()), "--exports", str(exports), *arguments]
    begun = time.monotonic()
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"http://\S+", line)
            assert found, f"the app printed no address: {line!r}\n{log.read_text()}"
            ready = time.monotonic()
            tasks = Path(arguments[arguments.index("--tasks") + 1]) if "--tasks" in arguments else TASKS_FOLDER
            yield App(found[0].rstrip("/"), exports, ready - begun, ready, tasks)
            assert process.poll() is None, f"the app ended by itself:\n{log.read_text()}"
        finally:
            _end(process)
            print(log.read_text())
    assert "Traceback" not in log.read_text(), log.read_text()


def _end(process: subprocess.Popen[str]) -> None:
    """As by Ctrl+C; where that is ignored (a test run in the background), by force."""
    for ask in (lambda: process.send_signal(signal.SIGINT), process.terminate, process.kill):
        ask()
        try:
            process.wait(20)
            return
        except subprocess.TimeoutExpired:
            continue


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(page: Page, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until the condition holds, and give what it gave.

    The longer it takes, the seldomer it is asked: looking at the page costs time that the app could use.
    """
    begun = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - begun
        assert waited < seconds, f"not within {seconds} s; the page says:\n{page.inner_text('body')[:3000]}"
        page.wait_for_timeout(min(500, 40 + 100 * waited))
    return found


def at_rest(page: Page, target: Locator) -> dict[str, float]:
    """Where something lies on the screen, once it lies still."""
    seen: list[Any] = []

    def still() -> bool:
        seen.append(target.bounding_box())
        return len(seen) > 5 and seen[-1] is not None and all(box == seen[-1] for box in seen[-5:])

    until(page, still)
    return seen[-1]


def go(page: Page, place: str) -> None:
    """Open a place of the page."""
    page.get_by_role("tab", name=place, exact=True).click()


def topic(page: Page, name: str) -> None:
    """Open a topic of the place Interference, and wait for its figures."""
    tab = page.locator("#topics").get_by_role("tab", name=name, exact=True)
    if tab.is_visible():
        tab.click()
    else:  # on a telephone some tabs are in a menu
        page.locator("#topics .overflow-menu > button").click()
        page.locator("#topics .overflow-dropdown").get_by_text(name, exact=True).click()
    for panel in TOPICS.get(name, ()):
        wait_drawn(page, panel)


def drawn(page: Page, panel: str) -> int:
    """How often a panel's figure was drawn."""
    return int(page.evaluate("id => +(document.querySelector(`#${id} .host`)?.dataset.drawn || 0)", panel))


def wait_drawn(page: Page, panel: str, more_than: int = 0, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a panel's figure was drawn more often than this."""
    until(page, lambda: drawn(page, panel) > more_than, seconds)


def figure(page: Page, panel: str) -> str:
    """What a panel's figure shows, as text that changes with every number in it."""
    script = """id => JSON.stringify(document.querySelector(`#${id} .host`).data,
                     (key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value)"""
    return str(page.evaluate(script, panel))


def caption(page: Page, panel: str) -> str:
    """The sentence under a figure."""
    return page.locator(f"#{panel} .caption").inner_text()


def numbers(page: Page, panel: str) -> list[dict[str, str]]:
    """The table beneath a figure, as a person opens and reads it."""
    box = page.locator(f"#{panel} details.rows")
    if box.get_attribute("open") is None:
        box.locator("summary").click()
    box.locator("td").first.wait_for()
    head, *body = box.locator("tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent.trim()))")
    return [dict(zip(head, row, strict=True)) for row in body]


def headline(page: Page) -> dict[str, tuple[str, str]]:
    """The row of numbers above the scores: label -> (value, detail)."""
    script = """boxes => boxes.map(box => ['label', 'value', 'detail'].map(
                     part => box.querySelector('.' + part)?.textContent || ''))"""
    found = page.locator("#headline .figure").evaluate_all(script)
    return {label: (value, detail) for label, value, detail in found}


def recipe(page: Page) -> str:
    """The recipe shown beside the export."""
    return "\n".join(page.locator("#places .cm-line").all_text_contents())


def row(page: Page, name: str) -> Locator:
    """The mixer row of a task, or of all tasks."""
    return page.locator("#mixer").get_by_role("group", name=name, exact=True)


def slider(page: Page, name: str) -> Locator:
    """The slider of a mixer row."""
    return row(page, name).get_by_role("slider")


def coefficients(page: Page) -> dict[str, float]:
    """What the mixer shows."""
    return {name: float(row(page, name).get_by_role("textbox").input_value()) for name in TASKS}


def drag(page: Page, control: Locator, to: float) -> None:
    """Drag a slider's thumb with the mouse to a value, in many small moves."""
    control.scroll_into_view_if_needed()
    box = control.bounding_box()
    assert box
    low, high = (float(control.get_attribute(name) or "nan") for name in ("min", "max"))
    at = [box["x"] + 8 + (v - low) / (high - low) * (box["width"] - 16) for v in (float(control.input_value()), to)]
    y = box["y"] + box["height"] / 2
    page.mouse.move(at[0], y)
    page.mouse.down()
    page.mouse.move(at[1], y, steps=12)
    page.mouse.up()


def is_scored(page: Page) -> bool:
    """Whether every example of the setting on the page is scored and its figure is up to date."""
    return bool(
        page.locator("#scores .explorer-panel:not(.is-stale)").count()
        and headline(page).get("held-out examples", ("", ""))[1] == "all scored"
    )


def wait_scored(page: Page, recipe_has: str = "", more_than: int = 0) -> None:
    """Wait until everything is scored for the recipe that contains this text."""
    said = lambda: recipe_has in recipe(page) and drawn(page, "scores") > more_than and is_scored(page)  # noqa: E731
    until(page, said)


def merged(page: Page) -> dict[str, tuple[int, int]]:
    """Right answers and examples per task of the merged model, from the table under the scores."""
    rows = [r for r in numbers(page, "scores") if r["model"] == "merged"]
    return {r["task"]: (int(float(r["correct"])), int(r["n"])) for r in rows}


def open_merge(page: Page) -> None:
    """Open the place Merge and wait until the first setting is scored to its end."""
    go(page, "Merge")
    expect(page.locator("#mixer .row").first).to_be_visible()
    wait_scored(page, "base:")


def choose(page: Page, title: str) -> None:
    """Take another method from the list."""
    page.get_by_label("Method", exact=True).click()
    # What a method is about may stand behind its title: "TALL masks · one model per task".
    page.get_by_role("option", name=re.compile(rf"^(✓\s*)?{re.escape(title)}( ·|$)")).click()
