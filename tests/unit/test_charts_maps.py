"""The numbers in the map and pair figures are those of the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from chart_examples import TASKS, cosine, mask_agreement, mask_overlap, minority_mass, norm_profile, read, sign_conflict

from explorer.results import Result
from viz.charts import CHARTS


def changed(result: Result, rows: pd.Series, **values: object) -> Result:
    """The result with other values in some rows."""
    table = result.table.copy()
    for name, value in values.items():
        table.loc[rows, name] = value
    return Result(result.kind, result.tasks, table, result.columns, result.provenance)


def test_map_of_all_tasks_shows_the_excess_and_leaves_empty_cells_blank() -> None:
    result = minority_mass()
    figure = read(CHARTS.get("sign_conflict_map")(result))
    trace, meta = figure["data"][0], figure["layout"]["meta"]
    assert meta["x"] == ["embeddings", "layer 0", "layer 1"]
    row = result.at("cell", layer="layer 0", kind="mlp in").iloc[0]
    at = meta["y"].index("mlp in"), meta["x"].index("layer 0")
    assert trace["z"][at] == pytest.approx(100 * (row["minority_mass"] - row["null"]))
    hover = trace["hovertext"][at]
    assert f"{100 * row['minority_mass']:.2f} %" in hover and f"chance {100 * row['null']:.2f} %" in hover
    assert "70,000 of 98,304 weights" in hover
    empty = meta["y"].index("norm"), meta["x"].index("layer 1")
    assert np.isnan(trace["z"][empty]) and "nothing to compare" in trace["hovertext"][empty]
    missing = meta["y"].index("embedding"), meta["x"].index("layer 1")
    assert np.isnan(trace["z"][missing]) and "no module of this kind" in trace["hovertext"][missing]
    assert trace["customdata"][at] == {"layer": "layer 0", "kind": "mlp in"} and trace["customdata"][missing] is None


def test_map_orders_layers_by_depth_and_not_by_name() -> None:
    result = minority_mass()
    names = {"layer 0": "layer 9", "layer 1": "layer 10"}
    table = result.table.iloc[::-1].assign(layer=lambda t: t["layer"].replace(names))
    meta = CHARTS.get("sign_conflict_map")(Result(result.kind, TASKS, table, result.columns)).layout.meta
    assert list(meta["x"]) == ["embeddings", "layer 9", "layer 10"]


def test_map_of_a_pair_in_either_order() -> None:
    result = sign_conflict()
    own = CHARTS.get("sign_conflict_map")
    one, other = (read(own(result, pair=p))["data"][0]["z"] for p in (("spam", "movies"), ("movies", "spam")))
    np.testing.assert_array_equal(one, other)
    row = result.at("cell", task_a="movies", task_b="spam", layer="layer 0", kind="mlp in").iloc[0]
    meta = own(result).layout.meta
    at = list(meta["y"]).index("mlp in"), list(meta["x"]).index("layer 0")
    assert one[at] == pytest.approx(100 * (row["conflict"] - 0.5))


def test_map_without_a_pair_pools_counts_and_not_rates() -> None:
    result = sign_conflict(("a", "b", "c"))
    cell = (result.table["level"] == "cell") & (result.table["kind"] == "mlp in") & (result.table["layer"] == "layer 0")
    result = changed(result, cell, conflict=0.5, n_both=1000)
    result = changed(result, cell & (result.table["task_b"] == "b"), conflict=1.0, n_both=9000)
    figure = read(CHARTS.get("sign_conflict_map")(result))
    meta = figure["layout"]["meta"]
    z = figure["data"][0]["z"][meta["y"].index("mlp in"), meta["x"].index("layer 0")]
    assert z == pytest.approx(100 * ((9000 * 1.0 + 2000 * 0.5) / 11000 - 0.5))


def test_conflict_captions_count_right_and_name_chance() -> None:
    result = sign_conflict(("movies", "spam"))
    result = changed(result, result.table["level"] == "model", conflict=0.471)
    expected = (
        "Movies and spam pull 47.1 % of their shared weights in opposite directions: about what chance gives (50.0 %)"
    )
    assert CHARTS.get("sign_conflict_pairs").caption_of(result) == expected + "."
    assert CHARTS.get("sign_conflict_map").caption_of(result, pair=("movies", "spam")).startswith(expected)
    trimmed = Result(result.kind, result.tasks, result.table, result.columns, {"trim_density": 0.2})
    assert "shared large weights" in CHARTS.get("sign_conflict_pairs").caption_of(trimmed)
    for value, word in ((0.62, "more than chance"), (0.3, "less than chance")):
        told = CHARTS.get("sign_conflict_pairs").caption_of(
            changed(result, result.table["level"] == "model", conflict=value)
        )
        assert f"{100 * value:.1f} %" in told and f"{word} gives (50.0 %)" in told


def test_mass_caption() -> None:
    result = minority_mass()
    result = changed(result, result.table["level"] == "model", minority_mass=0.30, null=0.31)
    told = CHARTS.get("sign_conflict_map").caption_of(result)
    assert "Of the changes of 7 tasks, 30.0 % by size pulls against" in told
    assert "about what chance gives (31.0 %)" in told
    below = changed(result, result.table["level"] == "cell", minority_mass=0.2, null=0.31)
    assert "no square is above its chance level" in CHARTS.get("sign_conflict_map").caption_of(below)


def test_pairs_are_symmetric_with_an_empty_diagonal() -> None:
    result = sign_conflict()
    trace = read(CHARTS.get("sign_conflict_pairs")(result))["data"][0]
    np.testing.assert_array_equal(trace["z"], trace["z"].T)
    assert np.isnan(np.diag(trace["z"])).all() and trace["z"].shape == (7, 7)
    row = result.at("model", task_a="movies", task_b="spam").iloc[0]
    i, j = TASKS.index("movies"), TASKS.index("spam")
    assert trace["text"][i, j] == trace["text"][j, i] == f"{100 * row['conflict']:.1f}"
    for part in ("movies · spam", f"{100 * row['conflict']:.2f} %", "chance 50.00 %", "n = "):
        assert part in trace["hovertext"][i, j]


def test_twenty_tasks_have_no_text_in_squares() -> None:
    tasks = tuple(f"task {i}" for i in range(20))
    for name, result in (
        ("sign_conflict_pairs", sign_conflict(tasks)), ("cosine_map", cosine(tasks)),
        ("mask_overlap_pairs", mask_overlap(tasks, (0.4,))),
    ):  # fmt: skip
        assert all(t.get("texttemplate") is None for t in read(CHARTS.get(name)(result))["data"])


def test_cosine_scale_fits_the_pairs_and_not_the_diagonal() -> None:
    result = cosine()
    figure = read(CHARTS.get("cosine_map")(result))
    own, squares = figure["data"][:2]
    order = figure["layout"]["meta"]["x"]
    assert np.isnan(np.diag(squares["z"])).all() and squares["zmax"] == pytest.approx(0.1)
    assert np.isfinite(np.diag(own["z"])).all() and own["showscale"] is False
    row = result.at("model", task_a="movies", task_b="spam").iloc[0]
    hover = squares["hovertext"][order.index("spam"), order.index("movies")]
    assert f"cosine {row['cosine']:.5f}" in hover and "chance 0 ± 0.001" in hover


def test_cosine_caption_says_whether_chance_explains_it() -> None:
    result = cosine(("movies", "spam"))
    model = result.table["level"] == "model"
    assert CHARTS.get("cosine_map").caption_of(changed(result, model, cosine=-0.085)) == (
        "Movies and spam have cosine -0.085, beyond what chance gives (0 ± 0.001)."
    )
    assert "within what chance gives" in CHARTS.get("cosine_map").caption_of(changed(result, model, cosine=0.0009))
    assert "no angle" in CHARTS.get("cosine_map").caption_of(changed(result, model, cosine=np.nan))


def test_overlap_has_iou_below_lift_above_and_density_between() -> None:
    result = mask_overlap()
    figure = read(CHARTS.get("mask_overlap_pairs")(result, mask_threshold=1.5))
    iou, lift, density = figure["data"]
    row = result.at("model", task_a="movies", task_b="spam", threshold=1.5).iloc[0]
    order = figure["layout"]["meta"]["x"]
    i, j = sorted((order.index("movies"), order.index("spam")))
    assert iou["z"][j, i] == pytest.approx(100 * row["iou"]) and np.isnan(iou["z"][i, j])
    assert lift["z"][i, j] == pytest.approx(np.log2(row["lift"])) and np.isnan(lift["z"][j, i])
    at = order.index("movies")
    assert density["text"][at, at] == f"{100 * row['density_a']:.0f}" and np.isnan(density["z"][i, j])
    assert iou["text"][j, i] == f"{100 * row['iou']:.0f}" and lift["text"][i, j] == f"{row['lift']:.2f}×"
    assert "mask threshold 1.50" in iou["hovertext"][j, i] and f"{100 * row['null']:.2f} %" in lift["hovertext"][i, j]
    titles = [t["colorbar"]["title"]["text"] for t in (iou, lift)]
    assert titles == ["◣ IoU (%)", "◥ lift (× chance)"]
    assert list(lift["colorbar"]["ticktext"])[1] == "1×" and lift["colorbar"]["tickvals"][1] == 0


def test_the_order_of_the_overlap_map_stays_when_the_threshold_moves() -> None:
    result, own = mask_overlap(), CHARTS.get("mask_overlap_pairs")
    orders = [own(result, mask_threshold=t).layout.meta["x"] for t in (0.05, 0.4, 2)]
    assert orders[0] == orders[1] == orders[2] and sorted(orders[0]) == sorted(TASKS) != orders[0]


def test_overlap_takes_the_nearest_computed_threshold_and_says_so() -> None:
    result = mask_overlap(TASKS, (0.2, 0.6))
    own = CHARTS.get("mask_overlap_pairs")
    assert own.caption_of(result, mask_threshold=0.55).startswith("At mask threshold 0.60,")
    assert set(own.table_of(result, mask_threshold=0.55)["threshold"]) == {0.6}


def test_masks_that_never_meet_are_drawn() -> None:
    result = mask_overlap(("a", "b"), (0.4,))
    apart = changed(result, result.table["task_a"] == "a", iou=0.0, lift=0.0)
    assert read(CHARTS.get("mask_overlap_pairs")(apart))["data"][1]["z"][0, 1] == -10
    both_empty = changed(result, result.table["task_a"] == "a", iou=np.nan, lift=np.nan, null=np.nan)
    assert "both masks are empty" in read(CHARTS.get("mask_overlap_pairs")(both_empty))["data"][0]["hovertext"][1, 0]
    assert "no two masks" in CHARTS.get("mask_overlap_pairs").caption_of(both_empty)


def test_overlap_caption() -> None:
    result = mask_overlap(("movies", "spam"), (0.4,))
    told = CHARTS.get("mask_overlap_pairs").caption_of(
        changed(result, result.table["level"] == "model", iou=0.41, null=0.35)
    )
    assert told == (
        "At mask threshold 0.40, movies and spam share 41.0 % of the weights that either needs: "
        "more than chance gives (35.0 %)."
    )
    rare = changed(mask_overlap(), mask_overlap().table["level"] == "model", iou=0.2, null=0.35)
    assert "none of the 21 pairs is above its chance level" in CHARTS.get("mask_overlap_pairs").caption_of(rare)


def bars(figure: dict, width: float) -> list[dict]:
    """The slices of all bars of one width: .5 for what is there, .14 for chance; k ascending."""
    return [t for t in figure["data"] if t["type"] == "bar" and t["width"] == width and t["name"] != "scale"]


def test_agreement_bars_add_up_and_use_the_words() -> None:
    result = mask_agreement()
    figure = read(CHARTS.get("mask_agreement_layers")(result, mask_threshold=0.5))
    real, nulls = bars(figure, 0.5), bars(figure, 0.14)
    assert [t["name"] for t in real] == [f"k = {k}" for k in range(8)]
    np.testing.assert_allclose(sum(t["x"] for t in real), 100)
    np.testing.assert_allclose(sum(t["x"] for t in nulls), 100)
    assert figure["layout"]["meta"]["y"] == ["whole model", "embeddings", "layer 0", "layer 1"]
    row = result.at("layer", layer="layer 0", threshold=0.5, k=1).iloc[0]
    for part in ("layer 0", "selfish", f"{100 * row['share']:.2f} %", f"chance {100 * row['null']:.2f} %"):
        assert part in real[1]["hovertext"][2]
    assert real[1]["customdata"][2] == {"layer": "layer 0"} and real[1]["customdata"][0] is None
    scale = next(t for t in figure["data"] if t["name"] == "scale")
    assert [h.split(": ")[1].removesuffix("</b>") for h in scale["hovertext"]] == [
        "catastrophic", "selfish", "shared", "shared", "shared", "shared", "shared", "universal",
    ]  # fmt: skip


def test_what_consensus_merging_leaves_is_grey_and_cut_at_the_line() -> None:
    result, own = mask_agreement(), CHARTS.get("mask_agreement_layers")
    figure = read(own(result, min_tasks=3))
    colours = [t["marker"]["color"] for t in bars(figure, 0.5)]
    assert len(set(colours[:3])) == 1 and len(set(colours)) == 6
    cut = next(t for t in figure["data"] if t["name"] == "consensus k")
    model = result.at("model", threshold=0.4)
    assert cut["x"][0] == pytest.approx(100 * model[model["k"] < 3]["share"].sum())
    handle = figure["layout"]["meta"]["handle"]
    assert handle["argument"] == "min_tasks" and (handle["low"], handle["value"], handle["high"]) == (0, 3, 8)
    line = figure["layout"]["shapes"][0]
    assert line["x0"] == 2.5 and handle["ends"] == [-0.5, 7.5]
    assert own(result, min_tasks=30).layout.meta["handle"]["value"] == 8
    assert "handle" not in own(mask_agreement(("spam",))).layout.meta
    assert own.table_of(result, min_tasks=3)["kept"].tolist() == (own.table_of(result)["k"] >= 3).tolist()


def test_agreement_by_kind_and_of_the_whole_model() -> None:
    result, own = mask_agreement(), CHARTS.get("mask_agreement_layers")
    kinds = read(own(result, by="kind", kind="mlp in", layer="layer 0"))
    assert kinds["layout"]["meta"]["y"][:3] == ["whole model", "embedding", "norm"]
    assert kinds["layout"]["yaxis"]["title"]["text"] == "kind of module"
    framed = [s for s in kinds["layout"]["shapes"] if s.get("name") == "selected"]
    at = kinds["layout"]["meta"]["y"].index("mlp in")
    assert len(framed) == 2 and framed[0]["y0"] < at < framed[0]["y1"]
    assert own(result, by="model").layout.meta["y"] == ["whole model"]


def test_agreement_caption() -> None:
    result = mask_agreement()
    at = (result.table["level"] == "model") & np.isclose(result.table["threshold"], 0.4)
    for k, share, null in ((0, 0.10, 0.12), (1, 0.2, 0.22), (7, 0.05, 0.01)):
        result = changed(result, at & (result.table["k"] == k), share=share, null=null)
    assert CHARTS.get("mask_agreement_layers").caption_of(result) == (
        "At mask threshold 0.40, 10.0 % (chance 12.0 %) of the weights are needed by no task, 20.0 % (chance 22.0 %) "
        "by exactly one and 5.0 % (chance 1.0 %) by all 7; consensus merging with k = 2 leaves 30.0 % (chance 34.0 %) "
        "as in the base."
    )
    some = Result(result.kind, TASKS, result.table, result.columns, {"parameters": {"denominator": "changed"}})
    assert "of the changed weights are needed" in CHARTS.get("mask_agreement_layers").caption_of(some)


def test_norms_keep_the_colour_of_their_task() -> None:
    result = norm_profile()
    traces = read(CHARTS.get("norm_profile")(result, colours={"spam": "#abcdef"}))["data"]
    assert traces[-1]["name"] == "spam" and traces[-1]["line"]["color"] == "#abcdef"
    assert len({t["line"]["color"] for t in traces}) == len({t["marker"]["symbol"] for t in traces}) == 7
    row = result.at("layer", layer="layer 0", task="spam").iloc[0]
    assert traces[-1]["y"][1] == pytest.approx(100 * row["relative_norm"])
    by_kind = read(CHARTS.get("norm_profile")(result, by="kind"))
    assert by_kind["data"][0]["mode"] == "markers" and len(by_kind["data"][0]["x"]) == 8
    assert by_kind["layout"]["xaxis"]["title"]["text"] == "kind of module"


def test_norm_caption() -> None:
    result = norm_profile(("movies", "spam"))
    model, layer = result.table["level"] == "model", result.table["level"] == "layer"
    result = changed(result, model & (result.table["task"] == "spam"), relative_norm=0.05)
    result = changed(result, model & (result.table["task"] == "movies"), relative_norm=0.02)
    result = changed(result, layer & (result.table["layer"] == "layer 1"), share=0.6, null=0.25)
    assert CHARTS.get("norm_profile").caption_of(result) == (
        "Spam moved furthest, by 5.00 % of the base's length; of its change, 60.0 % lies in layer 1, where an even "
        "spread (chance) would put 25.0 %; movies moved least, by 2.00 %."
    )
