"""From a square of the map to the page's values: tensors, pyramids kept, profile, and every callback of the panel."""

from __future__ import annotations

import base64
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from workbench_zoo import TASKS, make_bench, make_models

from explorer.checkpoints.groups import group_of
from explorer.drilling import Asked, Drilling, tensor_profile
from explorer.errors import UnknownNameError
from explorer.workbench import Workbench
from viz.panels.drill import DrillDown


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench over two tiny fine-tunes."""
    folder = make_models(tmp_path_factory.mktemp("models"))
    return make_bench(folder, folder / "exports")


@pytest.fixture
def drill(bench: Workbench) -> Iterator[DrillDown]:
    """The panel, inside a page that nobody serves."""
    with gr.Blocks(analytics_enabled=False):
        yield DrillDown(bench)


def matrix(bench: Workbench) -> str:
    """The largest tensor of the models."""
    source = bench.resident(bench.start).arena
    return max(source.names, key=lambda n: (len(source.shape(n)) == 2, np.prod(source.shape(n)), n))


def floats(value: dict[str, Any], channel: str) -> np.ndarray:
    """A channel of the canvas's value."""
    return np.frombuffer(base64.b64decode(value["channels"][channel]), "<f4").reshape(value["shape"])


def opened(drill: DrillDown, bench: Workbench, slot: Any, trim: float = 0.5) -> list[list[Any]]:
    """Every update after a click on the square of the largest matrix."""
    group = group_of(matrix(bench))
    return list(drill.open(slot, group.layer, group.kind, None, trim))


def test_a_square_gives_its_tensors_the_largest_first(bench: Workbench) -> None:
    drilling, source = Drilling(bench), bench.resident(bench.start).arena
    cells = {(group_of(n).layer, group_of(n).kind) for n in source.names}
    listed = [drilling.tensors(bench.start, *cell) for cell in sorted(cells)]
    assert sorted(n for names in listed for n in names) == sorted(source.names)
    for names in listed:
        sizes = [int(np.prod(source.shape(n))) for n in names]
        assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(UnknownNameError, match="must name a cell with weights; got layer 0 · nonsense"):
        drilling.tensors(bench.start, "layer 0", "nonsense")


def test_a_pyramid_is_made_once_and_sorted_by_minority_mass(bench: Workbench) -> None:
    drilling, asked = Drilling(bench), Asked(matrix(bench), None, 0.5)
    stored = drilling.pyramid(bench.start, asked)
    assert drilling.pyramid(bench.start, asked) is stored
    both = drilling.pyramid(bench.start, Asked(asked.tensor, None, 0.5, "both"))
    for lines in (both.row_conflict, both.col_conflict):
        assert (np.diff(lines) <= 1e-6).all()
    np.testing.assert_allclose(np.sort(stored.row_conflict), np.sort(both.row_conflict), rtol=1e-5)
    trimmed, all_of_it = stored.level(*stored.base_level), Drilling(bench).pyramid(bench.start, Asked(asked.tensor))
    assert trimmed[3].sum() < all_of_it.level(*all_of_it.base_level)[3].sum()


def test_the_thresholds_are_the_surveys(bench: Workbench) -> None:
    view = Drilling(bench).view(bench.start, Asked(matrix(bench), ("numbers", "colours"), 0.5))
    found = bench.survey(bench.start, metrics=("minority_mass", "sign_conflict"), trim_density=0.5)
    trimmed_at = found["sign_conflict"].provenance["trim_thresholds"]
    assert view.thresholds == (trimmed_at["numbers"], trimmed_at["colours"])
    assert [view.source.tasks[t] for t in view.tasks] == ["numbers", "colours"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked("nonsense"), "must name a tensor of the models; got 'nonsense'"),
        (Asked("{matrix}", ("colours", "shapes")), "must name tasks of the recipe; got 'shapes'"),
        (Asked("{matrix}", None, 1.0, "random"), "must be a known order; got random"),
    ],
)
def test_unknown_names_are_refused_in_words(bench: Workbench, asked: Asked, said: str) -> None:
    tensor = asked.tensor.format(matrix=matrix(bench))
    with pytest.raises(UnknownNameError, match=said):
        Drilling(bench).pyramid(bench.start, Asked(tensor, asked.pair, asked.trim, asked.order))


def test_the_profile_repeats_the_surveys_rows(bench: Workbench) -> None:
    name = matrix(bench)
    found = Drilling(bench).profile(bench.start, Asked(name, None, 0.5))
    norms = bench.survey(bench.start, metrics=("cosine", "norm_profile"), trim_density=1.0)["norm_profile"]
    signs = bench.survey(bench.start, metrics=("minority_mass", "sign_conflict"), trim_density=0.5)["sign_conflict"]
    tasks, pairs = (found.table[found.table["what"] == what] for what in ("task", "pair"))
    for column in ("norm", "relative_norm", "changed", "n"):
        assert tasks[column].tolist() == norms.at("tensor", tensor=name)[column].tolist()
    for column in ("conflict", "null"):
        assert pairs[column].tolist() == signs.at("tensor", tensor=name)[column].tolist()
    with pytest.raises(UnknownNameError, match="must name a surveyed tensor; got 'nonsense'"):
        tensor_profile(norms, signs, "nonsense")


def test_opening_shows_the_picture_first_and_the_disputed_weights_after(drill: DrillDown, bench: Workbench) -> None:
    first, second = opened(drill, bench, bench.slot("one"))
    tensor, value, weight, listing, profile = first
    assert value["title"] == matrix(bench) == tensor["value"]
    assert floats(value, "n").sum() == np.prod(value["size"])
    assert "click it" in weight and "most disputed" in listing and TASKS[0] in profile
    assert set(second[1]) == {"key", "marks"} and second[1]["key"] == value["key"]
    assert len(second[1]["marks"]) == 20 and "The 20 most disputed weights" in second[3]


def test_a_look_is_answered_with_its_turn_and_an_older_one_is_not(drill: DrillDown, bench: Workbench) -> None:
    slot = bench.slot("two")
    opened(drill, bench, slot)
    value = drill.look(slot, {"rows": [2, 6], "cols": [0, 4], "order": "stored", "turn": 9})
    assert (value["rows"], value["cols"], value["block"], value["turn"]) == ([2, 6], [0, 4], [1, 1], 9)
    older = drill.look(slot, {"rows": [0, 6], "cols": [0, 4], "order": "stored", "turn": 8})
    assert older == gr.skip()


def test_a_new_order_brings_its_marks_and_a_weight_there_is_the_tensors_own(drill: DrillDown, bench: Workbench) -> None:
    slot = bench.slot("three")
    *_, last = opened(drill, bench, slot)
    best = last[1]["marks"][0]
    value = drill.look(slot, {"rows": [0, 4], "cols": [0, 4], "order": "both", "turn": 1})
    assert value["order"] == "both" and value["row_names"] is not None
    moved = value["marks"][0]
    assert moved["label"] == best["label"] and (moved["row"], moved["col"]) != (best["row"], best["col"])
    html = drill.choose(slot, {"row": moved["row"], "col": moved["col"]})
    assert f"[{best['row']:,}, {best['col']:,}]" in html and "Merged by task_arithmetic" in html


@pytest.mark.parametrize("payload", [None, [], {"rows": [0, 1]}, {"rows": [3, 1], "cols": [0, 1], "order": "x"}])
def test_a_bad_look_is_refused_in_words(drill: DrillDown, bench: Workbench, payload: Any) -> None:
    slot = bench.slot("four")
    opened(drill, bench, slot)
    assert "tile view" in drill.look(slot, payload)["empty"]
    assert 'role="alert"' in drill.choose(slot, payload)


def test_without_an_open_square_nothing_happens(drill: DrillDown, bench: Workbench) -> None:
    slot = bench.slot("five")
    assert "Click a square" in drill.look(slot, {})["empty"]
    assert drill.choose(slot, {}) == "" and list(drill.switch(slot, "x")) == []
    opened(drill, bench, slot)
    assert "Click a square" in drill.close(slot)[1]["empty"]
    assert drill.choose(slot, {"row": 0, "col": 0}) == ""


def test_an_unknown_square_or_tensor_gives_a_sentence(drill: DrillDown, bench: Workbench) -> None:
    slot = bench.slot("six")
    (update,) = drill.open(slot, "layer 99", "<b>", None, 1.0)
    assert "must name a cell with weights" in update[1]["empty"]
    opened(drill, bench, slot)
    (update,) = drill.switch(slot, "nonsense")
    assert "must name a tensor of the models" in update[1]["empty"]


def test_every_tensor_of_the_models_can_be_opened(drill: DrillDown, bench: Workbench) -> None:
    slot = bench.slot("seven")
    opened(drill, bench, slot)
    for name in bench.resident(bench.start).arena.names:
        first, second = drill.switch(slot, name)
        assert first[1]["title"] == name
        assert "disputed" in second[3] or "pulled both ways" in second[3]


def test_another_models_square_is_no_longer_answered(drill: DrillDown, bench: Workbench) -> None:
    slot = bench.slot("eight")
    opened(drill, bench, slot)
    recipe = slot.session.recipe
    slot.session = replace(slot.session, recipe=replace(recipe, method="ties"))
    assert "title" in drill.look(slot, {"rows": [0, 4], "cols": [0, 4], "turn": 1})  # another method, the same weights
    slot.session = replace(slot.session, recipe=replace(recipe, tasks=recipe.tasks[:1]))
    assert "Click a square" in drill.look(slot, {"rows": [0, 4], "cols": [0, 4], "turn": 2})["empty"]
    assert drill.choose(slot, {"row": 0, "col": 0}) == ""


def test_a_kept_pyramid_holds_no_models(tmp_path: Path) -> None:
    bench = make_bench(make_models(tmp_path), tmp_path / "exports")
    drilling, name = Drilling(bench), matrix(bench)
    pyramid = drilling.pyramid(bench.start, Asked(name))
    before = pyramid.window((0, 3), (0, 3)).sums
    held = weakref.ref(bench.resident(bench.start).arena)
    bench.store.drop("resident/")
    gc.collect()
    assert held() is None
    np.testing.assert_array_equal(pyramid.view.deltas((0, 3), (0, 3)).double().numpy(), before[6:])  # read anew


def test_models_beyond_the_budget_are_read_from_their_files(tmp_path: Path) -> None:
    folder = make_models(tmp_path)
    small, large = (make_bench(folder, tmp_path / "exports", budget_bytes=b) for b in (1, 1 << 30))
    asked = Asked(matrix(large))
    one, other = (Drilling(b).pyramid(b.start, asked) for b in (small, large))
    assert one.level(0, 0).tobytes() == other.level(0, 0).tobytes()
