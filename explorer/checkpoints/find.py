"""Finds checkpoints beneath an allowed folder, for the page's picker."""

from __future__ import annotations

from pathlib import Path

from explorer.checkpoints.pickled import is_pickled

MAX_DEPTH = 3
MAX_FOUND = 200
_MAX_ENTRIES = 20_000
_INDEXES = (".safetensors.index.json", ".bin.index.json")
_NO_WEIGHTS = ".statistics.safetensors"


def find_checkpoints(root: str | Path, *, limit: int = MAX_FOUND) -> list[Path]:
    """Checkpoint folders and single weight files at most 3 folders beneath `root`, in path order.

    A folder counts once, whatever its shards: it holds model.safetensors, an index of shards, or a config.json
    beside weight files, or is a PEFT adapter with its adapter_config.json. Elsewhere each weight file counts. Left out:
    hidden entries, links to folders, files that really lie outside `root`, what training keeps beside weights, what
    `gather` measured, and evaluation tasks (folders with a task.json).
    A `root` that cannot be read gives an empty list.
    """
    root = Path(root).absolute()
    found: list[Path] = []
    budget = _MAX_ENTRIES
    waiting = [(root, 0)]
    while waiting and len(found) < limit and budget > 0:
        folder, depth = waiting.pop(0)
        try:
            entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        except OSError:
            continue
        budget -= len(entries)
        found += _in_folder(folder, entries, root)
        if depth < MAX_DEPTH:
            waiting += [(p, depth + 1) for p in entries if p.is_dir() and not p.is_symlink()]
    return sorted(found)[:limit]


def _in_folder(folder: Path, entries: list[Path], root: Path) -> list[Path]:
    names = {p.name for p in entries}
    if "task.json" in names:
        return []
    real_root = root.resolve()
    weights = [p for p in entries if (p.suffix == ".safetensors" or is_pickled(p.name)) and p.is_file()]
    weights = [p for p in weights if p.resolve().is_relative_to(real_root) and not p.name.endswith(_NO_WEIGHTS)]
    if weights and all(p.name.startswith("adapter_model") for p in weights):
        return [folder] if "adapter_config.json" in names else []
    weights = [p for p in weights if not p.name.startswith("adapter_model")]
    if not weights:
        return []
    whole = "model.safetensors" in names or "config.json" in names or any(n.endswith(_INDEXES) for n in names)
    return [folder] if whole else weights
