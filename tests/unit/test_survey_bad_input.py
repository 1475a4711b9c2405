"""Surveys of awkward models end to end: a table, a figure and a page that make sense, or one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from workbench_zoo import save

import explorer.survey_command as command
from explorer.__main__ import write_report
from explorer.cli import main
from explorer.interference import METRICS
from explorer.results import Result
from viz.charts import CHARTS

Captured = pytest.CaptureFixture[str]
SHAPES = {
    "embeddings.word_embeddings.weight": (14, 8),
    "encoder.layer.0.dense.weight": (8, 8),
    "encoder.norm.bias": (8,),
}


def state(
    seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def surveyed(folder: Path, base: dict[str, Tensor], tasks: dict[str, dict[str, Tensor]]) -> int:
    """Save the models and survey them as from the command line."""
    save(folder / "base", base)
    named = [f"{name}={save(folder / name, weights)}" for name, weights in tasks.items()]
    arguments = ["survey", str(folder / "base"), *named, "--metrics", "all", "-o", str(folder / "out")]
    command.cache_folder = lambda: folder / "cache"
    return main(arguments, write_report=write_report)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "cache_folder", command.cache_folder)


def look(folder: Path) -> tuple[dict[str, Result], str]:
    """Every result, after a look at the page: each figure is there, none could not be drawn, no number is a NaN."""
    results = {name: Result.load(folder / "out" / f"{name}.json") for name in METRICS.names()}
    page = (folder / "out" / "report.html").read_text("utf-8")
    body = page[: page.index("<script>")]
    assert "could not be drawn" not in body and " nan" not in body.lower()
    assert body.count('class="figure"') == sum(kind in results for c in CHARTS for kind in c.results)
    json.loads((folder / "out" / "summary.json").read_text("utf-8"), parse_constant=lambda text: pytest.fail(text))
    return results, body


def row(results: dict[str, Result], metric: str, **where: Any) -> Any:
    return results[metric].at("model", **where).iloc[0]


def test_a_task_that_is_the_base(tmp_path: Path) -> None:
    base = state(0)
    assert surveyed(tmp_path, base, {"same": base, "other": state(1)}) == 0
    results, _ = look(tmp_path)
    assert row(results, "norm_profile", task="same").norm == 0
    assert row(results, "sign_conflict").n_both == 0 and row(results, "cosine")[["cosine"]].isna().all()


def test_every_task_is_the_base(tmp_path: Path) -> None:
    base = state(0)
    assert surveyed(tmp_path, base, {"one": base, "two": base}) == 0
    results, _ = look(tmp_path)
    assert results["norm_profile"].at("model").norm.tolist() == [0, 0]


def test_two_identical_tasks(tmp_path: Path) -> None:
    task = state(1)
    assert surveyed(tmp_path, state(0), {"one": task, "twin": dict(task)}) == 0
    results, _ = look(tmp_path)
    assert row(results, "cosine").cosine == pytest.approx(1) and row(results, "sign_conflict").conflict == 0
    assert row(results, "minority_mass").minority_mass == 0


def test_one_task_only(tmp_path: Path) -> None:
    assert surveyed(tmp_path, state(0), {"alone": state(1)}) == 0
    results, body = look(tmp_path)
    assert results["cosine"].table.empty and len(results["norm_profile"].at("model")) == 1
    assert "alone" in body


def test_twenty_tasks(tmp_path: Path) -> None:
    assert surveyed(tmp_path, state(0), {f"task{i}": state(1 + i) for i in range(20)}) == 0
    results, _ = look(tmp_path)
    assert len(results["sign_conflict"].at("model")) == 190
    assert 0.4 < row(results, "minority_mass").null < 0.5 or row(results, "minority_mass").null > 0


def test_no_matrix_at_all(tmp_path: Path) -> None:
    shapes = {"norm.weight": (9,), "scale": (), "encoder.layer.0.norm.bias": (5,)}
    assert surveyed(tmp_path, state(0, shapes), {"a": state(1, shapes), "b": state(2, shapes)}) == 0
    results, _ = look(tmp_path)
    assert row(results, "norm_profile").n == 15


def test_mixed_dtypes(tmp_path: Path) -> None:
    kinds = (torch.bfloat16, torch.float64, torch.float16)
    mixed = lambda seed: {n: t.to(k) for (n, t), k in zip(state(seed).items(), kinds, strict=True)}  # noqa: E731
    assert surveyed(tmp_path, mixed(0), {"a": mixed(1), "b": state(2, dtype=torch.float16)}) == 0
    results, _ = look(tmp_path)
    assert abs(row(results, "cosine").cosine) <= 1 and row(results, "norm_profile").n == 184


def test_another_vocabulary_is_refused_with_what_to_do(tmp_path: Path, capsys: Captured) -> None:
    wider = {**state(1), "embeddings.word_embeddings.weight": torch.randn(16, 8)}
    assert surveyed(tmp_path, state(0), {"wide": wider, "a": state(2)}) == 2
    said = capsys.readouterr().err
    assert "embeddings.word_embeddings.weight" in said and "[14, 8]" in said and "Traceback" not in said
    assert "--policy" in said or "policy" in said
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("policy", ["keep_base", "common_rows"])
def test_another_vocabulary_under_a_policy(tmp_path: Path, policy: str) -> None:
    wider = {**state(1), "embeddings.word_embeddings.weight": torch.randn(16, 8)}
    for name, weights in (("base", state(0)), ("wide", wider), ("a", state(2))):
        save(tmp_path / name, weights)
    models = [str(tmp_path / n) for n in ("base", "wide", "a")]
    command.cache_folder = lambda: tmp_path / "cache"
    assert (
        main(
            ["survey", *models, "--metrics", "all", "-o", str(tmp_path / "out"), "--policy", policy],
            write_report=write_report,
        )
        == 0
    )
    results, _ = look(tmp_path)
    assert row(results, "norm_profile").n == 72 + (112 if policy == "common_rows" else 0)


def test_a_weight_that_is_no_number_is_named(tmp_path: Path, capsys: Captured) -> None:
    broken = state(1)
    broken["encoder.norm.bias"][3] = float("nan")
    assert surveyed(tmp_path, state(0), {"broken": broken, "fine": state(2)}) == 2
    said = capsys.readouterr().err
    assert "task broken: tensor encoder.norm.bias must differ from the base by finite numbers" in said
    assert not list((tmp_path / "out").iterdir())
