"""The section "What changed and why": figures before any score, advice and examples after, and its own controls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from workbench_zoo import make_bench, make_models, recipe_of

from explorer.errors import Cancelled
from explorer.streaming import stream
from explorer.workbench import Slot, Workbench
from viz.panels.why import WhyPlace


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def bench(zoo: Path, tmp_path: Path) -> Workbench:
    return make_bench(zoo, tmp_path / "exports")


def place_of(bench: Workbench) -> tuple[WhyPlace, dict[str, Callable[..., Any]]]:
    """The section with its events bound, and the callbacks by the id of what they change or are on."""
    with gr.Blocks() as page:
        place = WhyPlace(bench)
        place.connect(lambda request: bench.slot(str(request)), {})
    found = {fn.targets[0][0]: fn.fn for fn in page.fns.values()}
    parts = {"show": place.show, "by": place.by, "back": place.back, "more": place.more}
    return place, {name: found[part._id] for name, part in parts.items()}


def test_figures_come_right_after_the_merge_and_words_and_examples_with_the_scores(bench: Workbench) -> None:
    place, _ = place_of(bench)
    slot, recipe = bench.slot("tab"), bench.start
    assert len(place.waiting()) == len(place.outputs) == 4
    (said, parts, layers, examples), seconds = place.after_merge(slot, recipe, slot.newest())
    assert seconds > 0 and parts["name"] == "contributions" and layers["name"] == "contribution_layers"
    assert "explorer-note" in said and examples == gr.skip()
    shown = []
    for update in stream(bench, slot, recipe, slot.newest(), merge_seconds=seconds):
        assert update.merge_seconds == seconds  # the merge was there: nothing is merged twice
        shown.append(place.scored(slot, update))
    first, last = shown[0], shown[-1]
    assert first == [gr.skip()] * 4 and "not scored yet" not in last[3]
    assert "expert" in last[0] and last[3].count("<i>right</i>") + last[3].count("<i>wrong</i>") == 24
    assert place.scored(bench.slot("another tab"), update) == [gr.skip()] * 4


def test_a_superseded_request_and_models_that_do_not_fit(bench: Workbench, zoo: Path, tmp_path: Path) -> None:
    place, _ = place_of(bench)
    slot, old = bench.slot("tab"), bench.slot("tab").newest()
    slot.newest()
    with pytest.raises(Cancelled):
        place.after_merge(slot, bench.start, old)
    small = make_bench(zoo, tmp_path / "small", budget_bytes=1000)
    (said, parts, *_), seconds = place_of(small)[0].after_merge(small.slot("a"), small.start, small.slot("a").newest())
    assert "a merged model needs 0.0 MiB of memory" in parts["empty"] and (said, seconds) == ("", 0.0)


def test_nothing_is_drawn_behind_another_tab(bench: Workbench) -> None:
    place, _ = place_of(bench)
    slot = bench.slot("tab")
    assert place.turn(slot, shown=False) == [gr.skip()] * 4
    assert place.after_merge(slot, bench.start, slot.newest()) == ([gr.skip()] * 4, 0.0)
    _, parts, layers, examples = place.turn(slot, shown=True)
    assert parts["name"] == "contributions" and layers["name"] == "contribution_layers" and "<table" in examples
    assert place.turn(slot, shown=True) == [gr.skip()] * 4


def test_its_controls_redraw_only_what_they_change(bench: Workbench, zoo: Path) -> None:
    place, on = place_of(bench)
    assert "empty" in on["show"]("dropped", "tab")
    slot: Slot = bench.slot("tab")
    recipe = recipe_of(zoo, method="ties", parameters={"density": 0.3})
    (_, _, layers, _), _ = place.after_merge(slot, recipe, slot.newest(), bench.start)
    on["more"]("tab")
    first = on["back"]("tab")
    assert layers["figure"]["layout"]["yaxis"]["title"]["text"].startswith("dropped") and "pinned A" in first
    assert on["by"]("kind", "tab")["figure"]["layout"]["xaxis"]["title"]["text"] == "kind of module"
    assert "must be one of" in on["show"]("everything", "tab")["empty"]
    slot.session = slot.session.__class__(recipe)
    second = on["more"]("tab")
    assert second != first and on["back"]("tab") == first and "page 15 of 15" in on["back"]("tab")
