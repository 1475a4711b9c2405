"""The scores figure and the trail show the numbers they are given, and say when these are not final."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chart_examples import TASKS, read, scores, trail

from explorer.results import Result
from viz.charts import CHARTS

SCORES, TRAIL = CHARTS.get("scores"), CHARTS.get("trail")


def with_accuracies(accuracies: dict[str, list[float]], n: int = 400) -> Result:
    """Scores of two tasks with the given accuracies."""
    result = scores(("movies", "spam"), tuple(accuracies), n=n)
    table = result.table.copy()
    for model, values in accuracies.items():
        table.loc[table["model"] == model, "score"] = values
    return Result("scores", result.tasks, table, result.columns)


def by_name(figure: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    named: dict[str, list[dict[str, Any]]] = {}
    for trace in figure["data"]:
        named.setdefault(trace["name"], []).append(trace)
    return named


def test_marks_and_intervals() -> None:
    result = scores()
    marks = by_name(read(SCORES(result, colours={"spam": "#abcdef"})))
    assert set(marks) == {"merged", "base", "expert", "chance", "previous"}
    spam = result.table[(result.table["model"] == "merged") & (result.table["task"] == "spam")].iloc[0]
    mark = marks["merged"][-1]
    assert mark["x"][0] == pytest.approx(100 * spam["score"]) and mark["y"][0] == 6
    assert mark["x"][0] + mark["error_x"]["array"][0] == pytest.approx(100 * spam["high"])
    assert mark["x"][0] - mark["error_x"]["arrayminus"][0] == pytest.approx(100 * spam["low"])
    assert mark["marker"]["color"] == mark["error_x"]["color"] == "#abcdef"
    for part in ("spam · merged", f"{int(spam['correct'])} of 400 right", "95 % interval"):
        assert part in mark["hovertext"][0]
    assert "open" in marks["base"][0]["marker"]["symbol"]
    assert sum(t.get("showlegend", True) for t in marks["merged"]) == 1


def test_rows_stay_in_the_given_order() -> None:
    shuffled = Result("scores", TASKS, scores().table.iloc[::-1], scores().columns)
    axis = read(SCORES(shuffled))["layout"]["yaxis"]
    assert axis["ticktext"] == list(TASKS) and axis["range"][0] > axis["range"][1]
    assert list(SCORES.table_of(shuffled)["task"].drop_duplicates()) == list(TASKS)


def test_share_of_the_expert_is_written_at_the_right() -> None:
    figure = read(SCORES(with_accuracies({"merged": [0.8, 0.45], "expert": [0.8, 0.9]})))
    texts = [a["text"] for a in figure["layout"]["annotations"]]
    assert texts == ["100 %", "50 %", "of<br>expert"]


def test_quick_estimates_are_marked() -> None:
    result = scores(n=48)
    figure = read(SCORES(result))
    assert all("quick: 48 of 400" in t for t in figure["layout"]["yaxis"]["ticktext"])
    merged = by_name(figure)["merged"][0]
    assert merged["marker"]["opacity"] < 1 and "quick: 48 of 400 examples" in merged["hovertext"][0]
    assert SCORES.caption_of(result).startswith("Quick estimate on 336 of 2,800 examples: on average over 7 tasks")
    assert "quick" not in str(read(SCORES(scores())))


def test_relative_divides_by_the_expert() -> None:
    result = with_accuracies({"merged": [0.8, 0.45], "expert": [0.8, 0.9], "base": [0.4, 0.45]})
    figure = read(SCORES(result, relative=True))
    marks = by_name(figure)
    assert [t["x"][0] for t in marks["merged"]] == pytest.approx([100, 50])
    assert list(marks["base"][0]["x"]) == pytest.approx([50, 50])
    assert "expert" in figure["layout"]["xaxis"]["title"]["text"]
    without = read(SCORES(with_accuracies({"merged": [0.8, 0.45]}), relative=True))
    assert "needs the<br>experts" in without["layout"]["annotations"][0]["text"]


@pytest.mark.parametrize("models", [("merged",), ("base", "expert"), ("merged", "pinned A", "pinned B")])
def test_only_some_models(models: tuple[str, ...]) -> None:
    result = scores(TASKS, models)
    assert set(by_name(read(SCORES(result)))) == set(models)
    assert ("not been scored" in SCORES.caption_of(result)) == ("merged" not in models)


def test_an_unscored_task_is_left_out() -> None:
    result = scores(("spam",), n=0)
    assert "merged" not in by_name(read(SCORES(result)))
    assert SCORES.caption_of(result) == "The merged model has not been scored yet."


def test_an_expert_at_zero_gives_no_share() -> None:
    result = with_accuracies({"merged": [0.8, 0.45], "expert": [0.0, 0.9]})
    figure = read(SCORES(result))
    assert [a["text"] for a in figure["layout"]["annotations"]] == ["50 %", "of<br>expert"]
    assert "reaches 62.5 % accuracy" in SCORES.caption_of(result)


def test_caption_numbers() -> None:
    result = with_accuracies({"merged": [0.8, 0.45], "expert": [0.8, 0.9], "base": [0.4, 0.45], "chance": [0.2, 0.225]})
    assert SCORES.caption_of(result) == (
        "On average over 2 tasks the merged model reaches 75.0 % of the expert's accuracy (base 50.0 %, "
        "chance 25.0 %); worst is spam with 50.0 %."
    )
    table = result.table[(result.table["model"] != "base") | (result.table["task"] == "spam")]
    partly = Result("scores", result.tasks, table, result.columns)
    assert "base" not in SCORES.caption_of(partly), "an average over other tasks is not comparable"


def test_trail_lines_and_ring() -> None:
    result = trail()
    figure = read(TRAIL(result, current=4))
    mean, worst, ring = figure["data"]
    np.testing.assert_allclose(mean["y"], 100 * result.table["normalized"])
    np.testing.assert_allclose(worst["y"], 100 * result.table["worst"])
    assert list(ring["x"]) == [4, 4] and ring["y"][0] == mean["y"][3]
    assert mean["marker"]["symbol"] == ["circle"] * 8 + ["circle-open"]
    for part in ("move 1 · ties", "density 0.2, scale 0.1", "worst spam"):
        assert part in mean["hovertext"][0]
    assert list(read(TRAIL(result))["data"][2]["x"]) == [9, 9], "the last move without a choice"
    assert list(read(TRAIL(result, current=77))["data"][2]["x"]) == [9, 9], "an unknown move is the last"


def test_trail_caption_compares_with_the_move_before() -> None:
    full = trail(moves=3)
    table = full.table.assign(normalized=[0.9, 0.8, 0.85], worst=[0.7, 0.6, 0.65], complete=1)
    result = Result("trail", TASKS, table, full.columns)
    assert TRAIL.caption_of(result) == (
        "Move 3 (ties) reaches 85.0 % of the experts, up from 80.0 % before; the best so far is move 1 with 90.0 %; "
        "worst task now: spam with 65.0 %."
    )
    assert "down from 90.0 % before" in TRAIL.caption_of(result, current=2)
    assert "before" not in TRAIL.caption_of(result, current=1)
    assert "(quick estimate)" in TRAIL.caption_of(trail())


def test_trail_of_one_move() -> None:
    figure = read(TRAIL(trail(moves=1)))
    assert len(figure["data"][0]["x"]) == 1 and figure["layout"]["xaxis"]["dtick"] == 1
