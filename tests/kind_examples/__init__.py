"""One small task and model per task kind, made on the spot, for the contract suite.

Each module here holds `EXAMPLES`: kind name -> function that makes the example in an empty folder. A kind without one
cannot be checked, so it may not be registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Built:
    """A task folder, and the folder of a model (with tokenizer or image settings) that can serve it."""

    task: Path
    model: Path


def examples() -> dict[str, Callable[[Path], Built]]:
    """Every example, by kind name."""
    found: dict[str, Callable[[Path], Built]] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= importlib.import_module(f"{__name__}.{module.name}").EXAMPLES
    return found
