"""One browser tab's place on the workbench, and the order in which tabs use the device."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from explorer.executor import CancelToken
from explorer.live import LiveModel
from explorer.session import Session


class Turns:
    """A lock that is granted in the order of asking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._live, self._live_ended = 0, 0.0

    @property
    def calm_seconds(self) -> float:
        """How long nobody has wanted the device for a live answer; 0 while somebody does."""
        with self._lock:
            return 0.0 if self._live else time.monotonic() - self._live_ended

    @contextmanager
    def turn(self, *, live: bool = True) -> Iterator[None]:
        """Wait for one's turn on the device; `live` is False for work that nobody waits for."""
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            self._waiting[0].set()
            self._live += live
        try:
            mine.wait()
            yield
        finally:  # also when the wait was interrupted: a place that nobody takes would hold up everyone behind it
            with self._lock:
                self._waiting.remove(mine)
                if self._waiting:
                    self._waiting[0].set()
                if live:
                    self._live, self._live_ended = self._live - 1, time.monotonic()


@dataclass(eq=False)
class Slot:
    """What one browser tab holds: its session, its newest request, and its live model once there is one.

    `background` stops what runs beside the live requests, such as a sweep: those do not stop it, closing the tab does.
    """

    id: str
    session: Session
    token: CancelToken = field(default_factory=CancelToken)
    background: CancelToken = field(default_factory=CancelToken)
    live: LiveModel | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    latest: tuple[int, int] = (0, 0)
    aside: Slot | None = None

    @property
    def places(self) -> tuple[Slot, ...]:
        """Where this tab may hold a live model: here, and beside it."""
        return (self, self.aside) if self.aside else (self,)

    def beside(self) -> Slot:
        """The tab's second place, for a setting that is scored again while another is shown; freed with this one."""
        with self.lock:
            if self.aside is None:
                self.aside = Slot(f"{self.id} aside", self.session)
            return self.aside

    def is_news(self, turn: int | None, rank: int = 0) -> bool:
        """Whether a request is not older than one already taken: they may overtake each other on their way here.

        `turn` grows with everything the tab sends, `rank` settles equal turns: 0 a control is moved, 1 it was let go,
        2 what was done after that. A request without a turn is always news.
        """
        with self.lock:
            if turn is None:
                return True
            if (turn, rank) < self.latest:
                return False
            self.latest = (turn, rank)
            return True

    def newest(self) -> CancelToken:
        """A token for a new request; the request before it is asked to stop."""
        with self.lock:
            self.token.cancel()
            self.token = CancelToken()
            return self.token

    def newest_in_background(self) -> CancelToken:
        """A token for new work in the background; the work before it is asked to stop."""
        with self.lock:
            self.background.cancel()
            self.background = CancelToken()
            return self.background

    def free(self) -> None:
        """Stop the work and let go of the live model; the session stays."""
        with self.lock:
            self.newest()
            self.background.cancel()
            self.live = None
            if self.aside:
                self.aside.free()
