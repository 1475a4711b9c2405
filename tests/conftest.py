"""What all tests share: the compiled loops are loaded, as they are in a running app, so both ways can be compared."""

from __future__ import annotations

import pytest

from explorer.compute import readiness


@pytest.fixture(scope="session", autouse=True)
def compiled_loops() -> None:
    """Later merges use them at once; torch's way is asked for by name where it is tested."""
    readiness.wait()
