"""The page as it opens, the place Interference, the look, and the keyboard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from driving import (
    FIGURES,
    TASKS,
    TOPICS,
    App,
    at_rest,
    caption,
    drawn,
    figure,
    go,
    slider,
    topic,
    until,
    wait_drawn,
    wait_scored,
)
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PLACES = ("Models", "Interference", "Merge")


def test_the_samples_are_open_and_the_first_figure_is_drawn(
    open_tab: Callable[..., Page], app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = time.monotonic() - app.ready < 1  # nothing was opened in it before
    page = open_tab("?")
    wait_drawn(page, "first-look")
    first = time.monotonic() - app.ready
    if fresh:
        with capsys.disabled():
            print(f"\n  address after {app.start_seconds:.1f} s, first interference figure {first:.1f} s later")
    listed = page.locator(".explorer-table tbody th").all_text_contents()
    assert listed == ["base", *TASKS]
    expect(page.locator("#topbar")).to_contain_text("7 fine-tunes of base")
    expect(page.get_by_text("All 53 tensors can be merged.")).to_be_visible()
    assert "chance" in caption(page, "first-look")


def test_the_overview_leads_to_the_figures(page: Page) -> None:
    go(page, "Interference")
    cards = page.locator(".explorer-overview .card")
    cards.first.wait_for()
    assert cards.count() >= 5
    assert all("chance" in text for text in cards.all_inner_texts())
    page.locator(".explorer-overview a[href='#norms']").click()
    expect(page.locator("#norms .plot")).to_be_in_viewport()


def test_the_controls_of_the_interference_figures(page: Page) -> None:
    go(page, "Interference")
    topic(page, "Masks")
    before = figure(page, "mask-upset")
    page.get_by_label("range slider for Mask threshold λ").press("ArrowRight")
    for panel in TOPICS["Masks"]:
        until(page, lambda panel=panel: "threshold 0.45" in caption(page, panel))
    assert figure(page, "mask-upset") != before
    page.get_by_label("kinds of module").check()
    until(page, lambda: "kind of module" in page.locator("#mask-agreement .plot").inner_text())
    page.locator("#mask-agreement input[type=range]").press("ArrowRight")
    until(page, lambda: "with k = 3" in caption(page, "mask-agreement"))

    topic(page, "Signs")
    page.get_by_label("Show", exact=True).click()
    page.get_by_role("option", name="movies and products", exact=True).click()
    until(page, lambda: "ovies and products" in caption(page, "sign-map"))
    expect(page.locator("#selection")).to_contain_text("movies and products")
    page.get_by_label("number input for Trim first to the top fraction").fill("0.1")
    page.get_by_label("number input for Trim first to the top fraction").press("Tab")
    until(page, lambda: "10%" in page.locator("#sign-map .note").inner_text())
    page.get_by_label("range slider for Trim first to the top fraction").press("ArrowRight")
    until(page, lambda: "11%" in page.locator("#sign-pairs .note").inner_text())
    page.get_by_role("button", name="Clear the selection").click()
    until(page, lambda: "ovies and products" not in caption(page, "sign-map"))


def test_a_click_selects_everywhere_and_opens_the_matrix(page: Page) -> None:
    go(page, "Interference")
    topic(page, "Signs")
    box = at_rest(page, page.locator("#sign-map .nsewdrag").first)
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.95 * box["height"])
    expect(page.locator("#selection")).to_contain_text("layer 1 · mlp out")
    expect(page.locator("#tiles canvas")).to_be_visible()
    expect(page.locator("#tiles-strongest")).to_contain_text("most disputed")
    expect(page.locator("#tiles-profile")).to_contain_text("drift")
    topic(page, "Sizes")
    until(
        page,
        lambda: "selected" in str(page.evaluate("document.querySelector('#norms .host').layout.shapes?.[0]?.name")),
    )


def test_matrices_are_decomposed_when_their_topic_is_opened(page: Page) -> None:
    go(page, "Interference")
    page.locator("#topics").get_by_role("tab", name="Directions", exact=True).click()
    for panel in ("spectra", "matrix-layers", "subspace-map"):
        wait_drawn(page, panel)
        assert "chance" in caption(page, panel), panel
    page.get_by_label("Subspace alignment with the sum").check()
    until(page, lambda: "lign" in caption(page, "matrix-layers"))


@pytest.mark.parametrize(
    ("theme", "options"),
    [("light", {}), ("dark", {}), ("light", {"viewport": {"width": 390, "height": 844}, "has_touch": True})],
    ids=["light", "dark", "phone"],
)
def test_every_figure_is_drawn_with_its_sentence_and_nothing_is_wider_than_the_page(
    open_tab: Callable[..., Page], theme: str, options: dict[str, Any]
) -> None:
    page = open_tab(f"?__theme={theme}", **options)
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    titles = []

    def fits(where: str, *panels: str) -> None:
        for panel in panels:
            wait_drawn(page, panel)
        wide = page.evaluate("""() => [...document.querySelectorAll('main *')].filter(e =>
            e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(e => e.className)""")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (where, wide)

    fits("Models", "first-look")
    go(page, "Interference")
    for name, panels in TOPICS.items():
        topic(page, name)
        fits(name, *panels)
        for panel in panels:
            assert len(caption(page, panel)) > 40, panel
            expect(page.locator(f"#{panel} .plot")).to_be_visible()
            titles.append(page.locator(f"#{panel} .title").inner_text())
    assert len(set(titles)) == len(FIGURES)
    go(page, "Merge")
    fits("Merge", "scores", "trail")
    look = "getComputedStyle(document.querySelector('#scores .host .xtick text, #scores .host text')).fill"
    light = page.evaluate(f"(() => {{ const c = {look}.match(/\\d+/g).map(Number); return c[0] + c[1] + c[2] }})()")
    assert (light > 380) == (theme == "dark"), "text of a figure is light on dark, dark on light"


def test_the_headline_stays_inside_its_boxes(page: Page) -> None:
    go(page, "Merge")
    wait_scored(page, "base:")
    script = "boxes => boxes.filter(b => b.scrollWidth > b.clientWidth + 1).map(b => b.textContent)"
    assert page.locator("#headline .figure, #headline .figure span").evaluate_all(script) == []


def test_by_keyboard_alone(page: Page) -> None:
    go(page, "Merge")
    wait_drawn(page, "scores")
    page.get_by_role("tab", name="Merge", exact=True).focus()
    focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent || ''"
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(str(page.evaluate(focused)).strip())
        if reached[-1] == "scale of definitions, slider":
            break
    assert reached[-1] == "scale of definitions, slider", json.dumps(reached)
    page.keyboard.press("ArrowRight")
    expect(slider(page, "definitions")).to_have_value("0.31")
    count = drawn(page, "scores")
    page.keyboard.press("Shift+ArrowRight")
    expect(slider(page, "definitions")).to_have_value("0.41")
    wait_drawn(page, "scores", count)
    until(
        page, lambda: page.locator("#places .cm-line", has_text="sample_checkpoints/definitions, scale: 0.41").count()
    )
    expect(page.locator("#undo")).to_be_enabled()
