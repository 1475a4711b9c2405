"""Files of figures and tables: complete offline, harmless to open, whole or not there."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chart_examples import TASKS, scores

from explorer.errors import OutputError
from viz.charts import CHARTS
from viz.export import csv_text, figure_html, write_csv, write_html

EVIL = ("<b>x</b>", "</script><script>alert(1)</script>")


def without_plotly(page: str) -> str:
    """The page without the text of plotly.js."""
    return re.sub(r"<script>(?:(?!</script>).){1000000,}?</script>", "", page, flags=re.DOTALL)


def test_a_page_asks_nobody_and_sends_nothing() -> None:
    page = figure_html(CHARTS.get("scores")(scores()), "dark", title="A & <b>")
    rest = without_plotly(page)
    assert len(page) - len(rest) > 3_000_000, "plotly.js is inside"
    assert not re.search(r"""(?:src|href)=["']?https?:""", rest) and "cdn" not in rest
    assert '"showSendToCloud": false' in rest or '"showSendToCloud":false' in rest
    assert "Content-Security-Policy" in rest and "default-src 'none'" in rest
    assert "<title>A &amp; &lt;b&gt;</title>" in rest


def test_themes_differ_and_leave_the_figure_alone() -> None:
    figure = CHARTS.get("scores")(scores())
    before = figure.to_json()
    light, dark = figure_html(figure, "light"), figure_html(figure, "dark")
    assert light != dark and figure.to_json() == before


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "=\"a\",\"b\""]
)  # fmt: skip
def test_csv_text_runs_nowhere(cell: str) -> None:
    text = csv_text(pd.DataFrame({cell: [1.0], "task": pd.Series([cell], dtype=object)}))
    header, row = list(csv.reader(io.StringIO(text, newline="")))
    assert header[0] == row[1] == "'" + cell.replace("\r", "\n")


def test_csv_rows_cannot_be_forged() -> None:
    rows = list(csv.reader(io.StringIO(csv_text(pd.DataFrame({"task": ["a\r=1", "b"]})), newline="")))
    assert rows == [["task"], ["a\n=1"], ["b"]]


def test_csv_keeps_numbers_exact_and_plain_names() -> None:
    numbers = [-0.1, 1 / 3, np.nan]
    text = csv_text(pd.DataFrame({"x": numbers, "task": ["spam", "-5", "a-b"], "same": [True, False, True]}))
    back = pd.read_csv(io.StringIO(text))
    np.testing.assert_array_equal(back["x"], numbers)
    assert list(back["task"]) == ["spam", "-5", "a-b"]


def test_csv_of_equal_column_names() -> None:
    table = pd.DataFrame([["=1", 2]], columns=["a", "a"])
    assert csv_text(table) == "a,a\n'=1,2\n"


def test_writing_is_whole_or_an_error_in_words(tmp_path: Path) -> None:
    table = CHARTS.get("scores").table_of(scores(TASKS))
    write_csv(table, tmp_path / "new" / "scores.csv")
    assert len(pd.read_csv(tmp_path / "new" / "scores.csv")) == len(table)
    write_html(CHARTS.get("scores")(scores()), tmp_path / "scores.html")
    assert (tmp_path / "scores.html").stat().st_size > 3_000_000
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken can be written"):
        write_csv(table, tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "scores.html", "taken"]
