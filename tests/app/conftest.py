"""The real app and a real browser. Without a browser these tests fail; they never skip."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))  # for its tasks of few examples

import browser as finder
import pytest
from driving import App, running_app
from playwright.sync_api import Browser, Page, sync_playwright
from sample_tasks import fewer_examples
from tabs import Tabs, serving

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test leaves its tab in an unknown state; the next one takes another."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session", autouse=True)
def stopped_with_the_tests() -> Iterator[None]:
    """A run that is told to end stops its app and its browser too, as Ctrl+C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app for all tests of the page, on the sample models and a few of their held-out texts."""
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


@pytest.fixture(scope="module")
def file_tabs(browser: Browser) -> Iterator[Tabs]:
    """The tabs of a file's tests."""
    made = Tabs(browser)
    yield made
    made.close()


@pytest.fixture
def tabs(file_tabs: Tabs, request: pytest.FixtureRequest) -> Iterator[Tabs]:
    """Tabs for one test. Afterwards none may have asked another host, logged an error, or met an uncaught error."""
    yield file_tabs
    file_tabs.end_turn(failed=request.node.stash.get(FAILED, False))


@pytest.fixture
def open_tab(tabs: Tabs, app: App) -> Callable[..., Page]:
    """Opens the app as another visitor: `open_tab(query, **context options)`."""
    return lambda query="", **options: tabs.open(f"{app.url}/{query or '?__theme=light'}", "#places", **options)


@pytest.fixture
def page(open_tab: Callable[..., Page]) -> Page:
    """The page in one tab."""
    return open_tab()


@pytest.fixture(scope="module")
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of the `page_under_test` of a file with a page of its own."""
    with serving(request.module.page_under_test()) as url:
        yield url


@pytest.fixture
def open_part(tabs: Tabs, address: str) -> Callable[..., Page]:
    """Opens a file's own page: `open_part(what is there once it is loaded, theme, **context options)`."""

    def opened(ready: str, theme: str = "light", **options: Any) -> Page:
        return tabs.open(f"{address}/?__theme={theme}", ready, **options)

    return opened
