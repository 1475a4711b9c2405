"""Surveys of the page after a restart: shown from what is kept, without loading a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from workbench_zoo import TASKS, make_bench, make_models, recipe_of

from explorer.library import survey_checkpoints
from explorer.workbench import Workbench

METRICS = ("cosine", "sign_conflict")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


def no_models(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_source", lambda recipe: pytest.fail("read the models"))


def test_known_figures_need_no_models(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"metrics": METRICS, "trim_density": 0.2}
    first = make_bench(zoo, tmp_path / "exports", cache=tmp_path / "cache").survey(recipe_of(zoo), **options)
    again = make_bench(zoo, tmp_path / "exports", cache=tmp_path / "cache")
    no_models(again, monkeypatch)
    found = again.survey(recipe_of(zoo), **options)
    assert all(found[name].table.equals(first[name].table) for name in METRICS)


def test_what_the_command_line_found_is_on_the_page(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {t: zoo / t for t in TASKS}
    tables = survey_checkpoints(zoo / "base", tasks, trim_density=0.2, cache=tmp_path / "cache")
    bench = make_bench(zoo, tmp_path / "exports", cache=tmp_path / "cache")
    no_models(bench, monkeypatch)
    found = bench.survey(recipe_of(zoo), metrics=METRICS, trim_density=0.2)
    assert all(found[name].table.equals(tables[name].table) for name in METRICS)


def test_without_a_cache_nothing_is_kept(zoo: Path, tmp_path: Path) -> None:
    make_bench(zoo, tmp_path / "exports").survey(recipe_of(zoo), metrics=METRICS)
    assert not (tmp_path / "cache").exists()
