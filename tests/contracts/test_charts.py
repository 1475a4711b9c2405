"""What every registered chart promises, on made-up results of the real shape."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.io.json import to_json_plotly

from explorer.errors import ParameterError, UnknownNameError
from explorer.results import Result
from viz.charts import CHARTS, Chart, chart, picked
from viz.charts._pick import PICKS

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))
from chart_answers_examples import ANSWERS_EXAMPLES
from chart_examples import EXAMPLES as PLAIN_EXAMPLES
from chart_examples import TASKS, emptied, read
from chart_history_examples import HISTORY_EXAMPLES
from chart_matrix_examples import MATRIX_EXAMPLES
from chart_sweep_examples import SWEEP_EXAMPLES
from chart_why_examples import WHY_EXAMPLES

EXAMPLES = {
    **PLAIN_EXAMPLES,
    **MATRIX_EXAMPLES,
    **WHY_EXAMPLES,
    **HISTORY_EXAMPLES,
    **SWEEP_EXAMPLES,
    **ANSWERS_EXAMPLES,
}
MOVES = ("trail", "settings", *SWEEP_EXAMPLES)
"""Results whose marks are settings of a merge and not parts of it."""

MANY = tuple(f"task {i}" for i in range(20))
EVIL = ("<b>bold</b>", "<script>alert(1)</script>", "a & b %{x}", "<a href='//evil.example'>x</a>")
CASES = [(c.name, kind) for c in CHARTS for kind in c.results]
everywhere = pytest.mark.parametrize(("name", "kind"), CASES)


def leaves(part: Any) -> Iterator[Any]:
    """Every single value inside a figure's dict."""
    if isinstance(part, dict):
        for inner in part.values():
            yield from leaves(inner)
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from leaves(inner)
    elif isinstance(part, np.ndarray) and part.dtype == object:
        yield from leaves(part.tolist())
    else:
        yield part


def drawn(name: str, kind: str, tasks: tuple[str, ...] = TASKS, **values: Any) -> dict[str, Any]:
    return read(CHARTS.get(name)(EXAMPLES[kind](tasks), **values))


def test_the_promised_charts_are_registered() -> None:
    assert CHARTS.names() == (
        "ab_difference", "calibration", "contribution_layers", "contributions", "cosine_map", "mask_agreement_layers",
        "mask_overlap_pairs", "mask_upset", "matrix_interference_layers", "norm_profile", "scores", "settings_parallel",
        "sign_conflict_map", "sign_conflict_pairs", "singular_spectra", "subspace_overlap_map", "sweep_curve",
        "sweep_map", "sweep_mix", "task_positions", "trail", "trimming_curve",
    )  # fmt: skip


def test_charts_load_neither_torch_nor_gradio() -> None:
    heavy = "{'torch', 'gradio', 'sklearn', 'scipy'}"
    code = f"import sys, viz.charts as c; c.CHARTS.names(); print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@everywhere
def test_layout_is_neutral_and_complete(name: str, kind: str) -> None:
    layout = drawn(name, kind)["layout"]
    assert not layout.get("template")
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert layout["height"] >= 200 and "width" not in layout
    assert layout["uirevision"]
    assert layout["xaxis"]["title"]["text"] and layout["yaxis"]["title"]["text"]
    assert layout["meta"]["chart"] == name


@everywhere
def test_same_result_same_figure_and_input_unchanged(name: str, kind: str) -> None:
    result = EXAMPLES[kind](TASKS)
    before = result.table.copy(deep=True)
    figures = [to_json_plotly(CHARTS.get(name)(result)) for _ in range(2)]
    CHARTS.get(name).caption_of(result)
    CHARTS.get(name).table_of(result)
    assert figures[0] == figures[1]
    pd.testing.assert_frame_equal(result.table, before)


@everywhere
def test_numbers_travel_as_arrays(name: str, kind: str) -> None:
    for trace in drawn(name, kind)["data"]:
        for key in ("x", "y", "z"):
            assert key not in trace or isinstance(trace[key], np.ndarray), (trace["type"], key)


@everywhere
def test_marks_explain_themselves_on_hover(name: str, kind: str) -> None:
    told = [t for t in drawn(name, kind)["data"] if t.get("hoverinfo") != "skip"]
    assert told
    for trace in told:
        assert trace["hoverinfo"] == "text"
        assert any(text for text in leaves(trace["hovertext"]))


@everywhere
def test_signed_colours_are_centred(name: str, kind: str) -> None:
    for trace in drawn(name, kind)["data"]:
        if "zmid" in trace:
            assert trace["zmid"] == 0 and trace["zmin"] == -trace["zmax"]
            assert np.nanmax(np.abs(trace["z"])) <= trace["zmax"]


@everywhere
def test_empty_results_give_a_sentence(name: str, kind: str) -> None:
    own, empty = CHARTS.get(name), emptied(EXAMPLES[kind](TASKS))
    figure = read(own(empty))
    assert not figure["data"] and len(figure["layout"]["annotations"][0]["text"]) > 15
    assert own.caption_of(empty).endswith(".")
    assert own.table_of(empty).empty


@everywhere
@pytest.mark.parametrize("tasks", [(), ("spam",), ("spam", "movies"), MANY], ids=["none", "one", "two", "twenty"])
def test_any_number_of_tasks(name: str, kind: str, tasks: tuple[str, ...]) -> None:
    own, result = CHARTS.get(name), EXAMPLES[kind](tasks)
    figure = read(own(result))
    assert figure["data"] or figure["layout"]["annotations"]
    assert own.caption_of(result).endswith(".")
    json.loads(to_json_plotly(own(result)))
    if len(tasks) > 1:
        assert figure["data"] and len(own.table_of(result))


@everywhere
def test_names_are_never_markup(name: str, kind: str) -> None:
    result = EXAMPLES[kind](EVIL)
    if "layer" in result.table:
        table = result.table.assign(layer=result.table["layer"].replace("layer 0", "<i>layer</i>"))
        result = dataclasses.replace(result, table=table.assign(kind=table["kind"].replace("norm", "<i>n</i>")))
    figure = read(CHARTS.get(name)(result))
    seen = {"data": [{k: v for k, v in t.items() if k != "customdata"} for t in figure["data"]]}
    shown = [s for s in leaves({**seen, "layout": {**figure["layout"], "meta": None}}) if isinstance(s, str)]
    assert any("&lt;" in s for s in shown) or kind == "trail"
    for text in shown:
        assert set(re.findall(r"</?([a-z]+)", text)) <= {"b", "br", "span"}
        assert "<b>bold" not in text and "evil" not in re.sub(r"&lt;.*", "", text)
    for trace in figure["data"]:
        assert trace.get("texttemplate", "%{text}") == "%{text}" and "hovertemplate" not in trace


@everywhere
def test_captions_are_one_sentence_with_the_chance_level(name: str, kind: str) -> None:
    caption = CHARTS.get(name).caption_of(EXAMPLES[kind](TASKS))
    assert caption.endswith(".") and not re.search(r"[.!?]\s+[A-Z]", caption) and "nan" not in caption
    assert len(caption) < 320 and "<" not in caption
    # A merge has no chance level: it is told beside what plain averaging would give.
    assert ("plain averaging" if kind == "contributions" else "chance") in caption or kind in ("trail", "settings")


@pytest.mark.parametrize("own", list(CHARTS), ids=lambda c: c.name)
def test_how_texts_say_what_chance_is(own: Chart) -> None:
    assert "chance" in own.how.lower() and 150 < len(own.how) < 900
    assert own.title and own.summary.endswith(".")
    json.dumps(own.describe())


@everywhere
def test_tables_hold_fractions_for_csv(name: str, kind: str) -> None:
    table = CHARTS.get(name).table_of(EXAMPLES[kind](TASKS))
    assert len(table) and list(table.index) == list(range(len(table)))
    fractions = {"accuracy", "conflict", "null", "iou", "share", "normalized", "overlap", "energy", "alignment"}
    # these two are multiples of a task's own strength, and so is their chance level
    fractions -= {"null"} if kind in ("sti", "wudi_loss") else set()
    for column in fractions & set(table):
        assert table[column].dropna().between(-1, 1).all()


@everywhere
def test_parameters_at_both_ends_and_beyond(name: str, kind: str) -> None:
    own, result = CHARTS.get(name), EXAMPLES[kind](TASKS)
    for spec in own.specs:
        for value in spec.edges():
            assert read(own(result, **{spec.name: value}))["data"]
            assert own.caption_of(result, **{spec.name: value})
        for value in spec.illegal():
            with pytest.raises(ParameterError, match=re.escape(spec.message(name, value))):
                own(result, **{spec.name: value})
    with pytest.raises(ParameterError, match="takes only declared parameters"):
        own(result, colour="red")


@everywhere
def test_the_page_may_pass_its_selection_to_every_chart(name: str, kind: str) -> None:
    colours = dict.fromkeys(TASKS, "#123456")
    place = {"layer": "layer 0", "kind": "mlp in"}
    whom: tuple[dict[str, Any], ...] = ({"pair": ("spam", "movies")}, {"task": "spam"}, {"task": None, "pair": None})
    for who in whom:
        selection: dict[str, Any] = {**place, "colours": colours, "current": 2, **who}
        assert read(CHARTS.get(name)(EXAMPLES[kind](TASKS), **selection))["data"]
        assert CHARTS.get(name).caption_of(EXAMPLES[kind](TASKS), **selection)
        assert len(CHARTS.get(name).table_of(EXAMPLES[kind](TASKS), **selection))


@everywhere
def test_marks_say_what_a_click_on_them_selects(name: str, kind: str) -> None:
    marks = [m for t in drawn(name, kind)["data"] for m in np.ravel(np.array(t.get("customdata", []), dtype=object))]
    named = [mark for mark in marks if mark]
    assert named and all(isinstance(mark, dict) and set(mark) <= set(PICKS) for mark in named)
    if kind not in MOVES:
        for mark in named:
            found = picked({"points": [{"customdata": mark}]}, TASKS)
            assert all(getattr(found, key) in (value, tuple(sorted(value))) for key, value in mark.items())


@everywhere
def test_what_is_selected_is_marked_and_what_is_unknown_marks_nothing(name: str, kind: str) -> None:
    plain = to_json_plotly(CHARTS.get(name)(EXAMPLES[kind](TASKS)))
    keys = {key for t in json.loads(plain)["data"] for m in _marks(t.get("customdata")) for key in m}
    for key, value in (("task", "movies"), ("pair", ("intents", "movies")), ("layer", "layer 0"), ("kind", "mlp in")):
        if key in keys and name != "sign_conflict_map":
            assert to_json_plotly(CHARTS.get(name)(EXAMPLES[kind](TASKS), **{key: value})) != plain, key
    strange = {"layer": "layer 99", "kind": "no such kind"}
    assert to_json_plotly(CHARTS.get(name)(EXAMPLES[kind](TASKS), **strange)) == plain


def _marks(customdata: Any) -> list[dict[str, Any]]:
    if isinstance(customdata, dict):
        return [customdata]
    return [mark for inner in customdata or [] for mark in _marks(inner)]


@everywhere
def test_rows_of_unknown_tasks_are_left_out(name: str, kind: str) -> None:
    full = EXAMPLES[kind](TASKS)
    fewer = Result(full.kind, TASKS[:3], full.table, full.columns)
    figure = read(CHARTS.get(name)(fewer))
    assert figure["data"]
    if kind not in ("minority_mass", "mask_agreement", "trail"):
        assert "newsgroups" not in json.dumps([str(leaf) for leaf in leaves(figure)])


def test_a_result_of_another_kind_is_refused_in_words() -> None:
    with pytest.raises(ParameterError, match="trail: draws a result of kind trail; got 'scores'"):
        CHARTS.get("trail")(EXAMPLES["scores"](TASKS))


def test_pairs_must_be_two_tasks() -> None:
    own, result = CHARTS.get("sign_conflict_map"), EXAMPLES["sign_conflict"](TASKS)
    with pytest.raises(ParameterError, match="Did you mean 'spam'"):
        own(result, pair=("spam", "span"))
    with pytest.raises(ParameterError, match="two different tasks"):
        own(result, pair=("spam", "spam"))
    with pytest.raises(ParameterError, match=r"task names a task of the result; got 'span'\. Did you mean 'spam'"):
        CHARTS.get("cosine_map")(result=EXAMPLES["cosine"](TASKS), task="span")


def test_a_name_is_taken_once_and_near_names_are_offered() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cosine_map'"):
        CHARTS.get("cosine_mep")

    def trail(result: Result) -> go.Figure:
        return go.Figure()

    with pytest.raises(TypeError, match="registered twice"):
        chart(title="Again", how="…", result="trail")(trail)


def test_a_chart_without_caption_says_so() -> None:
    def lonely(result: Result) -> go.Figure:
        """Nothing."""
        return go.Figure()

    try:
        own = chart(title="Lonely", how="…", result="scores")(lonely)
        with pytest.raises(TypeError, match="no caption"):
            own.caption_of(EXAMPLES["scores"](TASKS))
    finally:
        CHARTS.forget("lonely")
