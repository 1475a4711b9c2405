"""The page's own parts in a real browser, on a page of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Locator, Page, expect

from viz import style
from viz.parts import Mixer, PlotlyPanel, mixer_value, panel_value, read_mixer

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=window.pwned=1>"
TASKS = ("mnist", "svhn", EVIL)
START = {"mnist": 0.3, "svhn": 0.5, EVIL: 1.0}
SEEN: list[tuple[str, Any]] = []


def mixer_start(**coefficients: float) -> dict[str, Any]:
    """The mixer as every test finds it."""
    colours = [style.task_colour(i) for i in range(len(TASKS))]
    return mixer_value(TASKS, colours, {**START, **coefficients}, -1, 2, 0.01, 0.3, "Share of each task vector.")


def heat(shift: float = 0.0) -> dict[str, Any]:
    """A small heat map panel."""
    z = np.arange(12, dtype="float32").reshape(3, 4) + shift
    figure = go.Figure(go.Heatmap(z=z, customdata=np.arange(12).reshape(3, 4)), {"height": 300})
    table = pd.DataFrame({"task": ["mnist", EVIL, "=1+1"], "value": [0.25, -1.0, 2.0]})
    return panel_value("heat", f"Heat {EVIL}", figure, table, f"Caption {EVIL}", "First line.\nSecond line.")


def scaled(value: int) -> dict[str, Any]:
    """A bar over 0 to 7 with a handle at a value."""
    handle = {
        "argument": "min_tasks", "label": "consensus k", "low": 0, "high": 8, "step": 1, "value": value,
        "axes": ["xaxis", "yaxis"], "ends": [-0.5, 7.5],
    }  # fmt: skip
    layout = {"height": 160, "meta": {"handle": handle}, "xaxis": {"range": [-0.5, 8]}}
    figure = go.Figure(go.Bar(x=np.arange(8), y=np.ones(8)), layout)
    return panel_value("scale", "Scale", figure, None, f"k is {value}", "How.")


def page_under_test() -> gr.Blocks:
    """A page with one mixer and two panels, one of them inside a tab that is closed at first."""
    with gr.Blocks(analytics_enabled=False) as demo:
        mixer = Mixer(mixer_start(), elem_id="mixer")
        panel = PlotlyPanel(heat(), elem_id="panel")
        empty = PlotlyPanel(None, elem_id="empty")
        with gr.Tabs():
            with gr.Tab("first"):
                gr.Markdown("nothing here")
            with gr.Tab("second"):
                PlotlyPanel(heat(), elem_id="hidden")
        scale = PlotlyPanel(scaled(2), elem_id="scale")
        buttons = [gr.Button(name) for name in ("set mixer", "new figure", "stale", "disable")]

        def note(kind: str) -> Callable[[Any], None]:
            return lambda value: SEEN.append((kind, read_mixer(value, TASKS, -1, 2)))

        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple"}
        mixer.input(note("input"), mixer, None, **quiet)
        mixer.release(note("release"), mixer, None, **quiet)

        def picked(event: gr.EventData) -> None:
            SEEN.append(("pick", event._data))

        panel.pick(picked, None, None, **quiet)

        def dragged(event: gr.EventData) -> dict[str, Any]:
            SEEN.append(("drag", event._data))
            return scaled(event._data["value"])

        scale.drag(dragged, None, scale, **quiet)
        buttons[0].click(lambda: mixer_start(mnist=1.5), None, mixer, **quiet)
        buttons[1].click(lambda: (heat(100.0), {"empty": "Load a model."}), None, [panel, empty], **quiet)
        buttons[2].click(lambda: {"stale": True}, None, panel, **quiet)
        buttons[3].click(lambda: {**mixer_start(), "disabled": "No coefficients here."}, None, mixer, **quiet)
    return demo


@pytest.fixture
def page(open_part: Callable[..., Page]) -> Page:
    """The loaded page."""
    tab = open_part("#panel .host[data-drawn]")
    SEEN.clear()
    return tab


def until(page: Page, condition: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, SEEN
        page.wait_for_timeout(25)


def row(page: Page, name: str) -> Locator:
    """The mixer row of a task, or of all tasks."""
    return page.get_by_role("group", name=name, exact=True)


def last(kind: str) -> dict[str, Any]:
    """What the latest event of a kind carried."""
    return next((value for seen, value in reversed(SEEN) if seen == kind), {})


def drag(page: Page, slider: Locator, share: float, release: bool = True) -> None:
    """Drag a slider's thumb to a share of its width, in many small moves."""
    box = slider.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    at = (float(slider.input_value()) + 1) / 3
    page.mouse.move(box["x"] + 8 + at * (box["width"] - 16), y)
    page.mouse.down()
    page.mouse.move(box["x"] + 8 + share * (box["width"] - 16), y, steps=15)
    if release:
        page.mouse.up()


def test_a_drag_ends_on_its_last_value(page: Page) -> None:
    slider = row(page, "mnist").get_by_role("slider")
    drag(page, slider, 1.0)
    until(page, lambda: last("release").get("mnist") == 2.0)
    assert last("release") == {**START, "mnist": 2.0}
    until(page, lambda: ("input", last("release")) in SEEN)  # on a busy machine events may overtake one another
    assert sum(kind == "release" for kind, _ in SEEN) == 1


def test_typing_keys_and_double_click(page: Page) -> None:
    number, slider = row(page, "svhn").get_by_role("textbox"), row(page, "svhn").get_by_role("slider")
    number.fill("0,75")
    number.press("Enter")
    until(page, lambda: last("release").get("svhn") == 0.75)
    sent = len(SEEN)
    number.fill("7")
    expect(number).to_have_attribute("aria-invalid", "true")
    expect(row(page, "svhn").get_by_role("alert")).to_have_text("between -1 and 2")
    number.press("Enter")
    number.press("Escape")
    expect(number).to_have_value("0.75")
    page.wait_for_timeout(300)
    assert SEEN[sent:] == []
    for key, expected in (
        ("ArrowRight", 0.76), ("Shift+ArrowRight", 0.86), ("PageDown", 0.56), ("PageUp", 0.86), ("End", 2.0),
        ("PageUp", 2.0), ("Home", -1.0), ("Delete", 0.3), ("ArrowDown", 0.29),
    ):  # fmt: skip
        slider.press(key)
        until(page, lambda expected=expected: last("release").get("svhn") == expected)  # type: ignore[misc]
    slider.dblclick()
    until(page, lambda: last("release").get("svhn") == 0.3)
    for key, expected in (("ArrowUp", 0.31), ("Shift+ArrowUp", 0.41), ("PageDown", 0.11)):
        number.press(key)
        until(page, lambda expected=expected: last("release").get("svhn") == expected)  # type: ignore[misc]


def test_a_held_key_is_one_step(page: Page) -> None:
    row(page, "svhn").get_by_role("slider").focus()
    for _ in range(8):
        page.keyboard.down("ArrowRight")
    until(page, lambda: last("input").get("svhn") == 0.58)
    assert not last("release")
    page.keyboard.up("ArrowRight")
    until(page, lambda: last("release").get("svhn") == 0.58)
    assert sum(kind == "release" for kind, _ in SEEN) == 1


def test_mute_solo_and_lock(page: Page) -> None:
    mnist, svhn = row(page, "mnist"), row(page, "svhn")
    mnist.get_by_role("button", name="Mute").click()
    until(page, lambda: last("release").get("mnist") == 0.0)
    expect(mnist.get_by_role("button", name="Mute")).to_have_attribute("aria-pressed", "true")
    mnist.get_by_role("button", name="Mute").click()
    svhn.get_by_role("button", name="Solo").click()
    until(page, lambda: last("release") == {"mnist": 0.0, "svhn": 0.5, EVIL: 0.0})
    svhn.get_by_role("button", name="Solo").click()
    until(page, lambda: last("release") == START)
    svhn.get_by_role("button", name="Lock").click()
    expect(svhn.get_by_role("slider")).to_be_disabled()
    page.get_by_role("button", name="all 1").click()
    until(page, lambda: last("release") == {"mnist": 1.0, "svhn": 0.5, EVIL: 1.0})


def test_linked_tasks_move_by_the_same_amount(page: Page) -> None:
    for name in ("mnist", "svhn"):
        row(page, name).get_by_role("button", name="Link").click()
    row(page, "mnist").get_by_role("slider").press("Shift+ArrowRight")
    until(page, lambda: last("release") == {"mnist": 0.4, "svhn": 0.6, EVIL: 1.0})
    row(page, EVIL).get_by_role("slider").press("Shift+ArrowLeft")
    until(page, lambda: last("release") == {"mnist": 0.4, "svhn": 0.6, EVIL: 0.9})
    row(page, "svhn").get_by_role("button", name="Lock").click()
    row(page, "mnist").get_by_role("slider").press("Shift+ArrowRight")
    until(page, lambda: last("release") == {"mnist": 0.5, "svhn": 0.6, EVIL: 0.9})
    row(page, "svhn").get_by_role("button", name="Lock").click()
    page.get_by_role("button", name="Link all").click()
    row(page, EVIL).get_by_role("slider").press("Shift+ArrowRight")
    until(page, lambda: last("release") == {"mnist": 0.6, "svhn": 0.7, EVIL: 1.0})
    page.get_by_role("button", name="Link all").click()
    row(page, EVIL).get_by_role("slider").press("Shift+ArrowRight")
    until(page, lambda: last("release") == {"mnist": 0.6, "svhn": 0.7, EVIL: 1.1})


def test_the_row_of_all_tasks_keeps_proportions(page: Page) -> None:
    everyone = row(page, "all tasks").get_by_role("textbox")
    expect(everyone).to_have_value("0.60")
    everyone.fill("0.9")
    everyone.press("Enter")
    until(page, lambda: last("release") == {"mnist": 0.45, "svhn": 0.75, EVIL: 1.5})
    row(page, "all tasks").get_by_role("slider").press("End")
    until(page, lambda: last("release") == {"mnist": 0.6, "svhn": 1.0, EVIL: 2.0})
    expect(everyone).to_have_value("1.20")
    row(page, "mnist").get_by_role("slider").press("Home")
    expect(everyone).to_have_value("0.667")
    row(page, EVIL).get_by_role("button", name="Lock").click()
    expect(everyone).to_have_value("0.00")
    row(page, "all tasks").get_by_role("slider").press("Shift+ArrowRight")
    until(page, lambda: last("release") == {"mnist": -0.9, "svhn": 1.1, EVIL: 2.0})


def test_presets_of_all_tasks(page: Page) -> None:
    page.get_by_role("button", name="1/n").click()
    until(page, lambda: last("release") == dict.fromkeys(TASKS, 1 / 3))
    page.get_by_role("button", name="reset:").click()
    until(page, lambda: last("release") == dict.fromkeys(TASKS, 0.3))


def test_a_value_from_python_is_shown_and_answers_with_no_event(page: Page) -> None:
    page.evaluate("window.before = document.querySelector('#mixer .slider')")
    page.get_by_role("button", name="set mixer").click()
    expect(row(page, "mnist").get_by_role("textbox")).to_have_value("1.50")
    page.wait_for_timeout(400)
    assert SEEN == []
    assert page.evaluate("window.before === document.querySelector('#mixer .slider')")
    page.get_by_role("button", name="disable").click()
    expect(page.locator("#mixer")).to_contain_text("No coefficients here.")
    expect(row(page, "mnist").get_by_role("slider")).to_be_disabled()


def test_a_value_from_python_leaves_a_drag_alone(page: Page) -> None:
    slider = row(page, "mnist").get_by_role("slider")
    drag(page, slider, 0.5, release=False)
    until(page, lambda: last("input").get("mnist") == 0.5)
    page.evaluate("[...document.querySelectorAll('button')].find(b => b.textContent.trim() === 'set mixer').click()")
    page.wait_for_timeout(500)
    assert slider.input_value() == "0.5"
    page.mouse.up()
    until(page, lambda: last("release").get("mnist") == 0.5)


def test_names_are_text(page: Page) -> None:
    expect(row(page, EVIL).locator(".name")).to_have_text(EVIL)
    expect(page.locator("#panel .caption")).to_have_text(f"Caption {EVIL}")
    page.locator("#panel summary", has_text="Show numbers").click()
    expect(page.locator("#panel tbody tr").nth(1)).to_have_text(f"{EVIL}-1.0")
    page.locator("#panel summary", has_text="How to read this").click()
    expect(page.locator("#panel .how-text")).to_have_text("First line.\nSecond line.")
    assert page.locator("#mixer img, #panel img").count() == 0


def test_the_look_follows_the_page_and_the_zoom_stays(page: Page) -> None:
    font = "getComputedStyle(document.querySelector('#panel .xtick text')).fill"
    ranges = "document.querySelector('#panel .host')._fullLayout.xaxis.range.map(v => Math.round(v * 100) / 100)"
    light, width = page.evaluate(font), page.locator("#panel .host").bounding_box()
    assert width and width["height"] == 300
    box = page.locator("#panel .nsewdrag").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] - 20, steps=5)
    page.mouse.up()
    until(page, lambda: page.evaluate(ranges) == [0.5, 2.5])
    page.evaluate("document.body.classList.add('dark')")
    until(page, lambda: page.evaluate(font) != light)
    page.get_by_role("button", name="stale").click()
    expect(page.get_by_text("out of date – updating").first).to_be_visible()
    page.get_by_role("button", name="new figure").click()
    until(page, lambda: page.evaluate("document.querySelector('#panel .host')._fullData[0].zmax === 111"))
    expect(page.get_by_text("out of date – updating").first).to_be_hidden()
    expect(page.locator("#empty .empty")).to_have_text("Load a model.")
    assert page.evaluate(ranges) == [0.5, 2.5]


def test_a_click_on_a_cell_reaches_python(page: Page) -> None:
    box = page.locator("#panel .nsewdrag").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    page.mouse.click(box["x"] + box["width"] * 0.375, box["y"] + box["height"] * 0.5)
    until(page, lambda: last("pick"))
    point = {"x": 1, "y": 1, "z": 5, "customdata": 5, "curveNumber": 0, "pointNumber": [1, 1]}
    assert last("pick") == {"name": "heat", "points": [point]}


def test_a_handle_in_a_figure_moves_by_mouse_and_keys(page: Page) -> None:
    handle, caption = page.get_by_role("slider", name="consensus k"), page.locator("#scale .caption")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    assert box and handle.input_value() == "2"
    step, middle = (box["width"] - 18) / 8, box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 9 + 2 * step, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 9 + 5 * step, middle, steps=6)
    page.mouse.up()
    expect(caption).to_have_text("k is 5")
    assert [value["value"] for kind, value in SEEN if kind == "drag"] == [3, 4, 5]
    assert {**last("drag"), "turn": 0} == {"name": "scale", "argument": "min_tasks", "value": 5, "turn": 0}
    handle.press("ArrowRight")
    expect(caption).to_have_text("k is 6")
    assert handle.input_value() == "6"
    expect(page.locator("#panel .handle")).to_be_hidden()


def test_saved_files(page: Page, tmp_path: Path) -> None:
    saved = {}
    for kind in ("CSV", "PNG", "SVG", "HTML"):
        with page.expect_download() as download:
            page.locator("#panel").get_by_role("button", name=kind).click()
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])
    assert [path.name for path in saved.values()] == ["heat.csv", "heat.png", "heat.svg", "heat.html"]
    assert saved["CSV"].read_text(encoding="utf-8") == f"task,value\nmnist,0.25\n{EVIL},-1.0\n'=1+1,2.0\n"
    assert saved["PNG"].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "rgb(255, 255, 255)" in saved["SVG"].read_text(encoding="utf-8")
    alone = page.context.new_page()
    alone.on("request", lambda request: pytest.fail(request.url) if request.url.startswith("http") else None)
    alone.goto(saved["HTML"].as_uri())
    alone.wait_for_selector("#figure .heatmaplayer image")
    assert alone.evaluate("window.pwned") is None
    alone.close()


def test_a_panel_in_a_closed_tab_is_drawn_at_full_width_when_opened(page: Page) -> None:
    page.get_by_role("tab", name="second").click()
    page.wait_for_selector("#hidden .host[data-drawn]")
    width = "document.querySelector('#hidden .host')._fullLayout.width"
    assert page.evaluate(width) == page.evaluate("document.querySelector('#hidden .host').clientWidth")
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, lambda: page.evaluate(width) < 380)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelectorAll('script[src*=\"plotly.min\"]').length") == 1
