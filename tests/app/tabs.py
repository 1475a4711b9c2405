"""Tabs of the browser in which nothing may go wrong unseen, and pages of a test's own to open in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from playwright.sync_api import Browser, BrowserContext, Page, expect

WIDE = {"width": 1280, "height": 900}
PATIENCE_MS = 120_000
"""Limit of one step of the browser; a machine that does much else may need a minute for what takes a second."""
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def serving(demo: gr.Blocks) -> Iterator[str]:
    """The address of a page that is served from this process, on a free port."""
    _, url, _ = demo.launch(
        server_name="127.0.0.1", server_port=None, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
        run_history=False, enable_monitoring=False,
    )  # fmt: skip
    try:
        yield url.rstrip("/")
    finally:
        demo.close()


@dataclass
class Watch:
    """Everything that must not happen in a tab: another host asked, a console error, an error, a script from a name."""

    trouble: list[str] = field(default_factory=list)

    def context(self, browser: Browser, **options: Any) -> BrowserContext:
        """A browser context whose every page is watched."""
        made = browser.new_context(**{"viewport": WIDE, "accept_downloads": True, **options})
        made.set_default_timeout(PATIENCE_MS)
        made.on("request", lambda request: self._host(request.url))
        made.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        made.on("weberror", lambda error: self._note(str(error.error)))
        made.on("page", lambda page: page.on("websocket", lambda socket: self._host(socket.url)))
        return made

    def _host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "file") and parts.hostname != "127.0.0.1":
            self._note(f"asked another host: {url}")

    def _note(self, text: str) -> None:
        self.trouble.append(text)


@dataclass
class Tabs:
    """Watched tabs: one that the tests of a file take turns with, because a warm one loads in a third of the time.

    Every turn starts from the address anew, with an empty memory: to Python it is another visitor.
    """

    browser: Browser
    watch: Watch = field(default_factory=Watch)
    _own: list[BrowserContext] = field(default_factory=list)
    _shared: Page | None = None
    _taken: bool = False

    def open(self, url: str, ready: str, **options: Any) -> Page:
        """A tab at this address, once `ready` is there; in a context of its own for options or beside another tab."""
        if options or self._taken:
            self._own.append(self.watch.context(self.browser, **options))
            tab = self._own[-1].new_page()
        else:
            tab, self._taken = self._warm(url), True
        tab.goto(url)
        tab.wait_for_selector(ready)
        return tab

    def _warm(self, url: str) -> Page:
        if self._shared is None or self._shared.is_closed():
            self._shared = self.watch.context(self.browser).new_page()
            return self._shared
        parts, said = urlsplit(url), len(self.watch.trouble)
        self._shared.set_viewport_size({"width": WIDE["width"], "height": WIDE["height"]})
        self._shared.goto(f"{parts.scheme}://{parts.netloc}/robots.txt")  # of the same origin, without a script
        self._shared.evaluate("localStorage.clear(), sessionStorage.clear()")
        del self.watch.trouble[said:]  # a page that is left while it still loads complains of that
        return self._shared

    def end_turn(self, *, failed: bool) -> None:
        """After a test: its own tabs are closed, and nothing may have gone wrong in any. After a failure all close."""
        tabs = [page for context in self._own for page in context.pages]
        tabs += [self._shared] if self._shared and self._taken else []
        told = [] if failed else [tab.url for tab in tabs if tab.evaluate("window.pwned") is not None]
        for context in self._own:
            context.close()
        if failed and self._shared:
            self._shared.context.close()
            self._shared = None
        self._own, self._taken = [], False
        trouble, self.watch.trouble[:] = [*self.watch.trouble, *(f"a script ran at {url}" for url in told)], []
        assert trouble == [], "\n".join(trouble)

    def close(self) -> None:
        """After the last test of a file."""
        if self._shared:
            self._shared.context.close()
