"""The place Merge: sliders, scores, the way back, methods, wrong values, and two tabs at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from driving import (
    TASKS,
    choose,
    coefficients,
    drag,
    drawn,
    figure,
    headline,
    is_scored,
    merged,
    numbers,
    open_merge,
    recipe,
    row,
    slider,
    until,
    wait_scored,
)
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
START = dict.fromkeys(TASKS, 0.3)


def asked(page: Page) -> list[str]:
    """A list that grows with every event the page sends to Python."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "queue/join" in request.url else None)
    return sent


def test_an_add_on_shows_its_settings_changes_the_scores_and_can_be_undone(page: Page) -> None:
    open_merge(page)
    first, count = merged(page), drawn(page, "scores")
    box = page.locator("#add-ons [data-name='lines'] input")
    alpha = page.locator("#add-ons [data-name='lines.alpha'] input[type=number]")
    expect(alpha).to_be_hidden()
    box.check()
    expect(alpha).to_be_visible()
    wait_scored(page, "- lines: {}", count)
    second, count = merged(page), drawn(page, "scores")
    assert second != first
    alpha.fill("0.1")
    alpha.press("Enter")
    wait_scored(page, "- lines: {alpha: 0.1}", count)
    assert merged(page) != second
    page.locator("#undo").click()
    page.locator("#undo").click()
    until(page, lambda: is_scored(page) and merged(page) == first and not box.is_checked())
    expect(alpha).to_be_hidden()
    assert "add_ons" not in recipe(page)


def test_a_dragged_slider_changes_the_scores_and_can_be_undone(page: Page) -> None:
    open_merge(page)
    first, said = merged(page), headline(page)
    count, picture = drawn(page, "scores"), figure(page, "scores")
    drag(page, slider(page, "spam"), 0.8)
    assert coefficients(page) == {**START, "spam": 0.8}
    until(page, lambda: drawn(page, "scores") > count)
    assert figure(page, "scores") != picture
    wait_scored(page, "spam, scale: 0.8}", count)
    second = merged(page)
    assert second != first and {n for _, n in second.values()} == {n for _, n in first.values()}
    assert headline(page)["mean score"] != said["mean score"]
    assert "from the last" in headline(page)["mean, % of experts"][1]
    trail = numbers(page, "trail")
    assert [(m["label"], m["complete"]) for m in trail] == [("Task arithmetic", "1"), ("spam 0.30 → 0.80", "1")]

    def back_to(values: dict[str, float], scores: dict[str, tuple[int, int]]) -> None:
        until(page, lambda: coefficients(page) == values)
        until(page, lambda: is_scored(page) and merged(page) == scores)

    page.locator("#undo").click()
    back_to(START, first)
    expect(page.locator("#undo")).to_be_disabled()
    page.locator("#redo").click()
    back_to({**START, "spam": 0.8}, second)
    expect(page.locator("#redo")).to_be_disabled()
    slider(page, "spam").focus()
    page.keyboard.press("Control+z")
    back_to(START, first)
    page.keyboard.press("Control+Shift+z")
    back_to({**START, "spam": 0.8}, second)


def test_the_last_of_many_quick_moves_wins(page: Page) -> None:
    open_merge(page)
    script = """async (slider) => {
      for (let i = 1; i <= 60; i++) {
        slider.value = (0.3 + i * 0.02).toFixed(2);
        slider.dispatchEvent(new Event('input', { bubbles: true }));
        await new Promise((done) => setTimeout(done, 30));
      }
      slider.dispatchEvent(new Event('change', { bubbles: true }));
    }"""
    slider(page, "movies").evaluate(script)
    wait_scored(page, "movies, scale: 1.5}")
    assert coefficients(page) == {**START, "movies": 1.5}
    assert [m["label"] for m in numbers(page, "trail")] == ["Task arithmetic", "movies 0.30 → 1.50"]
    assert page.locator("#merge-problem").inner_text().strip() == ""


def test_another_method_redraws_the_controls_and_keeps_what_both_know(page: Page) -> None:
    open_merge(page)
    drag(page, slider(page, "intents"), 0.7)
    until(page, lambda: "intents, scale: 0.7}" in recipe(page))
    choose(page, "TIES-Merging")
    density = page.locator("#controls [data-name=density]")
    expect(density.get_by_role("spinbutton")).to_have_value("0.2")
    assert coefficients(page) == {**START, "intents": 0.7}
    wait_scored(page, "method: ties")
    density.get_by_role("spinbutton").fill("0.5")
    density.get_by_role("spinbutton").press("Enter")
    wait_scored(page, "density: 0.5")
    choose(page, "Consensus merging")
    expect(page.locator("#controls [data-name=min_tasks]")).to_be_visible()
    page.locator("#controls summary").click()  # density is among the further settings here
    expect(density.get_by_role("spinbutton")).to_have_value("0.5")
    assert coefficients(page) == {**START, "intents": 0.7}
    wait_scored(page, "method: consensus")
    assert len(numbers(page, "trail")) >= 4


def test_a_wrong_number_is_explained_where_it_was_typed_and_sends_nothing(page: Page) -> None:
    open_merge(page)
    choose(page, "TIES-Merging")
    wait_scored(page, "method: ties")
    before, sent = recipe(page), asked(page)
    number = row(page, "spam").get_by_role("textbox")
    number.fill("7")
    expect(row(page, "spam").get_by_role("alert")).to_have_text("between -1 and 2")
    expect(number).to_have_attribute("aria-invalid", "true")
    number.press("Enter")
    number.press("Escape")
    density = page.locator("#controls [data-name=density]")
    density.get_by_role("spinbutton").fill("20")
    density.get_by_role("spinbutton").press("Enter")
    expect(density.get_by_role("alert")).to_be_visible()
    assert "1" in density.get_by_role("alert").inner_text()
    page.wait_for_timeout(400)
    assert sent == [] and recipe(page) == before
    density.get_by_role("spinbutton").fill("0.4")
    density.get_by_role("spinbutton").press("Enter")
    until(page, lambda: "density: 0.4" in recipe(page))
    expect(density.get_by_role("alert")).to_be_hidden()
    assert sent


def test_two_tabs_do_not_disturb_each_other(open_tab: Callable[..., Page]) -> None:
    one, two = open_tab(), open_tab()
    open_merge(one)
    open_merge(two)
    alone = merged(one)
    slider(one, "newsgroups").press("Shift+ArrowRight")
    slider(two, "newsgroups").press("Shift+ArrowLeft")
    slider(two, "spam").press("Shift+ArrowLeft")
    wait_scored(one, "newsgroups, scale: 0.4}")
    wait_scored(two, "newsgroups, scale: 0.2}")
    up, down = merged(one), merged(two)
    assert coefficients(one) == {**START, "newsgroups": 0.4}
    assert coefficients(two) == {**START, "newsgroups": 0.2, "spam": 0.2}
    assert len({str(alone), str(up), str(down)}) == 3
    # The same setting in a third tab, with nothing beside it, gives each tab's answer again.
    three = open_tab()
    open_merge(three)
    for tab, sign, scores in ((one, "ArrowRight", up), (two, "ArrowLeft", down)):
        assert merged(tab) == scores
        slider(three, "newsgroups").dblclick()
        until(three, lambda: coefficients(three)["newsgroups"] == 0.3)
        slider(three, "newsgroups").press(f"Shift+{sign}")
        if tab is two:
            slider(three, "spam").press("Shift+ArrowLeft")
        until(three, lambda tab=tab: coefficients(three) == coefficients(tab))
        until(three, lambda scores=scores: is_scored(three) and merged(three) == scores)
