"""Models that were opened a moment ago: one move asks for them many times, and reading headers again takes time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from explorer.errors import CheckpointError
from explorer.opening import OpenModels

KEPT_SECONDS = 2.0
_MOST = 16


class Opened:
    """Keeps opened models for two seconds, while no file of weights or statistics changes; safe to use from threads."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, OpenModels]] = {}
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], OpenModels]) -> OpenModels:
        """The models of this recipe's digest, or what `make` opens. Raises as `make` does."""
        now = time.monotonic()
        with self._lock:
            self._held = {k: h for k, h in list(self._held.items())[-_MOST:] if now - h[0] < KEPT_SECONDS}
            held = self._held.get(key)
        if held is not None and _unchanged(held[1]):
            return held[1]
        made = make()
        with self._lock:
            self._held[key] = (now, made)
        return made


def _unchanged(models: OpenModels) -> bool:
    try:
        for checkpoint in (models.base, *models.tasks.values(), *(given.file for given in models.given.values())):
            for stamp in checkpoint.stamps:
                stamp.check()
    except CheckpointError:
        return False
    return True
