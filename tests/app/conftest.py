"""The real app and a real browser. Without a browser these tests fail; they never skip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import browser as finder
import pytest
from driving import App, Watch, fewer_examples, running_app
from playwright.sync_api import Browser, Page, sync_playwright


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app for all tests of the page, on the sample models and every fifth of their held-out texts."""
    folder = tmp_path_factory.mktemp("app")
    with running_app(folder, "--tasks", str(fewer_examples(folder / "tasks"))) as started:
        yield started


# Not for the whole session: while Playwright runs, nothing else in this thread may start an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = finder.find()
    if path is None:
        pytest.fail("no browser found: run `python tests/app/browser.py --install`, or set BROWSER_PATH")
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=list(finder.FLAGS))
        yield made
        made.close()


@pytest.fixture
def open_tab(browser: Browser, app: App) -> Iterator[Callable[..., Page]]:
    """Opens the app in a tab of a browser of its own: `open_tab(query, **context options)`.

    Afterwards no tab may have asked another host, logged an error, or met an uncaught error.
    """
    watch, contexts = Watch(), []

    def opened(query: str = "", **options: Any) -> Page:
        contexts.append(watch.context(browser, **options))
        tab = contexts[-1].new_page()
        tab.goto(f"{app.url}/{query or '?__theme=light'}")
        tab.wait_for_selector("#places")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert watch.trouble == []


@pytest.fixture
def page(open_tab: Callable[..., Page]) -> Page:
    """The page in one tab."""
    return open_tab()
