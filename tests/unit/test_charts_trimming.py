"""The trimming curve: the right rows, marks at the current density, one chance line or several, honest words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from chart_examples import read, redundancy

from explorer.results import Result
from viz.charts import CHARTS
from viz.style import NEUTRAL, task_colour

CURVE = CHARTS.get("trimming_curve")


def changed(result: Result, task: str, **columns: float) -> Result:
    table = result.table.copy()
    for name, value in columns.items():
        table.loc[table["task"] == task, name] = value
    return dataclasses.replace(result, table=table)


def traces(result: Result, **values: object) -> list[dict]:
    return read(CURVE(result, **values))["data"]


def test_every_task_has_its_curve_in_percent_and_its_mark_at_the_density() -> None:
    result = redundancy(("movies", "spam"))
    chance, movies, spam, mark, _ = traces(result, density=0.3)
    own = result.at("model", task="movies")
    np.testing.assert_allclose(movies["x"], 100 * own.density)
    np.testing.assert_allclose(movies["y"], 100 * own.kept)
    np.testing.assert_allclose(chance["y"], 100 * own.null)
    assert (movies["line"]["color"], spam["line"]["color"]) == (task_colour(0), task_colour(1))
    assert mark["x"].tolist() == [30] and mark["y"] == pytest.approx(100 * own.kept[own.density == 0.3])
    assert read(CURVE(result, density=0.3))["layout"]["shapes"][0]["x0"] == 30
    assert "± 0.10 %" in movies["hovertext"][0] and "chance" in movies["hovertext"][0]


def test_a_density_that_was_not_computed_takes_the_nearest() -> None:
    assert traces(redundancy(("movies",)), density=0.27)[-1]["x"].tolist() == [30]
    assert CURVE.caption_of(redundancy(("movies",)), density=0.27).startswith("The top 30 %")


def test_chance_is_one_grey_line_or_one_per_task_where_they_differ() -> None:
    result = redundancy(("movies", "spam"))
    dotted = [t for t in traces(result) if t.get("line", {}).get("dash") == "dot"]
    assert [t["line"]["color"] for t in dotted] == [NEUTRAL]
    dotted = [t for t in traces(changed(result, "spam", null=0.9)) if t.get("line", {}).get("dash") == "dot"]
    assert [t["line"]["color"] for t in dotted] == [task_colour(0), task_colour(1)]
    assert [t["showlegend"] for t in dotted] == [True, False]


def test_a_task_that_changed_nothing_is_left_out() -> None:
    result = changed(redundancy(("movies", "spam")), "movies", kept=np.nan, null=np.nan)
    shown = traces(result)
    assert [t["name"] for t in shown if t["mode"] == "lines+markers"] == ["spam"]
    assert shown[1]["line"]["color"] == task_colour(1)
    assert "movies" not in CURVE.caption_of(result) and set(CURVE.table_of(result).task) == {"spam"}
    nothing = changed(result, "spam", kept=np.nan)
    assert read(CURVE(nothing))["layout"]["annotations"] and "nothing to trim" in CURVE.caption_of(nothing)


def test_the_caption_names_the_task_that_loses_most_and_one_that_loses_nothing() -> None:
    result = redundancy(("movies", "spam", "news"))
    said = CURVE.caption_of(result, density=0.2)
    row = result.at("model", task="movies", density=0.2).iloc[0]
    assert f"hold {100 * row.kept:.1f} % of the norm of movies: about what chance gives" in said
    few = changed(result, "news", of_changed=1.0, changed=0.05, effective_density=0.05)
    assert "news changed only 5.0 % of the weights, so all its change is kept" in CURVE.caption_of(few, density=0.2)
    assert "changed only" not in said and "changed only" not in CURVE.caption_of(few, density=1.0)
