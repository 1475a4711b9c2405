"""What all tests share: the compiled loops are loaded, as they are in a running app, so both ways can be compared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import explorer.export_command
import explorer.survey_command
from explorer.compute import readiness


@pytest.fixture(scope="session", autouse=True)
def compiled_loops() -> None:
    """Later merges use them at once; torch's way is asked for by name where it is tested."""
    readiness.wait()


@pytest.fixture(scope="session", autouse=True)
def no_survey_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The commands keep sums, digests and rates in a folder of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer.survey_command, "cache_folder", lambda: folder)
        patch.setattr(explorer.export_command, "cache_folder", lambda: folder)
        yield
