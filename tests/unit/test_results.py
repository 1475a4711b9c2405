"""Results check their columns and survive a round trip through a file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explorer.results import SCORES, Result, fraction, number, text


def scores(**changes: object) -> pd.DataFrame:
    row = dict(model="base", task="spam", metric="accuracy", n=10, n_total=20, correct=5, score=0.5, low=0.2, high=0.8)
    return pd.DataFrame([{**row, **changes}])


def test_columns_are_checked() -> None:
    Result("scores", ("spam",), scores(), SCORES)
    with pytest.raises(ValueError, match="missing columns score"):
        Result("scores", ("spam",), scores().drop(columns="score"), SCORES)
    with pytest.raises(ValueError, match="score must be at most 1"):
        Result("scores", ("spam",), scores(score=50.0), SCORES)
    with pytest.raises(ValueError, match="must be numeric"):
        Result("scores", ("spam",), scores(score="half"), SCORES)


def test_round_trip_is_exact(tmp_path) -> None:
    table = pd.DataFrame({"task": ["a", "<b>"], "x": [0.1 + 0.2, float("nan")], "f": [1 / 3, 1.0]})
    result = Result("demo", ("a", "<b>"), table, (text("task", "t"), number("x", "x"), fraction("f", "f")), {"n": 3})
    result.save(tmp_path / "r.json")
    again = Result.load(tmp_path / "r.json")
    pd.testing.assert_frame_equal(again.table, table)
    assert again.columns == result.columns and again.provenance == {"n": 3} and again.tasks == result.tasks


def test_rows_of_one_level() -> None:
    table = pd.DataFrame({"level": ["model", "layer", "layer"], "layer": ["", "0", "1"], "v": [1.0, 2.0, 3.0]})
    result = Result("demo", (), table, (number("v", "v"),))
    assert list(result.at("layer").v) == [2.0, 3.0] and list(result.at("layer", layer="1").v) == [3.0]


def test_columns_without_any_number_come_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["a", "b"], "value": [np.nan, np.nan]})
    Result("kind", ("a",), table, (text("name", "n"), number("value", "v"))).save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").table.value.isna().all()


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    result = Result("kind", ("a",), pd.DataFrame({"value": [1.0]}), (number("value", "v"),))
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        result.save(tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
