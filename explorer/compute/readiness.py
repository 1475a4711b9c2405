"""Whether compiled loops are at hand. Both ways of merging give the same bits, so nobody has to wait for a compiler.

The first start on a machine compiles the loops in a process of its own, at low priority, and keeps them in the user's
cache folder; until they are there, torch does the work. Later starts only load them, which takes a second, in the
background as well. Large models are worth waiting for: `wait`.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

from explorer.seeds import digest_of
from explorer.store import cache_folder

WORTH_WAITING = 400_000_000
"""Weights of all models together from which compiling takes less time than it saves."""

_MODULES = (
    "explorer.compute._bracket_kernels",
    "explorer.merging._fused_kernels",
    "explorer.merging._fused_all_kernels",
    "explorer.merging._fused_rows",
    "explorer.merging._contribution_kernels",
    "explorer.merging._survival_kernels",
    "explorer.interference._fused_kernels",
)
_WARM_UPS = ("explorer.merging._warm_up", "explorer.interference._warm_up")
_ROOM = Path(__file__).parents[1]
_MARK = "ready"
_loaded = threading.Event()
_lock = threading.Lock()
_begun = False


@cache
def folder() -> Path | None:
    """Where compiled loops of exactly this code are kept; None where nothing can be written. Numba adds its version.

    The name is a digest of every file that holds loops: numba itself looks only at the file of the outermost one.
    """
    sources = sorted([*_ROOM.glob("*/_*_kernels.py"), *_ROOM.glob("*/_fused*.py"), _ROOM / "compute" / "compiled.py"])
    code = digest_of(*(path.read_text(encoding="utf-8") for path in sources))
    try:
        made = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder() / "compiled") / code
        made.mkdir(parents=True, exist_ok=True)
        (made / ".writable").touch()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return made


def ready(weights: int = 0) -> bool:
    """Whether the compiled loops can be used at once; waits for them where `weights` are many."""
    if not _loaded.is_set() and weights >= WORTH_WAITING:
        wait()
    return _loaded.is_set()


def wait() -> None:
    """Load the compiled loops now; what is not compiled yet is compiled at its first use."""
    with _lock:
        for name in _MODULES:
            importlib.import_module(name)
        _loaded.set()


def prepare_in_background() -> None:
    """See to it, once, that the loops get ready without anybody waiting."""
    global _begun
    with _lock:
        if _begun or _loaded.is_set():
            return
        _begun = True
    threading.Thread(target=_prepare, name="compiled loops", daemon=True).start()


def mark() -> None:
    """Remember that every loop is compiled and kept."""
    if kept := folder():
        (kept / _MARK).touch()


def _prepare() -> None:
    kept = folder()
    if kept is None:
        return  # compiling here would hold up every other thread, at each start
    if not (kept / _MARK).exists():
        paths = [str(_ROOM.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "OMP_NUM_THREADS": "1"}
        nothing = subprocess.DEVNULL
        try:
            for program in _WARM_UPS:
                command = [sys.executable, "-m", program]
                subprocess.run(
                    command, env=environment, check=True, timeout=600, stdin=nothing, stdout=nothing, stderr=nothing
                )
            mark()
        except (OSError, subprocess.SubprocessError):
            return  # torch goes on with the work
    wait()
