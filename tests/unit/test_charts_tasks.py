"""The order, tree and plane of tasks, and groups of weights: known answers, and what the figures say of them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from chart_examples import TASKS, cosine, mask_patterns, read

from explorer.results import Result
from viz.charts import CHARTS
from viz.charts._clusters import clustered
from viz.charts._places import classical_scaling, label_offsets


def with_values(result: Result, **columns: object) -> Result:
    return Result(result.kind, result.tasks, result.table.assign(**columns), result.columns, result.provenance)


def distances_of(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_two_groups_stand_side_by_side_and_join_at_their_mean_distance() -> None:
    far = np.full((4, 4), 0.9)
    far[0, 2] = far[2, 0] = 0.1
    far[1, 3] = far[3, 1] = 0.2
    far[0, 1] = far[1, 0] = 0.5
    np.fill_diagonal(far, 0)
    order, joins = clustered(far)
    assert set(order[:2]) in ({0, 2}, {1, 3}) and sorted(order) == [0, 1, 2, 3]
    assert order[1:3] == [0, 1] or order[1:3] == [1, 0], "the nearest of both groups meet in the middle"
    assert [join.height for join in joins] == pytest.approx([0.1, 0.2, (0.5 + 3 * 0.9) / 4])
    last = joins[-1]
    assert last.left[0] == 0.5 and last.right[0] == 2.5 and sorted(last.left[1:] + last.right[1:]) == [0.1, 0.2]
    assert {frozenset(part) for part in last.members} == {frozenset({0, 2}), frozenset({1, 3})}


def test_an_order_of_few_or_unknown() -> None:
    assert clustered(np.zeros((0, 0))) == ([], []) and clustered(np.zeros((1, 1))) == ([0], [])
    assert clustered(np.zeros((2, 2)))[0] == [0, 1]
    unknown = np.full((3, 3), np.nan)
    unknown[0, 2] = unknown[2, 0] = 0.3
    order, joins = clustered(unknown)
    assert order.index(0) in (0, 1) and [j.height for j in joins] == pytest.approx([0.3, 0.3])


def test_the_map_puts_alike_tasks_side_by_side_and_shows_lengths() -> None:
    result = cosine()
    together = {("definitions", "spam"), ("intents", "products")}
    values = [
        0.5 if (a, b) in together else 0.01 for a, b in zip(result.table.task_a, result.table.task_b, strict=True)
    ]
    figure = read(CHARTS.get("cosine_map")(with_values(result, cosine=values), colours={"spam": "#abcdef"}))
    order = figure["layout"]["meta"]["x"]
    assert (
        abs(order.index("definitions") - order.index("spam"))
        == abs(order.index("intents") - order.index("products"))
        == 1
    )
    by_name = {t["name"]: t for t in figure["data"]}
    assert by_name["length"]["x"][order.index("definitions")] == 2 and by_name["length"]["x"][order.index("spam")] == 3
    assert by_name["length"]["marker"]["color"][order.index("spam")] == "#abcdef"
    heights = by_name["joins"]["y"]
    assert heights[:2] == pytest.approx([0.5, 0.5]) and heights[-1] == pytest.approx(0.99) and len(heights) == 6
    assert "joined at 1 − cosine = 0.5000" in by_name["joins"]["hovertext"][0]
    two = read(CHARTS.get("cosine_map")(cosine(("a", "b"))))
    assert "tree" not in [t["name"] for t in two["data"]] and two["layout"]["meta"]["x"] == ["a", "b"]


def test_scaling_finds_points_again() -> None:
    points = np.random.default_rng(0).normal(size=(9, 2))
    found = classical_scaling(distances_of(points))
    np.testing.assert_allclose(distances_of(found.points), distances_of(points), atol=1e-9)
    assert found.explained == pytest.approx(1) and found.stress == pytest.approx(0, abs=1e-9)


def test_scaling_of_unrelated_tasks_holds_what_the_caption_calls_chance() -> None:
    for count in (3, 4, 7, 20):
        equal = np.ones((count, count)) - np.eye(count)
        assert classical_scaling(equal).explained == pytest.approx(min(1, 2 / (count - 1)))
    same = classical_scaling(np.zeros((3, 3)))
    assert np.isnan(same.explained) and np.isnan(same.stress) and not same.points.any()


def test_positions_are_the_scaling_of_the_cosine_distance() -> None:
    result = cosine()
    figure = read(CHARTS.get("task_positions")(result, pair=("movies", "spam")))
    far = np.zeros((7, 7))
    for row in result.at("model").itertuples():
        i, j = TASKS.index(row.task_a), TASKS.index(row.task_b)
        far[i, j] = far[j, i] = 1 - row.cosine
    expected = classical_scaling(far)
    drawn = {t["name"]: (t["x"][0], t["y"][0]) for t in figure["data"] if t["mode"] == "markers"}
    np.testing.assert_allclose([drawn[t] for t in TASKS], expected.points)
    assert figure["layout"]["yaxis"]["scaleanchor"] == "x" and len(figure["layout"]["annotations"]) == 7
    told = CHARTS.get("task_positions").caption_of(result)
    assert f"{100 * expected.explained:.1f} %" in told and "by chance: 33.3 %" in told
    assert f"stress {expected.stress:.2f}, so read the exact numbers" in told
    table = CHARTS.get("task_positions").table_of(result)
    assert table["task"].tolist() == list(TASKS) and table["stress"].iloc[0] == pytest.approx(expected.stress)


def test_positions_of_few_equal_and_empty_task_vectors() -> None:
    own = CHARTS.get("task_positions")
    assert "needs two" in own(cosine(("spam",))).layout.annotations[0].text
    pair = with_values(cosine(("movies", "spam")), cosine=0.25)
    points = [t["x"][0] for t in read(own(pair))["data"]]
    assert abs(points[0] - points[1]) == pytest.approx(0.75)
    assert own.caption_of(pair) == "Movies and spam lie 1 − cosine 0.750; unrelated, by chance: 1."
    equal = with_values(cosine(("a", "b", "c")), cosine=1.0)
    assert "no map to read" in own.caption_of(equal) and len(own(equal).data) == 3
    result = cosine(("a", "b", "c"))
    zero = result.table.assign(
        cosine=result.table["cosine"].where(result.table["task_b"] != "c"),
        norm_b=result.table["norm_b"].where(result.table["task_b"] != "c", 0.0),
    )
    without = Result(result.kind, result.tasks, zero, result.columns)
    assert [t["name"] for t in read(own(without))["data"]] == ["a", "b"]
    assert "1 without any change left out" in own.caption_of(without)


def test_names_of_twenty_points_keep_apart_at_both_sizes() -> None:
    points = np.random.default_rng(3).uniform(0.1, 0.9, (20, 2))
    texts, sizes = ["fine-…e 19"] * 20, (265.0, 345.0)
    offsets = np.array(label_offsets(points, texts, sizes, letter=5.5, line=12.5))
    for size in sizes:
        middles = points * size + offsets
        for (xa, ya), (xb, yb) in itertools.combinations(middles, 2):
            assert abs(xa - xb) >= 55 - 1e-6 or abs(ya - yb) >= 12.5 - 1e-6
    assert label_offsets(np.zeros((0, 2)), [], sizes) == [] and len(label_offsets(np.zeros((1, 2)), ["a"], sizes)) == 1


def test_groups_are_drawn_with_their_chance_in_the_wanted_order() -> None:
    result, own = mask_patterns(), CHARTS.get("mask_upset")
    figures = {order: read(own(result, order=order)) for order in ("size", "lift", "degree")}
    model = result.at("model", threshold=0.4).set_index("pattern")
    for order, figure in figures.items():
        share = next(t for t in figure["data"] if t["name"] == "share of weights")
        chance = next(t for t in figure["data"] if t["name"] == "chance")
        assert len(share["y"]) == 24 and "[]" not in share["hovertext"]
        if order == "size":
            np.testing.assert_allclose(share["y"], 100 * model["share"].drop("[]").nlargest(24))
        if order == "lift":
            lift = share["y"] / chance["y"][::3]
            assert (np.diff(lift) <= 1e-12).all()
    degrees = own.table_of(result, order="degree")["degree"]
    assert degrees.is_monotonic_increasing and len(degrees) == 64
    drawn = model["share"].drop("[]").nlargest(24).sum()
    assert f"of 6 of 7 tasks, the 24 groups drawn cover {100 * drawn:.1f} % of the weights" in own.caption_of(result)


def test_tasks_that_are_not_known_are_summed_over() -> None:
    result = mask_patterns()
    fewer = Result(result.kind, TASKS[:2], result.table, result.columns)
    table = CHARTS.get("mask_upset").table_of(fewer).set_index("tasks")
    model = result.at("model", threshold=0.4)
    both = [{"definitions", "intents"} <= set(json.loads(p)) for p in model["pattern"]]
    assert len(table) == 4 and table["share"].sum() == pytest.approx(1)
    assert table["null"]['["definitions", "intents"]'] == pytest.approx(model["null"][both].sum())


def test_upset_follows_the_selection() -> None:
    result, own = mask_patterns(), CHARTS.get("mask_upset")
    share = next(t for t in read(own(result, pair=("movies", "intents")))["data"] if t["name"] == "share of weights")
    blue = [c for c in share["marker"]["color"] if c != share["marker"]["color"][0]]
    assert 0 < len(blue) < 24
    layer = own.table_of(result, layer="layer 0")
    rows = result.at("layer", layer="layer 0", threshold=0.4)
    assert layer["share"].sum() == pytest.approx(1) and layer["share"].max() == pytest.approx(rows["share"].max())
    assert "of layer 0 and" in own.caption_of(result, layer="layer 0")


def test_more_than_six_tasks_are_asked_to_be_chosen_from() -> None:
    empty = Result("mask_patterns", TASKS, mask_patterns().table.iloc[:0], mask_patterns().columns)
    assert "Choose at most six tasks" in CHARTS.get("mask_upset").caption_of(empty)
    assert isinstance(CHARTS.get("mask_upset").table_of(empty), pd.DataFrame)
