"""Task Interference Explorer: see why merged models fight, and merge them better.

Everything public is reachable from here and imported on first use, so that `import explorer` is instant and
loads neither torch nor pandas.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "open_checkpoint": "explorer.checkpoints",
    "merge_state_dicts": "explorer.library",
    "survey_state_dicts": "explorer.library",
    "run_recipe": "explorer.library",
    "Recipe": "explorer.recipe",
    "ExplorerError": "explorer.errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'explorer' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
