"""The command `survey`: its options, the files it writes, and how it stops, resumes and says no."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from workbench_zoo import TASKS, make_models

import explorer.interference._chunk_pass as run
import explorer.survey_command as command
from explorer.__main__ import write_report
from explorer.cli import main, parser
from explorer.interference import METRICS, SURVEY_SPECS, chosen_names
from explorer.params import Choice
from explorer.results import Result

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setattr(command, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def survey(zoo: Path, out: Path, *options: str, **capabilities: Any) -> int:
    return main(["survey", *(str(zoo / n) for n in ("base", *TASKS)), "-o", str(out), *options], **capabilities)


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """Names of the tensors whose chunks are computed from here on; Ctrl-C at the chunk of that number."""
    seen: list[str] = []
    real = run._chunk_sums

    def count(source: Any, jobs: Any, thresholds: Any, fused: Any, chunk: Any) -> Any:
        seen.append(chunk.name)
        if stop_at is not None and len(seen) > stop_at:
            raise KeyboardInterrupt
        return real(source, jobs, thresholds, fused, chunk)

    monkeypatch.setattr(run, "_chunk_sums", count)
    return seen


def test_every_file_of_a_survey(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    assert survey(zoo, out, "--metrics", "cosine,sign_conflict", write_report=write_report) == 0
    text = capsys.readouterr().out
    assert "wrote 2 tables" in text and "report.html in a browser" in text
    names = {p.name for p in out.iterdir()} - {"cosine.parquet", "sign_conflict.parquet"}
    tables = {f"{n}.{kind}" for n in ("cosine", "sign_conflict") for kind in ("csv", "json")}
    assert names == {*tables, "summary.json", "report.html"}
    saved = Result.load(out / "cosine.json")
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "cosine.csv", keep_default_na=False), saved.table, check_dtype=False
    )
    page = (out / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and page.count('class="figure"') >= 3


def test_no_name_acts_as_a_formula_in_a_table(zoo: Path, tmp_path: Path) -> None:
    strange = shutil.copytree(zoo / "numbers", tmp_path / "@SUM(A1)")
    models = [str(zoo / "base"), str(zoo / "colours"), str(strange)]
    assert main(["survey", *models, "-o", str(tmp_path / "out"), "--metrics", "cosine"]) == 0
    cells = {cell for row in csv.reader((tmp_path / "out" / "cosine.csv").open(encoding="utf-8")) for cell in row}
    assert "'@SUM(A1)" in cells and "@SUM(A1)" not in cells


def test_summary_says_numbers_chance_and_origin(zoo: Path, tmp_path: Path) -> None:
    assert survey(zoo, tmp_path / "out", "--trim-density", "0.3") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert set(summary["metrics"]) == set(chosen_names(None))
    for entry in summary["headlines"]:
        assert entry["null"] is not None and entry["value"] != entry["null"] and entry["rows"] >= entry["above_null"]
        rows = summary["metrics"][entry["metric"]]
        assert any(row[entry["column"]] == entry["value"] and row["null"] == entry["null"] for row in rows)
    origin = summary["provenance"]
    assert set(origin["models"]) == {"base", *(f"task {t}" for t in TASKS)}
    assert all(len(m["digest"]) == 24 for m in origin["models"].values())
    assert origin["trim_density"] == 0.3 and origin["n"] > 0 and origin["seconds"] >= 0
    assert set(origin["versions"]) == {"explorer", "torch", "numpy"} and set(origin["trim_thresholds"]) == set(TASKS)


def test_without_somebody_who_draws_there_is_no_report(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    assert survey(zoo, tmp_path / "out", "--metrics", "all") == 0
    assert not (tmp_path / "out" / "report.html").exists() and "report" not in capsys.readouterr().out


def test_parquet_holds_what_csv_holds(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert survey(zoo, tmp_path / "a", "--metrics", "cosine") == 0
    assert not (tmp_path / "a" / "cosine.parquet").exists()
    pytest.importorskip("pyarrow", reason="Parquet is written where pyarrow is installed")
    monkeypatch.undo()
    assert survey(zoo, tmp_path / "b", "--metrics", "cosine") == 0
    read = pd.read_parquet(tmp_path / "b" / "cosine.parquet")
    pd.testing.assert_frame_equal(read, Result.load(tmp_path / "b" / "cosine.json").table, check_dtype=False)


def test_options_reach_the_numbers(zoo: Path, tmp_path: Path) -> None:
    options = ["--mask-threshold", "0.6", "--denominator", "changed", "--budget", "64MiB", "--metrics", "mask_overlap"]
    assert survey(zoo, tmp_path / "out", *options, "cosine") == 0
    masks = Result.load(tmp_path / "out" / "mask_overlap.json")
    assert masks.provenance["parameters"] == {"denominator": "changed", "mask_threshold": 0.6}
    assert set(masks.at("tensor").threshold) == {0.6} and (tmp_path / "out" / "cosine.csv").is_file()


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("encoder.layer.1.*", "encoder.layer.1."),
        ("layer.1.*", "encoder.layer.1."),
        ("embeddings.*.weight", "embeddings."),
    ],
)
def test_only_some_tensors(zoo: Path, tmp_path: Path, pattern: str, kept: str) -> None:
    assert survey(zoo, tmp_path / "out", "--metrics", "cosine", "--only", pattern) == 0
    tensors = set(Result.load(tmp_path / "out" / "cosine.json").at("tensor").tensor)
    assert tensors and all(name.startswith(kept) for name in tensors)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["provenance"]["only"] == [pattern] and summary["provenance"]["tensors"] == len(tensors)


def test_patterns_that_fit_nothing_are_all_named_with_near_names(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    assert survey(zoo, tmp_path / "out", "--only", "encoder.layr.1.attention.self.query.weight", "zzz*") == 2
    said = capsys.readouterr().err
    assert "--only: 2 problems" in said and "Did you mean 'encoder.layer.1.attention.self.query.weight'" in said
    assert "'zzz*'. Names look like embeddings." in said


def test_a_stopped_survey_leaves_whole_files_only_and_goes_on(
    zoo: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        first = counted(patch, stop_at=9)
        assert survey(zoo, out, "--metrics", "cosine") == 1
    assert capsys.readouterr().err.startswith("stopped; finished tensors are kept: the same command goes on")
    assert not list(out.iterdir())
    again = counted(monkeypatch)
    assert survey(zoo, out, "--metrics", "cosine", "--resume") == 0
    total = len(set(first) | set(again))
    assert 0 < len(set(again)) < total
    third = len(again)
    assert survey(zoo, out, "--metrics", "cosine") == 0 and len(again) == third
    assert survey(zoo, out, "--metrics", "cosine", "--fresh") == 0 and len(again) == third + total


def test_a_full_disk_leaves_no_half_file(
    zoo: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str, **options: Any) -> int:
        path.open("w").write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert survey(zoo, tmp_path / "out", "--metrics", "cosine") == 1
    assert "must be writable, with room for the file; got no space left on device" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == []


def test_a_budget_that_is_too_small_or_no_size(zoo: Path, tmp_path: Path, capsys: Captured) -> None:
    assert survey(zoo, tmp_path / "out", "--budget", "1MiB") == 2
    assert "the budget must be at least 17 MiB for 2 tasks; got 1.0 MiB. Use --budget 17MiB." in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        survey(zoo, tmp_path / "out", "--budget", "much")
    assert caught.value.code == 2 and "must be a size; got 'much'. Write 512MiB or 1GiB." in capsys.readouterr().err
    sizes = {"1GiB": 1 << 30, "512 mib": 512 << 20, "1.5GB": 1_500_000_000, "4096": 4096}
    assert {text: command.size_bytes(text) for text in sizes} == sizes
    with pytest.raises(argparse.ArgumentTypeError):
        command.size_bytes("-1GiB")


def test_resume_and_fresh_exclude_each_other(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        survey(zoo, tmp_path / "out", "--resume", "--fresh")


def test_options_agree_with_the_declarations() -> None:
    options = {a.dest: a for a in parser()._subparsers._group_actions[0].choices["survey"]._actions}  # type: ignore[union-attr,index]
    for spec in SURVEY_SPECS:
        assert spec.name in options
        assert not isinstance(spec.allowed, Choice) or tuple(options[spec.name].choices or ()) == spec.allowed.options
    shown = next(s for s in METRICS.get("mask_overlap").finish_specs if s.name == "mask_threshold")
    assert options["mask_threshold"].default == shown.default


def test_names_with_commas_and_quotes_stay_one_cell(zoo: Path, tmp_path: Path) -> None:
    odd = f'a,"b\n={zoo / TASKS[0]}'
    assert (
        main(["survey", str(zoo / "base"), odd, str(zoo / TASKS[1]), "-o", str(tmp_path / "o"), "--metrics", "cosine"])
        == 0
    )
    rows = list(csv.DictReader((tmp_path / "o" / "cosine.csv").open(newline="", encoding="utf-8")))
    assert {r["task_a"] for r in rows} | {r["task_b"] for r in rows} == {'a,"b\n', TASKS[1]}
