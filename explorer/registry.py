"""One registry for every kind of plugin: methods, metrics, tasks, charts.

A plugin is one file in the kind's folder; the folder is imported on first use. A name may be taken once.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from explorer.errors import UnknownNameError, near, sentence


class Named(Protocol):
    """Anything with a unique name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Plugins of one kind by name, discovered in one or more packages."""

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = list(packages)
        self._items: dict[str, T] = {}
        self._begun: set[str] = set()
        self._discovered: set[str] = set()
        # Re-entrant: a plugin may look up another one while it is being imported.
        self._lock = threading.RLock()

    def add(self, item: T) -> T:
        """Register an item; a name already taken by another one is a TypeError (a programming error)."""
        if item.name in self._items:
            raise TypeError(f"{self.kind} {item.name!r} is registered twice")
        self._items[item.name] = item
        return item

    def extend(self, package: str) -> None:
        """Also discover plugins in `package`, at the next look-up."""
        if package not in self._packages:
            self._packages.append(package)

    def retract(self, package: str) -> None:
        """Undo `extend`; what the package registered stays until it is forgotten. For tests of plugins."""
        self._packages.remove(package)
        self._begun.discard(package)
        self._discovered.discard(package)

    def forget(self, name: str) -> None:
        """Drop one item; for tests of plugins."""
        self._items.pop(name, None)

    def _discover(self) -> None:
        """Import the packages not met yet; another thread that asks meanwhile waits until all plugins are there."""
        if self._discovered.issuperset(self._packages):
            return
        with self._lock:
            for package in [p for p in self._packages if p not in self._begun]:
                self._begun.add(package)
                try:
                    module = importlib.import_module(package)
                    for info in sorted(pkgutil.iter_modules(module.__path__), key=lambda i: i.name):
                        if not info.name.startswith("_"):
                            importlib.import_module(f"{package}.{info.name}")
                except BaseException:
                    self._begun.discard(package)
                    raise
                self._discovered.add(package)

    def get(self, name: str) -> T:
        """The item of that name. Raises UnknownNameError with near names."""
        self._discover()
        if name not in self._items:
            message = sentence(self.kind, "must be a known name", repr(name), near(name, self.names()))
            raise UnknownNameError(message)
        return self._items[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self._discover()
        return tuple(sorted(self._items))

    def __iter__(self) -> Iterator[T]:
        return iter([self.get(n) for n in self.names()])

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._items

    def __len__(self) -> int:
        return len(self.names())
