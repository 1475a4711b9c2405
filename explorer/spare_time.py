"""Work that nobody waits for: it takes the device only when no live answer has been wanted for a moment."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from explorer.executor import CancelToken
from explorer.slots import Turns

CALM_SECONDS = 0.25
"""So long after the last live turn the device counts as free: the moves of a drag follow each other faster."""

_LOOK_SECONDS = 0.01


class SpareTime:
    """Who may use the device between live answers: one piece of work at a time, in the order of asking.

    with spare.piece(token):          wait until it is one's turn among the others in the background
        with spare.turn(token): ...   a short step, once the device is free
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._lock = threading.Lock()
        self._queue: deque[object] = deque()

    @contextmanager
    def piece(self, cancel: CancelToken) -> Iterator[None]:
        """Wait until the pieces asked for earlier are done. Raises Cancelled while it waits."""
        mine = object()
        with self._lock:
            self._queue.append(mine)
        try:
            while self._queue[0] is not mine:
                cancel.check("background work")
                time.sleep(_LOOK_SECONDS)
            yield
        finally:
            with self._lock:
                self._queue.remove(mine)

    @contextmanager
    def turn(self, cancel: CancelToken) -> Iterator[None]:
        """Wait until no live answer has been wanted for `CALM_SECONDS`, then for the device.

        Raises Cancelled while it waits.
        """
        while self._turns.calm_seconds < CALM_SECONDS:
            cancel.check("background work")
            time.sleep(_LOOK_SECONDS)
        with self._turns.turn(live=False):
            cancel.check("background work")
            yield
