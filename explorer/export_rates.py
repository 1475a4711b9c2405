"""How fast exports were on this machine, by method, kept in the cache folder for later plans."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

_FILE = "export_rates.json"


def measured_rate(cache: Path | None, method: str) -> float | None:
    """Bytes per second of the last export by this method on this machine; None where none is known."""
    if cache is None:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = float(json.loads((cache / _FILE).read_text("utf-8"))[method])
        return found if 0 < found < float("inf") else None
    return None


def keep_rate(cache: Path, method: str, bytes_per_second: float) -> None:
    """Remember a rate for later plans; a cache that cannot be written is no fault."""
    with suppress(OSError, ValueError):
        path, known = cache / _FILE, {}
        with suppress(OSError, ValueError):
            known = json.loads(path.read_text("utf-8"))
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps({**known, method: round(bytes_per_second)}), encoding="utf-8")
        os.replace(partial, path)
