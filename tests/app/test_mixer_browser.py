"""Curves over depth in a real browser, between the Mixer and the recipe that Python makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Locator, Page, expect

from explorer.merging import METHODS
from explorer.recipe import Recipe, TaskEntry
from explorer.session import Session, change, undo
from viz.panels.settings import recipe_from, show_controls, show_mixer
from viz.parts import Mixer

pytestmark = pytest.mark.browser

LAYERS = 12
IN_LAYER = ("attention.self.query", "attention.output.LayerNorm", "intermediate.dense", "output.dense")
NAMES = (
    "classifier.weight", "embeddings.LayerNorm.weight", "embeddings.word.weight",
    *(f"encoder.layer.{i}.{m}.{k}" for i in range(LAYERS) for m in IN_LAYER for k in ("weight", "bias")),
)  # fmt: skip
HAND = {"*.query.*": 0.9, "*": 0.3}
TASKS = ("one", "two", *(f"task {i}" for i in range(3, 21)))
START = Recipe("b", tuple(TaskEntry(t, t, {"scale": HAND if t == "two" else 0.4}) for t in TASKS))
SESSION: list[Session] = []
RELEASED: list[Recipe] = []


def page_under_test() -> gr.Blocks:
    """Twenty tasks on a model of twelve layers, a button that undoes, and one that goes to a method without curves."""

    def show(recipe: Recipe, mixer: Any = None) -> dict[str, Any]:
        return show_mixer(recipe, METHODS.get(recipe.method).specs, mixer, names=NAMES)

    def released(mixer: Any) -> None:
        recipe, specs = SESSION[-1].recipe, METHODS.get("task_arithmetic").specs
        controls, past = show_controls(recipe, "", specs), SESSION[-1].past
        RELEASED.append(recipe_from(recipe, recipe.method, specs, mixer, controls, names=NAMES, past=past))
        SESSION.append(change(SESSION[-1], RELEASED[-1]))

    def back(mixer: Any) -> dict[str, Any]:
        SESSION.append(undo(SESSION[-1]))
        return show(SESSION[-1].recipe, mixer)

    def plain(mixer: Any) -> dict[str, Any]:
        return show_mixer(START, METHODS.get("ties").specs, mixer, names=NAMES)

    with gr.Blocks(analytics_enabled=False) as demo:
        mixer = Mixer(show(START), elem_id="mixer")
        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple"}
        mixer.release(released, mixer, None, **quiet)
        gr.Button("undo").click(back, mixer, mixer, **quiet)
        gr.Button("ties").click(plain, mixer, mixer, **quiet)
    return demo


@pytest.fixture
def page(open_part: Callable[..., Page]) -> Page:
    """The loaded page."""
    tab = open_part("#mixer .row .name")
    SESSION[:], RELEASED[:] = [Session(START)], []
    return tab


def until(page: Page, condition: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, RELEASED[-1:]
        page.wait_for_timeout(25)


def scale(task: str = "one") -> Any:
    """The latest recipe's coefficient of a task."""
    return RELEASED[-1].values()["scale"][task] if RELEASED else None


def at(pattern: str, task: str = "one") -> Any:
    """What the latest recipe gives a pattern."""
    return scale(task).get(pattern) if isinstance(scale(task), dict) else None


def unfold(page: Page, name: str) -> Locator:
    """The curve editor of a task."""
    page.get_by_role("button", name=f"Curve over depth of {name}", exact=True).click()
    return page.get_by_role("group", name=f"Curve over depth of {name}", exact=True)


def knot(editor: Locator, title: str) -> Locator:
    """The knot at a place."""
    return editor.get_by_role("slider", name=f"{title}, multiplier", exact=False)


def multipliers(editor: Locator) -> list[float]:
    """What the knots that are there show."""
    return [float(k.input_value()) for k in editor.locator(".knot:not(.is-absent)").all()]


def drag(page: Page, target: Locator, to: float, release: bool = True) -> None:
    """Drag a knot by the mouse to a multiplier, in many small moves."""
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box
    at = [box["y"] + box["height"] - 8 - v / 2 * (box["height"] - 16) for v in (float(target.input_value()), to)]
    page.mouse.move(box["x"] + box["width"] / 2, at[0])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, at[1], steps=15)
    if release:
        page.mouse.up()


def test_a_knot_is_dragged_and_undone(page: Page) -> None:
    editor = unfold(page, "one")
    assert multipliers(editor) == [1.0] * (LAYERS + 2)
    page.evaluate("window.nodes = [...document.querySelectorAll('#mixer *')]")
    drag(page, knot(editor, "layer 3"), 0.5, release=False)
    expect(editor.locator(".said")).to_have_text("layer 3: × 0.5 = 0.20")
    assert page.evaluate("window.nodes.every((n, i) => n === document.querySelectorAll('#mixer *')[i])")
    assert RELEASED == []
    page.mouse.up()
    until(page, lambda: scale() == {"encoder.layer.3.*": 0.2, "*": 0.4})
    assert len(RELEASED) == 1
    page.get_by_role("button", name="undo").click()
    until(page, lambda: multipliers(editor) == [1.0] * (LAYERS + 2))
    drag(page, knot(editor, "embeddings"), 0.0)
    until(page, lambda: scale() == {"embeddings.*": 0.0, "*": 0.4})
    knot(editor, "embeddings").dblclick()
    until(page, lambda: scale() == 0.4)


def test_knots_by_keys(page: Page) -> None:
    editor = unfold(page, "one")
    first = knot(editor, "layer 0")
    first.focus()
    for key, expected in (("ArrowUp", 1.05), ("PageDown", 0.85), ("Home", 0.0), ("End", 2.0), ("Shift+ArrowDown", 1.5)):
        first.press(key)
        until(page, lambda expected=expected: scale() == {"encoder.layer.0.*": round(0.4 * expected, 6), "*": 0.4})  # type: ignore[misc]
    expect(first).to_have_attribute("aria-valuetext", "× 1.5 = 0.60")
    first.press("ArrowRight")
    expect(knot(editor, "layer 1")).to_be_focused()
    page.keyboard.press("Delete")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Delete")
    until(page, lambda: scale() == 0.4)
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"


def test_a_curve_of_one_kind_of_module_presets_and_reset(page: Page) -> None:
    editor = unfold(page, "one")
    editor.get_by_role("button", name="attention").click()
    assert len(multipliers(editor)) == LAYERS, "no attention in embeddings and head"
    editor.get_by_role("button", name="ramp down").click()
    until(page, lambda: at("encoder.layer.11.attention.self.*") == round(0.4 * 0.077, 6))
    assert not any("dense" in pattern for pattern in scale())
    editor.get_by_role("button", name="MLP").click()
    assert multipliers(editor) == [1.0] * LAYERS
    editor.get_by_role("button", name="Curve of all tensors").click()
    editor.get_by_role("button", name="LiNeS").click()
    until(page, lambda: at("encoder.layer.0.*") == 0.2)
    assert multipliers(editor)[:3] == [0.5, 0.5, 0.55] and multipliers(editor)[-2:] == [1.0, 0.5]
    editor.get_by_role("button", name="to all tasks").click()
    until(page, lambda: scale("task 20") == scale())
    editor.get_by_role("button", name="reset curve").click()
    until(page, lambda: scale() == 0.4)
    assert at("encoder.layer.0.*", "task 20") == 0.2
    page.get_by_role("group", name="one", exact=True).get_by_role("button", name="Lock").click()
    expect(knot(editor, "layer 3")).to_be_disabled()
    page.get_by_role("button", name="reset:").click()
    until(page, lambda: scale("task 20") == 0.3)


def test_values_by_hand_say_so_and_stay(page: Page) -> None:
    by_hand = page.get_by_role("group", name="two", exact=True)
    expect(by_hand.locator(".note")).to_contain_text("Stays until you move the slider or draw a curve")
    page.get_by_role("group", name="one", exact=True).get_by_role("slider").press("ArrowRight")
    until(page, lambda: scale() == 0.41)
    assert scale("two") == HAND
    for _ in range(2):
        by_hand.get_by_role("button", name="Mute").click()
    until(page, lambda: len(RELEASED) == 3)
    assert scale("two") == HAND
    by_hand.get_by_role("slider").press("ArrowRight")
    until(page, lambda: scale("two") == 0.31)
    expect(by_hand.locator(".note")).to_be_hidden()


def test_a_method_without_curves_says_why(page: Page) -> None:
    unfold(page, "one")
    page.get_by_role("button", name="ties").click()
    expect(page.locator("#mixer .no-depth")).to_contain_text("no curve over depth")
    expect(page.get_by_role("button", name="Curve over depth of one", exact=True)).to_be_hidden()
    expect(page.locator("#mixer .bend")).to_have_count(0)


def test_twenty_unfolded_curves_are_fluent_and_fit_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    editors = [unfold(page, name) for name in TASKS]
    assert page.locator("#mixer .knot").count() == len(TASKS) * (LAYERS + 2)
    page.evaluate(
        """() => {
            window.late = []; let then = performance.now();
            const look = (now) => { window.late.push(now - then); then = now; requestAnimationFrame(look); };
            requestAnimationFrame(look);
        }"""
    )
    until(page, lambda: page.evaluate("window.late.length") > 30)
    calm = sorted(page.evaluate("window.late.splice(0)"))
    drag(page, knot(editors[10], "layer 5"), 1.5)
    until(page, lambda: scale(TASKS[10]) == {"encoder.layer.5.*": 0.6, "*": 0.4})
    frames = sorted(page.evaluate("window.late"))
    # An idle machine shows a frame every 17 ms; on a busy one, what counts is how much slower the drag makes it.
    assert frames[len(frames) // 2] < 3 * max(calm[len(calm) // 2], 50 / 3), (calm, frames)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
