"""Compiled loops: kept under a digest of their code, and made without a place to keep them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import explorer

ROOT = Path(explorer.__file__).parents[1]
PROGRAM = """
import numpy as np
from explorer.compute import compiled, _bracket_kernels
into = np.empty(2, np.int32)
halves = np.array([0x3F80, 0x4000], np.uint16)
zeros = np.zeros(2, np.uint16)
_bracket_kernels.sample(0, zeros.ctypes.data, 0, halves.ctypes.data, 2, into)
print(into.view(np.float32).tolist(), compiled._folder())
"""


def run(**environment: str) -> str:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True)
    return done.stdout


def test_loops_are_kept_under_the_digest_of_their_code(tmp_path: Path) -> None:
    said = run(NUMBA_CACHE_DIR=str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert said.startswith("[1.0, 2.0]") and str(folder) in said
    kept = {p: p.stat().st_mtime_ns for p in folder.rglob("*.nbc")}
    assert kept, "something compiled is there"
    assert run(NUMBA_CACHE_DIR=str(tmp_path)) == said
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.nbc")} == kept, "and is used again"


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    assert run(NUMBA_CACHE_DIR=str(taken)) == "[1.0, 2.0] None\n"


def test_every_file_with_loops_counts() -> None:
    holding = {p.name for p in (ROOT / "explorer").rglob("*.py") if "@compiled" in p.read_text(encoding="utf-8")}
    rooms = ROOT / "explorer"
    seen = {p.name for pattern in ("*/_*_kernels.py", "*/_fused*.py") for p in rooms.glob(pattern)} | {"compiled.py"}
    assert holding <= seen, "compiled._folder looks for files by these names"
