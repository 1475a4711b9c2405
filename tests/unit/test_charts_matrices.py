"""The numbers in the figures about whole matrices are those of the table, and the captions say what they show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from chart_examples import TASKS, read
from chart_matrix_examples import sar, spectrum, sti, subspace_overlap, wudi_loss

from explorer.results import Result
from viz.charts import CHARTS

SPECTRA, OVERLAP, LAYERS = (
    CHARTS.get(n) for n in ("singular_spectra", "subspace_overlap_map", "matrix_interference_layers")
)


def changed(result: Result, **values: object) -> Result:
    return dataclasses.replace(result, table=result.table.assign(**values))


def test_spectra_show_the_curve_of_every_task_and_chance() -> None:
    result = spectrum()
    figure = read(SPECTRA(result))
    assert [t["name"] for t in figure["data"]] == [*TASKS, "chance"]
    own = result.at("model", task="movies")
    trace = figure["data"][3]
    np.testing.assert_allclose(trace["x"], 100 * own.rank_fraction)
    np.testing.assert_allclose(trace["y"], 100 * own.energy)
    np.testing.assert_allclose(figure["data"][-1]["y"], 100 * own.null)
    assert figure["data"][-1]["line"]["dash"] == "dot"
    shape = figure["layout"]["shapes"][0]
    assert shape["y0"] == shape["y1"] == 90
    assert "effective rank 1,200 of 4,608" in trace["hovertext"][1]


def test_spectra_of_one_kind_and_on_a_logarithmic_scale() -> None:
    result = spectrum()
    figure = read(SPECTRA(result, kind="mlp in", scale="log"))
    own = result.at("kind", kind="mlp in", task="spam")
    np.testing.assert_allclose(figure["data"][6]["y"], 100 * own.energy[own.rank_fraction > 0])
    assert figure["layout"]["xaxis"]["type"] == "log" and (figure["data"][-1]["x"] > 0).all()
    nothing = SPECTRA(result, kind="norm")
    assert not nothing.data and "norm" in nothing.layout.annotations[0].text.replace("<br>", " ")
    assert SPECTRA.caption_of(result, kind="norm") == (
        "There is nothing to show yet: no task changed a weight matrix of kind norm."
    )
    assert SPECTRA.caption_of(result, kind="nonsense") == SPECTRA.caption_of(result)  # of other models


def test_spectra_name_who_needs_least_and_most() -> None:
    caption = SPECTRA.caption_of(spectrum(("a", "b", "c")))
    chance = np.interp(0.9, np.array([0.5, 1.0]) ** 0.7, [0.5, 1.0])
    assert caption == (
        f"In the whole model, 90 % of a's squared length lies in {100 * 480 / 4608:.1f} % of its directions, where "
        f"chance would need {100 * chance:.1f} %; c needs most, {100 * 482 / 4608:.1f} %."
    )


def test_spectra_of_large_matrices_end_early() -> None:
    result = spectrum()
    late = result.table.rank_fraction > 0.1
    part = changed(result, energy=result.table.energy.mask(late), rank_90=np.nan, effective_rank=np.nan)
    figure = read(SPECTRA(part))
    assert figure["data"][0]["x"].max() == 10
    assert "90 % of no task's update lies in the directions that are known" in SPECTRA.caption_of(part)


def test_overlap_map_shows_the_excess_of_a_pair() -> None:
    result = subspace_overlap()
    figure = read(OVERLAP(result, pair=("spam", "movies")))
    trace, meta = figure["data"][0], figure["layout"]["meta"]
    row = result.at("cell", layer="layer 1", kind="mlp in", task_a="movies", task_b="spam").iloc[0]
    at = meta["y"].index("mlp in"), meta["x"].index("layer 1")
    assert trace["z"][at] == pytest.approx(100 * (row.overlap - row.null))
    assert "± 0.20 %" in trace["hovertext"][at] and "54 directions compared, 1 matrix" in trace["hovertext"][at]
    assert "norm" not in meta["y"] and "embeddings" not in meta["x"]
    left = read(OVERLAP(result, pair=("movies", "spam"), side="left"))["data"][0]
    assert left["z"][at] == pytest.approx(100 * (row.left - row.null_left))
    assert "output directions" in left["hovertext"][at] and "±" not in left["hovertext"][at]


def test_overlap_map_pools_pairs_by_their_directions() -> None:
    result = subspace_overlap(("a", "b", "c"))
    cell = (result.table.layer == "layer 0") & (result.table["kind"] == "mlp in")
    first = cell & (result.table.task_b == "b")
    table = result.table.copy()
    table.loc[cell, ["overlap", "rank"]] = [0.2, 10.0]
    table.loc[first, ["overlap", "rank"]] = [0.5, 40.0]
    figure = read(OVERLAP(dataclasses.replace(result, table=table)))
    meta = figure["layout"]["meta"]
    pooled = figure["data"][0]["z"][meta["y"].index("mlp in"), meta["x"].index("layer 0")]
    assert pooled == pytest.approx(100 * ((40 * 0.5 + 20 * 0.2) / 60 - 0.12))


def test_overlap_captions_are_true() -> None:
    result = changed(subspace_overlap(("a", "b")), overlap=0.125)
    assert OVERLAP.caption_of(result).startswith(
        "All pairs of tasks share 12.5 % of their strongest directions, about what chance gives (12.0 %); furthest"
    )
    below = OVERLAP.caption_of(changed(subspace_overlap(("a", "b")), overlap=0.05), pair=("a", "b"))
    assert "A and b share 5.0 %" in below and "less than chance" in below
    assert below.endswith("; no square is above its chance level.")


@pytest.mark.parametrize(("made", "column", "unit"), [(wudi_loss, "disturbance", 100), (sar, "alignment", 100)])
def test_layers_of_the_measures_per_task(made: object, column: str, unit: float) -> None:
    result = made()  # type: ignore[operator]
    figure = read(LAYERS(result))
    box, *lines = figure["data"]
    assert [t["name"] for t in lines] == list(TASKS) and box["name"] == "chance"
    rows = result.at("layer", task="movies").dropna(subset=[column])
    np.testing.assert_allclose(lines[3]["y"], unit * rows[column])
    assert figure["layout"]["meta"]["x"] == ["layer 0", "layer 1"]
    nulls = result.at("layer").dropna(subset=[column]).groupby("layer").null
    low = np.array(box["base"], dtype=float)
    np.testing.assert_allclose(low, unit * nulls.min())
    np.testing.assert_allclose(low + box["y"], unit * nulls.max())
    by_kind = read(LAYERS(result, by="kind"))["data"][1:]
    assert len({tuple(np.round(t["x"] % 1, 6)) for t in by_kind}) == len(TASKS)  # no two on top of each other


def test_layers_of_singular_task_interference() -> None:
    result = sti()
    figure = read(LAYERS(result, colours={"spam": "#123456"}))
    assert [t["name"] for t in figure["data"]] == ["chance", "all tasks"]
    np.testing.assert_allclose(figure["data"][1]["y"], result.at("layer").sti.dropna())
    assert "chance 12.000" in figure["data"][1]["hovertext"][0]


def test_layer_captions_know_which_end_is_bad() -> None:
    model = wudi_loss(("a", "b")).table.level == "model"
    table = wudi_loss(("a", "b")).table
    table.loc[model, "disturbance"], table.loc[model, "null"] = [1.5, 0.7], [0.3, 0.3]
    worst = dataclasses.replace(wudi_loss(("a", "b")), table=table)
    assert LAYERS.caption_of(worst).startswith(
        "Disturbance by the other tasks of a, the highest of 2 tasks, is 150.0 %: more than chance gives (30.0 %); fur"
    )
    table = sar(("a", "b")).table.assign(null=0.9)
    table.loc[model, "alignment"] = [0.5, 0.9]
    table.loc[~model, "alignment"] = 0.95
    low = LAYERS.caption_of(dataclasses.replace(sar(("a", "b")), table=table))
    assert low == (
        "Alignment with the sum of all tasks of a, the lowest of 2 tasks, is 50.0 %: less than chance gives (90.0 %); "
        "no layer lies below its chance level."
    )
    assert LAYERS.caption_of(changed(sti(), sti=12.5)).startswith(
        "Singular task interference is 12.50: about what chance gives (12.00); furthest above"
    )
