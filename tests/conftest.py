"""What all tests share: the compiled loops are loaded, as they are in a running app, so both ways can be compared."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import explorer.export_command
import explorer.survey_command
from explorer.compute import readiness


@pytest.fixture(scope="session", autouse=True)
def compiled_loops(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Later merges use them at once; torch's way is asked for by name where it is tested."""
    readiness.wait()
    if "PYTEST_XDIST_WORKER" in os.environ:
        share_compiling(tmp_path_factory.getbasetemp().parent)


def share_compiling(folder: Path, patience_seconds: float = 300) -> None:
    """Each of several test processes compiles a part of the loops and waits for the others' parts.

    Otherwise, on a machine that keeps none yet, every process would compile every loop. Who waited too long goes on: a
    loop that is not kept yet is compiled by the first test that needs it.
    """
    kept = readiness.folder()
    if kept is None or (kept / "ready").exists():
        return
    worker, workers = (os.environ[f"PYTEST_XDIST_WORKER{end}"] for end in ("", "_COUNT"))
    for name in readiness._WARM_UPS[int(worker.removeprefix("gw")) :: int(workers)]:
        import_module(name).warm_up()
        (folder / name).touch()
    end = time.monotonic() + patience_seconds
    while not all((folder / name).exists() for name in readiness._WARM_UPS) and time.monotonic() < end:
        time.sleep(0.2)
    readiness.mark()  # the app that the browser tests start need not look for loops to compile


@pytest.fixture(scope="session", autouse=True)
def no_survey_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The commands keep sums, digests and rates in a folder of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer.survey_command, "cache_folder", lambda: folder)
        patch.setattr(explorer.export_command, "cache_folder", lambda: folder)
        yield
