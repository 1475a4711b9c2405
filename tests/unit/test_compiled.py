"""Compiled loops: kept under a digest of their code, and made without a place to keep them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

import explorer
from explorer.compute import readiness
from explorer.compute.source import StateDictSource
from explorer.merging import _fused, merge_tensor, prepare

ROOT = Path(explorer.__file__).parents[1]
PROGRAM = """
import numpy as np
from explorer.compute import _bracket_kernels, readiness
into = np.empty(2, np.int32)
halves = np.array([0x3F80, 0x4000], np.uint16)
zeros = np.zeros(2, np.uint16)
_bracket_kernels.sample(0, zeros.ctypes.data, 0, halves.ctypes.data, 2, into)
print(into.view(np.float32).tolist(), readiness.folder())
"""


def run(program: str = PROGRAM, **environment: str) -> str:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
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
    assert holding <= seen, "readiness.folder looks for files by these names"


WARMING = """
import time
from explorer.compute import readiness
readiness._WARM_UPS, readiness._MODULES = ("one_loop",), readiness._MODULES[:1]  # one stands for all
assert not readiness.ready() and not readiness.ready(1000)
readiness.prepare_in_background()
readiness.prepare_in_background()
end = time.monotonic() + 300
while not readiness.ready() and time.monotonic() < end:
    time.sleep(0.05)
print(readiness.ready(), (readiness.folder() / "ready").exists())
"""


@pytest.mark.slow
def test_loops_get_ready_in_the_background_and_are_kept(tmp_path: Path) -> None:
    kept_in, programs = tmp_path / "kept", tmp_path / "programs"
    programs.mkdir()
    (programs / "one_loop.py").write_text(PROGRAM)
    environment = {"NUMBA_CACHE_DIR": str(kept_in), "PYTHONPATH": os.pathsep.join((str(ROOT), str(programs)))}
    assert run(WARMING, **environment) == "True True\n"
    (folder,) = kept_in.iterdir()
    kept = {p: p.stat().st_mtime_ns for p in folder.rglob("*.nbc")}
    assert run(WARMING, **environment) == "True True\n"
    assert kept and {p: p.stat().st_mtime_ns for p in folder.rglob("*.nbc")} == kept, "used, not compiled again"


@pytest.mark.parametrize("name", readiness._WARM_UPS)
def test_what_compiles_every_loop_runs(name: str) -> None:
    import_module(name).warm_up()


def test_many_weights_are_worth_waiting_for() -> None:
    program = "from explorer.compute import readiness; print(readiness.ready(10**9), readiness.ready())"
    assert run(program) == "True True\n"


def test_without_them_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    base = {"w": torch.randn(1 << 16, generator=generator).bfloat16()}
    tuned = {t: {"w": base["w"] + torch.randn(1 << 16, generator=generator).bfloat16() / 8} for t in "abc"}
    source = StateDictSource(base, tuned)

    def merged() -> Tensor:
        found = merge_tensor(prepare("ties", source, {"density": 0.3}), source, "w")
        assert isinstance(found, Tensor)
        return found

    readiness.wait()
    compiled = merged()
    monkeypatch.setattr(readiness, "_loaded", threading.Event())
    monkeypatch.setattr(_fused, "write", None)  # not to be called
    assert torch.equal(merged(), compiled)
