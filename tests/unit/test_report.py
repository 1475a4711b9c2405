"""The page of a survey: complete offline, harmless, every chart there is, and no chart costs the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from chart_examples import EXAMPLES, TASKS, emptied, sign_conflict

from explorer.errors import OutputError
from explorer.results import Result
from viz.charts import CHARTS, chart
from viz.export import ROWS_SHOWN
from viz.report import Section, report_html, survey_sections, write_survey_report
from viz.words import headline_words

EVIL = ("<b>x</b>", "</script><script>alert(1)</script>")
HEADLINE: dict[str, Any] = {
    "metric": "sign_conflict", "title": "Sign conflict", "column": "conflict", "unit": "share", "share": True,
    "value": 0.4971, "null": 0.5, "where": {"task_a": EVIL[1], "task_b": "b"}, "rows": 3, "above_null": 1,
    "higher_is_worse": True,
}  # fmt: skip


def without_plotly(page: str) -> str:
    """The page without the text of plotly.js."""
    return re.sub(r"<script>(?:(?!</script>).){1000000,}?</script>", "", page, flags=re.DOTALL)


def results(tasks: tuple[str, ...] = TASKS) -> dict[str, Result]:
    return {kind: make(tasks) for kind, make in EXAMPLES.items()}


@pytest.fixture
def extra() -> Iterator[str]:
    """A chart that somebody added."""

    @chart(title="A new chart", how="Look.", result="sign_conflict")
    def added_chart(result: Result) -> go.Figure:
        """A figure."""
        return go.Figure().add_scatter(x=np.arange(2), y=np.arange(2))

    added_chart.caption(lambda result: "It says something.")
    added_chart.table(lambda result: pd.DataFrame({"x": [1]}))
    yield "A new chart"
    CHARTS.forget("added_chart")


def test_every_chart_of_every_result_is_in_it() -> None:
    sections = survey_sections(results())
    assert len(sections) == sum(kind in EXAMPLES for c in CHARTS for kind in c.results)
    assert all(s.figure and s.caption and s.how and s.table is not None for s in sections)
    assert len({s.title for s in sections}) == len(sections)


def test_a_new_chart_appears_by_itself(extra: str) -> None:
    assert extra in {s.title for s in survey_sections({"sign_conflict": sign_conflict()})}


def test_a_chart_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(result: Result, **values: Any) -> go.Figure:
        raise KeyError("column")

    monkeypatch.setattr(CHARTS.get("cosine_map"), "_draw", broken)
    sections = survey_sections(results())
    failed = [s for s in sections if s.figure is None]
    assert len(failed) == 1 and "could not be drawn (KeyError: 'column')" in failed[0].caption
    assert "could not be drawn" in report_html(sections)


def test_values_reach_the_charts_that_declare_them() -> None:
    sections = survey_sections(results(), {"mask_threshold": 0.6})
    assert any("mask threshold 0.60" in s.caption for s in sections)
    survey_sections(results(), {"mask_threshold": None})


@pytest.mark.parametrize("tasks", [TASKS[:1], TASKS[:2], tuple(f"task {i}" for i in range(20)), EVIL])
def test_any_number_of_tasks_and_any_name(tasks: tuple[str, ...]) -> None:
    page = without_plotly(report_html(survey_sections(results(tasks)), title=" and ".join(tasks)))
    assert page.count("<script>") == 1 and "<b>x</b>" not in page and "alert(1)</script>" not in page
    assert page.count('class="figure"') >= 8


def test_results_without_rows_give_sentences() -> None:
    sections = survey_sections({kind: emptied(make(TASKS)) for kind, make in EXAMPLES.items()})
    assert all(s.caption for s in sections) and "could not be drawn" not in " ".join(s.caption for s in sections)


def test_the_page_asks_nobody_and_carries_plotly_once(tmp_path: Path) -> None:
    provenance = {"models": {"base": {"path": EVIL[0], "digest": "ab" * 12}}, "n": 1234, "tensors": 2, "seconds": 1.5,
                  "only": ["layers.*"], "versions": {"torch": "2"}, "mask_threshold": 0.4}  # fmt: skip
    write_survey_report(results(), tmp_path / "r.html", {"headlines": [HEADLINE], "provenance": provenance})
    page = (tmp_path / "r.html").read_text("utf-8")
    rest = without_plotly(page)
    assert len(page) - len(rest) > 3_000_000 and page.count("<script>") == 2
    assert not re.search(r"""(?:src|href)=(?!["']#)""", rest) and "cdn" not in rest
    assert "default-src 'none'" in rest and '"showSendToCloud":false' in rest
    assert "prefers-color-scheme: dark" in rest and "@media print" in rest and "width=device-width" in rest
    assert "&lt;b&gt;x&lt;/b&gt; (content abababababab)" in rest and "1,234 in 2 tensors" in rest
    assert "49.7 %" in rest and "Chance gives 50.0 %" in rest and len(list(tmp_path.iterdir())) == 1


def test_headlines_in_words() -> None:
    title, value, said = headline_words(HEADLINE)
    assert (title, value) == ("Sign conflict", "49.7 %") and "3 pairs, 1 of them above it" in said
    whole = {"title": "Cosine", "value": 0.071, "null": 0.0, "null_sd": 0.0005, "where": {"task_a": "a", "task_b": "b"}}
    assert headline_words({**whole, "rows": 1, "above_null": 1})[2].startswith("Chance gives 0 ± 0.0005. a and b: ")
    assert headline_words({"title": "x", "value": None, "null": None})[1] == "–"


def test_a_report_without_sections_says_so() -> None:
    assert "nothing to report" in report_html([])


def test_long_tables_are_cut_and_that_is_said() -> None:
    page = report_html([Section("t", table=pd.DataFrame({"n": np.arange(ROWS_SHOWN + 5)}))])
    assert f"The first {ROWS_SHOWN} of {ROWS_SHOWN + 5} rows." in page


def test_a_place_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken can be written"):
        write_survey_report({}, tmp_path / "taken", {})
