"""What one browser tab waits for: how far its surveys are, in words, and the way to stop them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from explorer.executor import CancelToken, Progress, ProgressCallback
from viz.style import percent, seconds_text

SHOWN_AFTER_SECONDS = 1.5
"""What is done sooner is not worth a line that comes and goes."""

_POLL_SECONDS, _IDLE_POLLS = 0.3, 6


class Working:
    """The running surveys of one tab; safe to use from several threads."""

    def __init__(self) -> None:
        self.token = CancelToken()
        self._lock = threading.Lock()
        self._numbers = count()
        self._running: dict[int, tuple[float, Progress | None]] = {}
        self._watched = False

    @contextmanager
    def job(self) -> Iterator[ProgressCallback]:
        """While a survey runs; what is given takes its progress."""
        with self._lock:
            number = next(self._numbers)
            self._running[number] = (time.monotonic(), None)

        def report(progress: Progress) -> None:
            with self._lock:
                if number in self._running:
                    self._running[number] = (self._running[number][0], progress)

        try:
            yield report
        finally:
            with self._lock:
                del self._running[number]

    def stop(self) -> None:
        """Ask what runs to stop at its next piece."""
        self.token.cancel()

    def go_on(self) -> None:
        """Let surveys run again."""
        self.token = CancelToken()

    @property
    def stopped(self) -> bool:
        """Whether somebody asked to stop."""
        return self.token.cancelled

    def text(self) -> str:
        """How far the survey that has run longest is, and how long it will take; empty where nothing is slow."""
        with self._lock:
            started, progress = next(iter(self._running.values()), (None, None))
        if started is None or time.monotonic() - started < SHOWN_AFTER_SECONDS:
            return ""
        if progress is None or progress.eta_seconds is None:
            return "Reading weights …"
        left = f", about {seconds_text(progress.eta_seconds)} to go" if progress.eta_seconds >= 1 else ""
        return f"Reading weights: {percent(progress.fraction, 0)} of this pass{left}."

    def watch(self) -> Iterator[str]:
        """The text whenever it changes, until nothing has run for a while; one watcher at a time."""
        with self._lock:
            if self._watched:
                return
            self._watched = True
        try:
            shown, idle = "", 0
            while idle < _IDLE_POLLS:
                text = self.text()
                if text != shown:
                    yield text
                shown = text
                time.sleep(_POLL_SECONDS)
                with self._lock:
                    idle = 0 if self._running else idle + 1
            yield ""
        finally:
            with self._lock:
                self._watched = False
