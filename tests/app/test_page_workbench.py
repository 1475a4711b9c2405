"""The place Merge beyond scores: what changed and why, history, comparison, sweeps, proof; two settings compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from driving import (
    caption,
    coefficients,
    drawn,
    figure,
    go,
    merged,
    open_merge,
    slider,
    topic,
    until,
    wait_drawn,
    wait_scored,
)
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SCALE = "id => document.querySelector(`#${id} .host`).data.find((trace) => trace.zmax).zmax"
# A click on the first point of a sweep's figure that stands for a setting.
CLICK = """() => {
  const host = document.querySelector('#sweep-figure .host');
  const trace = host.data.find((t) => t.customdata && [...t.customdata].some(Boolean));
  const point = [...trace.customdata].findIndex(Boolean);
  const shown = { data: trace, x: trace.x[point], y: 0, customdata: trace.customdata[point] };
  host.emit('plotly_click', { points: [{ curveNumber: host.data.indexOf(trace), pointNumber: point, ...shown }] });
}"""


def open_part(page: Page, name: str) -> None:
    """Open one of the parts beneath the scores."""
    page.locator("#merge-topics").get_by_role("tab", name=name, exact=True).click()


def test_a_move_is_explained_kept_compared_and_still_there_after_a_reload(page: Page) -> None:
    open_merge(page)
    wait_drawn(page, "contributions")
    before = figure(page, "contributions")
    expect(page.locator("#why-advice [role=status]")).to_be_visible()
    rows = page.locator("#why-strip tbody tr")
    until(page, lambda: rows.count() == 8)
    shown = rows.all_inner_texts()
    page.locator("#strip-more").click()
    until(page, lambda: rows.all_inner_texts() != shown)
    open_part(page, "History")
    table = page.locator("#history-table tbody tr")
    until(page, lambda: table.count() == 1)
    table.locator("button.pin").first.click()
    first = merged(page)
    slider(page, "spam").press("Home")
    wait_scored(page, "spam, scale: -1")
    until(page, lambda: table.count() == 2)
    wait_drawn(page, "ab-difference")
    assert "spam" in caption(page, "ab-difference") or "mean" in caption(page, "ab-difference")
    open_part(page, "Why")
    until(page, lambda: figure(page, "contributions") != before)
    page.reload()
    open_merge(page)
    open_part(page, "History")
    until(page, lambda: table.count() == 2)
    assert coefficients(page)["spam"] == 0.3 and merged(page) == first
    table.filter(has_text="spam").locator("button.restore").first.click()
    until(page, lambda: coefficients(page)["spam"] == -1.0)
    page.locator("#undo").click()
    until(page, lambda: coefficients(page)["spam"] == 0.3)


def test_a_sweep_fills_in_stops_and_a_point_of_it_is_taken_over(page: Page) -> None:
    open_merge(page)
    open_part(page, "Sweep")
    page.locator("#sweep-start").click()
    wait_drawn(page, "sweep-figure")
    drawings = drawn(page, "sweep-figure")
    until(page, lambda: drawn(page, "sweep-figure") > drawings)
    page.locator("#sweep-stop").click()
    until(page, lambda: "Stopped with" in page.locator("#sweep-progress").inner_text())
    before = coefficients(page)
    page.locator("#sweep-figure .js-plotly-plot").scroll_into_view_if_needed()
    page.evaluate(CLICK)
    until(page, lambda: coefficients(page) != before)
    assert len(set(coefficients(page).values())) == 1
    expect(page.locator("#undo")).to_be_enabled()


def test_an_export_is_proved_bit_for_bit(page: Page) -> None:
    open_merge(page)
    expect(page.locator("#export-prove")).to_be_hidden()
    page.get_by_label("Folder name").fill("proved")
    page.locator("#export-model").click()
    until(page, lambda: "Wrote" in page.locator("#export-note").inner_text())
    page.locator("#export-prove").click()
    until(page, lambda: "Proved: proved was read again" in page.locator("#export-proof").inner_text())


def test_two_settings_side_by_side_and_a_link_to_them(page: Page, open_tab: Callable[..., Page]) -> None:
    go(page, "Interference")
    topic(page, "Compare")
    for panel in ("compare-a", "compare-b"):
        wait_drawn(page, panel)
    scales = [page.evaluate(SCALE, panel) for panel in ("compare-a", "compare-b")]
    assert scales[0] == scales[1]
    assert figure(page, "compare-a") != figure(page, "compare-b")
    page.get_by_role("button", name="Copy link").click()
    until(page, lambda: "?s=" in page.url)
    other = open_tab("?" + page.url.split("?", 1)[1])
    wait_drawn(other, "compare-a")
    expect(other.locator("#topics").get_by_role("tab", name="Compare", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
