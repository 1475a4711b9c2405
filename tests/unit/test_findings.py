"""Whether numbers foretell losses: the statistics against plain restatements, and the page against its results."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.findings_statistics import interval, mantel, predictions
from explorer.findings import FINDINGS_RESULTS, PAGE, load_findings, page, save_findings


def symmetric(seed: int, size: int = 6) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(size, size))
    made = drawn + drawn.T
    np.fill_diagonal(made, np.nan)
    return made


def test_mantel_is_a_rank_correlation_over_all_renamings() -> None:
    x, loss = symmetric(1, 5), symmetric(2, 5)
    upper = np.triu_indices(5, 1)
    rho = spearmanr(x[upper], loss[upper]).statistic
    renamed = [spearmanr(x[np.ix_(o, o)][upper], loss[upper]).statistic for o in itertools.permutations(range(5))]
    found = mantel({"x": x}, loss)["x"]
    assert found["rho"] == pytest.approx(rho)
    assert found["p"] == found["p_adjusted"] == np.mean(np.abs(renamed) >= abs(rho) - 1e-12)


def test_what_is_the_loss_itself_is_found_and_noise_is_not() -> None:
    loss = symmetric(3)
    rows = predictions({"itself": loss**3, "noise": symmetric(4)}, loss)
    by_name = {r["number"]: r for r in rows if r["over"] == "pairs"}
    assert by_name["itself"]["rho"] == pytest.approx(1) and by_name["itself"]["p_adjusted"] < 0.01
    assert by_name["noise"]["p"] > 0.05 and by_name["noise"]["low"] < 0 < by_name["noise"]["high"]
    assert {r["n"] for r in rows if r["over"] == "pairs"} == {15} and {r["n"] for r in rows} == {15, 30}


def test_a_number_with_a_direction_has_no_row_over_unordered_pairs() -> None:
    directed = np.random.default_rng(0).normal(size=(5, 5))
    rows = predictions({"directed": directed}, symmetric(1, 5))
    assert [r["over"] for r in rows] == ["directed pairs"]


def test_adjustment_only_makes_p_larger_and_noise_keeps_its_level() -> None:
    hits = 0
    for seed in range(40):
        rows = mantel({f"x{i}": symmetric(100 + 10 * seed + i, 5) for i in range(3)}, symmetric(seed, 5)).values()
        assert all(r["p_adjusted"] >= r["p"] for r in rows)
        hits += min(r["p_adjusted"] for r in rows) <= 0.05
    assert hits <= 6


def test_the_interval_says_nothing_of_a_constant_number() -> None:
    assert np.isnan(interval(np.ones((5, 5)), symmetric(1, 5), 20)).all()


def test_results_come_back_and_other_schemas_do_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f.json"
    assert load_findings(path)["predictions"] == {} and "Nothing is measured yet" in page(load_findings(path))
    save_findings({**load_findings(path), "losses": {"s": {"a + b": 0.1}}}, path)
    assert load_findings(path)["losses"] == {"s": {"a + b": 0.1}} and len(list(path.parent.iterdir())) == 1
    path.write_text('{"schema": 0}')
    assert load_findings(path)["losses"] == {}


def test_the_page_is_made_from_the_results() -> None:
    results = load_findings(FINDINGS_RESULTS)
    assert results["predictions"] and PAGE.read_text(encoding="utf-8") == page(results)


def test_the_page_says_no_more_than_the_correlations_allow() -> None:
    results = load_findings(FINDINGS_RESULTS)
    text = page(results)
    for setting, rows in results["predictions"].items():
        sure = [r for r in rows if r["p_adjusted"] <= 0.05 and (r["low"] > 0 or r["high"] < 0)]
        verdict = next(line for line in text.splitlines() if line.startswith(f"- **{setting}**"))
        assert ("can be told from chance" in verdict) == bool(sure)
        assert ("opposite" in verdict) == any(r["number"].startswith("sign conflict") and r["rho"] < 0 for r in sure)
        assert len(rows) >= 15 and {r["n"] for r in rows} == {21, 42}
