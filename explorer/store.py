"""A byte-bounded cache keyed by digest; two callers that want the same thing wait for one computation.

`KeptStore` also keeps small arrays of chosen keys on disk, so that what never changes is computed once ever.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from explorer.seeds import digest_of

T = TypeVar("T")


class Store:
    """Least recently used values, at most `budget_bytes` of them in total."""

    def __init__(self, budget_bytes: int = 1 << 30) -> None:
        self.budget_bytes = budget_bytes
        self._values: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._in_flight: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes held now, by the sizes that were stated."""
        with self._lock:
            return sum(size for _, size in self._values.values())

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._values

    def get(self, key: str) -> Any | None:
        """The value, or None when it is not held."""
        with self._lock:
            return self._touch(key)

    def _touch(self, key: str) -> Any | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: str, value: Any, size_bytes: int) -> None:
        """Hold a value; the least recently used ones go when the budget is passed. A value over budget is not held."""
        with self._lock:
            self._values.pop(key, None)
            if size_bytes > self.budget_bytes:
                return
            self._values[key] = (value, size_bytes)
            while sum(size for _, size in self._values.values()) > self.budget_bytes:
                self._values.popitem(last=False)

    def get_or_make(self, key: str, make: Callable[[], T], size_bytes: Callable[[T], int] | int = 0) -> T:
        """The held value, or `make()` computed once even when several threads ask; an error is not held."""
        while True:
            with self._lock:
                if key in self._values:
                    return cast(T, self._touch(key))
                event = self._in_flight.get(key)
                if event is None:
                    self._in_flight[key] = threading.Event()
                    break
            event.wait()
        try:
            value = make()
            self.put(key, value, size_bytes(value) if callable(size_bytes) else size_bytes)
            return value
        finally:
            with self._lock:
                self._in_flight.pop(key).set()

    def drop(self, prefix: str) -> None:
        """Forget every key that starts with `prefix`."""
        with self._lock:
            for key in [k for k in self._values if k.startswith(prefix)]:
                del self._values[key]


class KeptStore(Store):
    """A store whose arrays under `prefix` are also files in `folder`, one each, named by digest.

    A file that cannot be read or written is as good as none: the value is computed again. Arrays of numbers only;
    nothing is ever unpickled.
    """

    def __init__(self, budget_bytes: int, folder: Path, prefix: str) -> None:
        super().__init__(budget_bytes)
        self.folder, self.prefix = folder, prefix

    def _file(self, key: str) -> Path:
        return self.folder / f"{digest_of(key)}.npy"

    def get(self, key: str) -> Any | None:
        """The value from memory, else from its file, else None."""
        held = super().get(key)
        if held is not None or not key.startswith(self.prefix):
            return held
        import numpy as np

        with suppress(OSError, ValueError, EOFError):
            held = np.load(self._file(key), allow_pickle=False)
            super().put(key, held, held.nbytes)
        return held

    def put(self, key: str, value: Any, size_bytes: int) -> None:
        """Hold a value, and write its file when its key has the prefix."""
        super().put(key, value, size_bytes)
        if not key.startswith(self.prefix):
            return
        import numpy as np

        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self._file(key).with_suffix(f".{secrets.token_hex(4)}.part")
            with partial.open("wb") as file:
                np.save(file, value, allow_pickle=False)
            os.replace(partial, self._file(key))


def cache_folder() -> Path:
    """Where this user's caches belong: $EXPLORER_CACHE itself, else a folder in $XDG_CACHE_HOME, else in ~/.cache."""
    if named := os.environ.get("EXPLORER_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "task-interference-explorer"


def bytes_in_words(size_bytes: int) -> str:
    """A size for a sentence, such as `1.5 GiB` or `16.0 MiB`."""
    return f"{size_bytes / (1 << 30):.1f} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):.1f} MiB"
