"""The benchmark of all methods on the samples: legal grids, resumable runs, and rows that the docs show."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmarks import zoo as benchmark
from benchmarks import zoo_grids
from explorer import measured, reference
from explorer.errors import RecipeError
from explorer.evaluation import wilson
from explorer.merging import METHODS
from explorer.params import check_values

METHOD_NAMES = METHODS.names()


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_has_a_small_legal_grid_beside_its_defaults(name: str) -> None:
    method = METHODS.get(name)
    axes = zoo_grids.axes(method)
    defaults = {s.name: s.default for s in method.specs}
    assert len(axes) <= 2 and sum(len(values) for _, values in axes) <= 9
    for parameter, values in axes:
        assert len(set(values)) == len(values) > 0 and defaults[parameter] not in values
        for value in values:
            check_values(method.specs, {parameter: value}, who=name, tasks=("a",))


def test_declared_grids_name_methods_and_parameters_that_exist() -> None:
    named = [*zoo_grids.MAIN.items(), *zoo_grids.VALUES]
    assert [n for n in named if n[1] not in {s.name for s in METHODS.get(n[0]).specs}] == []


class FakeZoo:
    """Stands in for the models: accuracy grows with the scale up to 1.3, and slerp refuses."""

    merges: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    stop_at = ""

    def __init__(self, *, quick: bool = False) -> None:
        self.quick, self.right = quick, 0

    def fresh(self) -> None:
        """Nothing is kept."""

    def how(self) -> dict[str, Any]:
        return {"samples": benchmark._samples(), "command": "c", "machine": "m", "tasks": 2, "n_tune": 4, "n_test": 8,
                "seed": 0}  # fmt: skip

    def references(self) -> dict[str, Any]:
        self.merges.append(("references", {}))
        return {
            "base, zero-shot": {"a": (10, 100), "b": (20, 100)},
            "single-task expert": {"a": (90, 100), "b": (80, 100)},
        }

    def merge(self, method: str, values: dict[str, Any]) -> float:
        self.merges.append((method, values))
        if method == self.stop_at:
            raise KeyboardInterrupt
        if method == "slerp":
            raise RecipeError("slerp: takes at most 2 tasks; got 7. Leave some out.")
        scale = values.get("scale", 1.0)
        self.right = int(50 + 10 * scale) if scale <= 1.3 else 40
        return 0.25

    def counts(self, split: str) -> dict[str, tuple[int, int]]:
        return {"a": (self.right, 100), "b": (self.right - 10, 100)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeZoo]:
    monkeypatch.setattr(benchmark, "Zoo", FakeZoo)
    monkeypatch.setattr(FakeZoo, "merges", [])
    return FakeZoo


def test_best_is_chosen_on_tune_and_the_defaults_win_a_tie(fake: type[FakeZoo], tmp_path: Path) -> None:
    found = benchmark.run(["ties", "weight_average"], tmp_path / "z.json", quick=False, again=False)["methods"]
    assert found["ties"]["best"]["parameters"] == {"scale": 1.3} and found["ties"]["default"]["parameters"] == {}
    assert [t["parameters"] for t in found["ties"]["tried"]] == [
        {}, {"scale": 0.7}, {"scale": 1.3}, {"scale": 1.8},
        {"scale": 1.3, "density": 0.1}, {"scale": 1.3, "density": 0.4},
    ]  # fmt: skip
    assert found["weight_average"]["best"]["parameters"] == {}
    assert (found["ties"]["default"]["mean"], found["ties"]["best"]["mean"]) == (0.55, 0.58)


def test_intervals_are_the_tasks_wilson_half_widths_in_quadrature() -> None:
    found = benchmark.scored({"a": (60, 100), "b": (150, 200)}, {"a": 0.8, "b": 0.9})
    halves = [(h - low) / 2 for low, h in (wilson(60, 100), wilson(150, 200))]
    assert found["mean"] == 0.675 and found["normalized"] == round((0.6 / 0.8 + 0.75 / 0.9) / 2, 5)
    assert found["mean_half"] == round(np.sqrt(halves[0] ** 2 + halves[1] ** 2) / 2, 5)
    assert found["normalized_half"] == round(np.sqrt((halves[0] / 0.8) ** 2 + (halves[1] / 0.9) ** 2) / 2, 5)


def test_a_run_that_is_cut_off_goes_on_where_it_stopped(
    fake: type[FakeZoo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "z.json"
    names = ["ties", "slerp", "dare", "weight_average"]
    monkeypatch.setattr(FakeZoo, "stop_at", "dare")
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(names, out, quick=False, again=False)
    kept = measured.load_results(out)
    assert set(kept["methods"]) == {"ties"} and kept["skipped"]["slerp"].startswith("slerp: takes at most 2 tasks")
    monkeypatch.setattr(FakeZoo, "stop_at", "")
    fake.merges.clear()
    after = benchmark.run(names, out, quick=False, again=False)
    assert {m for m, _ in fake.merges} == {"slerp", "dare", "weight_average"}  # ties and the references are held
    assert set(after["methods"]) == {"ties", "dare", "weight_average"} and list(tmp_path.iterdir()) == [out]
    fake.merges.clear()
    benchmark.run(["ties"], out, quick=False, again=False)
    assert fake.merges == []
    benchmark.run(["ties"], out, quick=False, again=True)
    assert fake.merges
    monkeypatch.setitem(zoo_grids.VALUES, ("ties", "density"), (0.9,))
    fake.merges.clear()
    benchmark.run(["ties"], out, quick=False, again=False)
    assert ("ties", {"scale": 1.3, "density": 0.9}) in fake.merges


def test_a_file_of_another_schema_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "z.json").write_text('{"schema": 99, "methods": {"ties": {}}}', encoding="utf-8")
    assert measured.load_results(tmp_path / "z.json") == measured.empty_results()
    assert measured.load_results(tmp_path / "none.json") == measured.empty_results()


def test_a_saved_file_reads_back_with_one_line_for_each_method(tmp_path: Path) -> None:
    rows = {n: {"tried": [{"parameters": {"scale": 0.3}}], "mean": 0.5} for n in ("ties", "dare")}
    results = {**measured.empty_results(), "methods": rows, "skipped": {"slerp": 'takes "two"'}}
    measured.save_results(results, tmp_path / "deep" / "z.json")
    assert measured.load_results(tmp_path / "deep" / "z.json") == results
    lines = (tmp_path / "deep" / "z.json").read_text("utf-8").splitlines()
    assert [line[:9] for line in lines if '"tried"' in line] == ['  "dare":', '  "ties":']


def test_the_methods_page_shows_rows_reasons_and_what_nobody_measured(
    fake: type[FakeZoo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "z.json"
    results = benchmark.run(["ties", "slerp"], out, quick=False, again=False)
    measured.save_results({**results, "methods": {**results["methods"], "gone": results["methods"]["ties"]}}, out)
    monkeypatch.setattr(measured, "ZOO_RESULTS", out)
    page = reference.page("methods")
    rows = [line for line in page.splitlines() if line.startswith("| `ties` | ")]
    assert len(rows) == 4 and rows[:2] == rows[2:]  # side by side with the others, and with its own description
    assert rows[0].startswith("| `ties` | defaults | 0.550 ± ") and rows[0].endswith(" | 0.25 |")
    assert rows[1].startswith("| `ties` | scale 1.3 | 0.580 ± ")
    assert "Left out: slerp: takes at most 2 tasks" in page and "- `slerp`: slerp: takes at most" in page
    assert "gone" not in page and page.count("Not measured.") == len(METHOD_NAMES) - 2
    monkeypatch.setattr(measured, "ZOO_RESULTS", tmp_path / "none.json")
    assert "Nothing is measured yet" in reference.page("methods")


def test_the_committed_results_are_of_these_samples() -> None:
    results = measured.load_results()
    assert results["how"]["samples"] == benchmark._samples()
    assert results["how"]["command"] == "python benchmarks/zoo.py"
    assert set(results["references"]) == {"base, zero-shot", "single-task expert"}
