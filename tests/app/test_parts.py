"""The page's own parts: the values that Python makes for them and reads from them."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from explorer.errors import ParameterError
from viz import parts, style
from viz.parts import PlotlyPanel, csv_text, mixer_value, panel_value, read_mixer, static_paths

EVIL = "<img src=x onerror=window.pwned=1>"
TASKS = ("mnist", "svhn", EVIL)
COLOURS = [style.task_colour(i) for i in range(3)]
START = {"mnist": 0.3, "svhn": 0.5, EVIL: 1.0}


# ---------------------------------------------------------------- style


def oklab(colour: str) -> np.ndarray:
    """OKLab coordinates of an sRGB colour."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(to_lab) @ np.cbrt(np.array(to_cones) @ linear)


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, as WCAG defines it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two colours."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_twenty_task_colours_are_distinct_and_visible_on_both_pages() -> None:
    colours = [style.task_colour(i) for i in range(20)]
    nearest = min(float(np.linalg.norm(oklab(a) - oklab(b))) for a, b in itertools.combinations(colours, 2))
    assert nearest > 0.05
    assert all(contrast(c, style.page_colour(theme)) > 1.5 for c in colours for theme in ("light", "dark"))
    assert len({style.task_symbol(i) for i in range(20)}) == 20
    assert style.task_colour(20) == style.task_colour(0)


def test_neutral_colours_have_contrast_on_both_pages() -> None:
    for colour, theme in itertools.product((style.NEUTRAL, style.POSITIVE, style.NEGATIVE), ("light", "dark")):
        assert contrast(colour, style.page_colour(theme)) > 2.5, (colour, theme)


def test_scales_span_zero_to_one_and_the_middle_of_the_diverging_one_is_nearly_white() -> None:
    for scale in (style.SEQUENTIAL, style.DIVERGING):
        assert [scale[0][0], scale[-1][0]] == [0.0, 1.0]
        assert [stop for stop, _ in scale] == sorted(stop for stop, _ in scale)
    assert luminance(dict(map(tuple, style.DIVERGING))[0.5]) > 0.9
    lights = [luminance(str(colour)) for _, colour in style.SEQUENTIAL]
    assert lights == sorted(lights)


def test_themed_is_a_copy_with_the_template_on_a_solid_background() -> None:
    figure = go.Figure(go.Scatter(x=[1], y=[2]))
    before = figure.to_json()
    dark = style.themed(figure, "dark")
    assert figure.to_json() == before
    assert dark.layout.paper_bgcolor == style.page_colour("dark")
    assert contrast(dark.layout.template.layout.font.color, style.page_colour("dark")) > 7
    assert contrast(style.template("light").layout.font.color, style.page_colour("light")) > 7
    with pytest.raises(ValueError, match="style: theme must be 'light' or 'dark'; got 'blue'"):
        style.template("blue")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (style.percent(0.1234), "12.3 %"),
        (style.percent(1, digits=0), "100 %"),
        (style.percent(None), "–"),
        (style.percent(math.nan), "–"),
        (style.count(0), "0"),
        (style.count(1234), "1,234"),
        (style.count(999_999), "999,999"),
        (style.count(5_300_000), "5.3 M"),
        (style.count(999_999_999), "1.0 B"),
        (style.count(None), "–"),
        (style.bytes_text(512), "512 B"),
        (style.bytes_text(999_999), "1.0 MB"),
        (style.bytes_text(43_100_000), "43.1 MB"),
        (style.seconds_text(0.012), "12 ms"),
        (style.seconds_text(0.9999), "1.0 s"),
        (style.seconds_text(3.44), "3.4 s"),
        (style.seconds_text(59.97), "1 min 00 s"),
        (style.seconds_text(125), "2 min 05 s"),
        (style.seconds_text(3840), "1 h 04 min"),
    ],
)
def test_number_formats(text: str, expected: str) -> None:
    assert text == expected


def test_style_needs_neither_gradio_nor_torch() -> None:
    check = "import sys, viz.style; sys.exit('gradio' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# ---------------------------------------------------------------- panel values


def test_panel_value_is_json_without_template_and_with_typed_arrays() -> None:
    figure = go.Figure(go.Heatmap(z=np.array([[1.0, np.nan]], "float32")))
    value = panel_value("name", "Title", figure, None, "One.", "How.")
    assert "template" not in value["figure"]["layout"]
    assert value["figure"]["data"][0]["z"]["bdata"]
    assert value["csv"] == "" and value["note"] is None
    json.dumps(value, allow_nan=False)


def test_links_in_figure_text_become_text() -> None:
    figure = go.Figure(go.Bar(x=["<a href='http://evil'>n</a>", "<b>bold</b>"], y=[1, 2]))
    assert panel_value("n", "t", figure, None, "c", "h")["figure"]["data"][0]["x"] == [
        "&lt;a href='http://evil'>n&lt;/a>", "<b>bold</b>",
    ]  # fmt: skip


def test_text_cells_cannot_be_formulas_and_numbers_stay_numbers() -> None:
    table = pd.DataFrame({"=name": ["=1+1", "+cmd", "@x", "-evil", "-0.5", 'a,"b"'], "value": [-1.5, 2, 3, 4, 5, 6]})
    lines = csv_text(table).splitlines()
    assert lines[0] == "'=name,value"
    assert lines[1:] == ["'=1+1,-1.5", "'+cmd,2.0", "'@x,3.0", "'-evil,4.0", "-0.5,5.0", '"a,""b""",6.0']


def test_panel_refuses_values_it_cannot_show() -> None:
    panel = PlotlyPanel()
    assert panel.postprocess(None) is None
    assert json.loads(panel.postprocess({"empty": "Load a model."}) or "") == {"empty": "Load a model."}
    with pytest.raises(ParameterError, match="value must hold a figure"):
        panel.postprocess({"name": "x"})
    with pytest.raises(ParameterError, match="value must be plain JSON"):
        panel.postprocess({"figure": math.nan})
    assert panel.preprocess("not json") is None


def test_one_static_file_and_no_stub_files_beside_the_parts() -> None:
    (library,) = static_paths()
    assert library.name == "plotly.min.js" and library.is_file()
    assert not list(Path(parts.__file__).parent.glob("*.pyi"))


# ---------------------------------------------------------------- mixer values


def value(**changes: Any) -> dict[str, Any]:
    """A mixer value of the three tasks."""
    return {**mixer_value(TASKS, COLOURS, START, -1, 2, 0.01, 0.3, "Help."), **changes}


def test_read_mixer_returns_the_coefficients_after_mute_and_solo() -> None:
    plain = value()
    assert read_mixer(plain, TASKS, -1, 2) == START
    plain["tasks"][0]["muted"] = True
    assert read_mixer(plain, TASKS, -1, 2) == {**START, "mnist": 0.0}
    assert read_mixer({**plain, "solo": "svhn"}, TASKS, -1, 2) == {"mnist": 0.0, "svhn": 0.5, EVIL: 0.0}
    assert read_mixer({**plain, "solo": "mnist"}, TASKS, -1, 2) == {"mnist": 0.0, "svhn": 0.0, EVIL: 0.0}


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "0.3", None, True, 2.5, -1.1, [0.3]])
def test_read_mixer_refuses_a_number_it_cannot_use(wrong: object) -> None:
    broken = value()
    broken["tasks"][1]["value"] = wrong
    with pytest.raises(ParameterError, match="coefficient of 'svhn' must be a number between -1 and 2"):
        read_mixer(broken, TASKS, -1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], "x", {}, {"tasks": "abc"}, {"tasks": [1, 2, 3]}, value(tasks=value()["tasks"][:2]),
        value(tasks=[*value()["tasks"], value()["tasks"][0]]), value(solo="nobody"), value(solo=3),
        value(tasks=[{**row, "muted": "yes"} for row in value()["tasks"]]),
        value(tasks=[{**row, "linked": 1} for row in value()["tasks"]]),
        value(tasks=[{**row, "name": row["name"].upper()} for row in value()["tasks"]]),
    ],
)  # fmt: skip
def test_read_mixer_refuses_what_is_no_mixer_of_these_tasks(wrong: object) -> None:
    with pytest.raises(ParameterError, match=r"^mixer: "):
        read_mixer(wrong, TASKS, -1, 2)


def test_mixer_value_keeps_the_marks_of_remaining_tasks() -> None:
    old = value(solo="svhn")
    old["tasks"][0]["locked"] = old["tasks"][0]["linked"] = old["tasks"][1]["muted"] = True
    new = mixer_value(["svhn", "mnist", "new"], COLOURS, {"svhn": 9.0}, -1, 2, 0.01, 0.3, "", previous=old)
    marks = [tuple(row[k] for k in ("name", "value", "muted", "locked", "linked")) for row in new["tasks"]]
    assert marks == [
        ("svhn", 2, True, False, False), ("mnist", 0.3, False, True, True), ("new", 0.3, False, False, False),
    ]  # fmt: skip
    assert new["solo"] == "svhn"
    assert mixer_value(["new"], COLOURS[:1], {}, -1, 2, 0.01, 0.3, "", previous=old)["solo"] is None
    with pytest.raises(ParameterError, match="task names must differ"):
        mixer_value(["a", "a"], COLOURS[:2], {})
    with pytest.raises(ParameterError, match="as many colours"):
        mixer_value(["a"], [], {})
