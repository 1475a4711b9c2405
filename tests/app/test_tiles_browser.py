"""The tile view in a real browser, on a page of its own: pointer, keys, windows, files and untrusted names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from explorer.compute.matrix_view import MatrixView
from explorer.compute.source import StateDictSource
from explorer.tiles import SUMS, Pyramid
from viz import style
from viz.parts import TileCanvas, read_look, read_place, tiles_value

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=window.pwned=1>"
TASKS = ("mnist", "=1+1", EVIL)
ROWS, COLS, BLOCKS = 96, 160, 16
ORDERS = {"stored": "as stored", "rows": "rows by conflict"}
DRAWN = "#tiles canvas[data-drawn]"
SEEN: list[tuple[str, Any]] = []


def pyramid() -> Pyramid:
    """Three tasks; weight (40, 80) is pulled hardest both ways, and (0, 0) only upwards."""
    deltas = 0.01 * np.random.default_rng(0).normal(size=(3, ROWS, COLS)).astype(np.float32)
    deltas[:, 40, 80], deltas[:, 0, 0] = [0.5, -0.5, 0], [0.25, 0.25, 0.25]
    tasks = {t: {"w": torch.from_numpy(d)} for t, d in zip(TASKS, deltas, strict=True)}
    return Pyramid(MatrixView(StateDictSource({"w": torch.zeros(ROWS, COLS)}, tasks), "w", (0, 1, 2)))


PYRAMID = pyramid()


def blocks(rows: tuple[int, int], cols: tuple[int, int], turn: int = 0, order: str = "stored") -> dict[str, Any]:
    """The canvas's value for a window."""
    tiles = PYRAMID.window(rows, cols, BLOCKS)
    return tiles_value(
        key=f"w {order}", title=f"encoder {EVIL}", crumbs=["Sign conflict map", f"w {EVIL}"], size=(ROWS, COLS),
        rows=tiles.rows, cols=tiles.cols, block=tiles.block, sums={n: tiles[n] for n in SUMS}, net=tiles.net, n=tiles.n,
        tasks=TASKS, colours=[style.task_colour(i) for i in range(3)], order=order, orders=ORDERS,
        caption=f"Caption {EVIL}", turn=turn,
    )  # fmt: skip


def page_under_test() -> gr.Blocks:
    """A page with one tile view that answers from `PYRAMID`."""
    with gr.Blocks(analytics_enabled=False) as demo:
        canvas = TileCanvas(blocks((0, ROWS), (0, COLS)), elem_id="tiles")
        buttons = [gr.Button(name) for name in ("empty", "again", "marks", "late")]

        def looked(event: gr.EventData) -> dict[str, Any]:
            wish = read_look(event._data, orders=tuple(ORDERS))
            SEEN.append(("look", wish))
            return blocks(wish["rows"], wish["cols"], wish["turn"], wish["order"])

        def chosen(event: gr.EventData) -> None:
            SEEN.append(("weight", read_place(event._data)))

        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", "concurrency_limit": None}
        canvas.look(looked, None, canvas, **quiet)
        canvas.weight(chosen, None, None, **quiet)
        canvas.leave(lambda: SEEN.append(("leave", None)), None, None, **quiet)
        buttons[0].click(lambda: {"empty": f"Nothing here {EVIL}"}, None, canvas, **quiet)
        buttons[1].click(lambda: blocks((0, ROWS), (0, COLS)), None, canvas, **quiet)
        mark = {"row": 40, "col": 80, "label": f"1 {EVIL}"}
        buttons[2].click(lambda: {"key": "w stored", "marks": [mark]}, None, canvas, **quiet)
        buttons[3].click(lambda: blocks((0, 8), (0, 8)), None, canvas, **quiet)
    return demo


@pytest.fixture
def page(open_part: Callable[..., Page]) -> Page:
    """The page, light and wide."""
    tab = open_part(DRAWN)
    SEEN.clear()
    return tab


def canvas(page: Page) -> Locator:
    """The canvas."""
    return page.locator("#tiles canvas")


def at(
    page: Page, row: float, col: float, view: tuple[float, float, float, float] = (0, 0, ROWS, COLS)
) -> tuple[float, float]:
    """Where a place of the matrix lies on the screen; view: top, left, height, width."""
    box = canvas(page).bounding_box()
    assert box
    top, left, height, width = view
    return box["x"] + (col - left) / width * box["width"], box["y"] + (row - top) / height * box["height"]


def until(page: Page, condition: Callable[[], Any], seconds: float = 120) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, SEEN
        page.wait_for_timeout(25)


def seen(kind: str) -> list[Any]:
    """What events of a kind carried, in order."""
    return [value for name, value in SEEN if name == kind]


def region(page: Page) -> Locator:
    """The last crumb: what is seen."""
    return page.locator("#tiles .crumb.here")


def pixel(page: Page, x: float, y: float) -> list[int]:
    """Colour of the canvas at a place of the screen."""
    box = canvas(page).bounding_box()
    assert box
    script = (
        """(c, [x, y]) => [...c.getContext("2d").getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data]"""
    )
    return canvas(page).evaluate(script, [x - box["x"], y - box["y"]])


def test_the_pointer_reads_exact_numbers(page: Page) -> None:
    page.mouse.move(*at(page, 44, 84))
    read = page.locator("#tiles .read")
    tiles = PYRAMID.window((0, ROWS), (0, COLS), BLOCKS)
    high, wide = tiles.block
    i, j = 44 // high, 84 // wide
    expect(read).to_contain_text(f"Rows {i * high}–{i * high + high - 1}, columns {j * wide}–{j * wide + wide - 1}")
    expect(read).to_contain_text(f"{high * wide} weights")
    share, chance = (tiles[k][i, j] / tiles["both"][i, j] for k in ("opposite", "chance"))
    expect(read).to_contain_text(f"Opposite signs: {100 * share:.1f} %")
    expect(read).to_contain_text(f"by chance {100 * chance:.1f} %")
    expect(read).to_contain_text("wants up most")


def test_the_wheel_zooms_to_single_weights_and_a_click_chooses_one(page: Page) -> None:
    page.mouse.move(*at(page, 40.5, 80.5))
    for _ in range(12):
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(20)
    until(page, lambda: seen("look") and seen("look")[-1]["rows"][1] - seen("look")[-1]["rows"][0] <= 10)
    expect(page.locator("#tiles .legend")).to_contain_text("One square is one weight.")
    page.mouse.move(*at(page, 40.5, 80.5))  # the zoom kept this place under the pointer
    expect(page.locator("#tiles .read")).to_contain_text("Row 40, column 80 – one weight")
    page.mouse.down()
    page.mouse.up()
    until(page, lambda: seen("weight") == [(40, 80)])
    assert len(seen("look")) < 12  # the wishes of one turn of the wheel are gathered


def test_a_drag_pans_and_back_returns(page: Page) -> None:
    page.get_by_role("button", name="Zoom in").click()
    until(page, lambda: len(seen("look")) == 1)
    first = region(page).inner_text()
    x, y = at(page, 48, 80)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 60, steps=8)
    page.mouse.up()
    until(page, lambda: len(seen("look")) >= 2)
    assert region(page).inner_text() != first
    assert seen("look")[-1]["cols"][0] < seen("look")[0]["cols"][0]
    assert not seen("weight")
    back = page.get_by_role("button", name="Back to what was seen before")
    back.click()
    expect(region(page)).to_have_text(first)
    page.wait_for_timeout(400)
    for _ in range(3):
        back.click()
        page.wait_for_timeout(300)
    expect(region(page)).to_contain_text("whole")
    until(page, lambda: seen("leave"))


def test_keys_move_the_cross_hair_zoom_and_choose(page: Page) -> None:
    canvas(page).focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#tiles .read")).to_contain_text("Rows")
    before = page.locator("#tiles .read .where").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tiles .read .where").inner_text() != before
    for _ in range(8):
        page.keyboard.press("+")
    until(page, lambda: seen("look") and seen("look")[-1]["rows"][1] - seen("look")[-1]["rows"][0] <= 10)
    expect(page.locator("#tiles .legend")).to_contain_text("One square is one weight.")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    until(page, lambda: len(seen("weight")) == 1)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("0")
    expect(region(page)).to_contain_text("whole, 96 × 160")


def test_another_order_starts_again_with_the_whole(page: Page) -> None:
    page.get_by_role("button", name="Zoom in").click()
    until(page, lambda: len(seen("look")) == 1)
    page.locator("#tiles select").nth(1).select_option("rows")
    until(page, lambda: seen("look")[-1]["order"] == "rows")
    assert seen("look")[-1]["rows"] == (0, ROWS)
    expect(region(page)).to_contain_text("whole")
    expect(page.locator("#tiles select").nth(1)).to_have_value("rows")


def test_what_answers_an_older_wish_is_not_shown(page: Page) -> None:
    page.get_by_role("button", name="Zoom in").click()
    until(page, lambda: len(seen("look")) == 1)
    expect(canvas(page)).to_have_attribute("data-drawn", "2")
    page.get_by_role("button", name="late").click()
    page.wait_for_timeout(500)
    assert canvas(page).get_attribute("data-drawn") == "2"


def test_a_disputed_weight_can_be_gone_to(page: Page) -> None:
    expect(page.locator("#tiles select").nth(2)).to_be_hidden()
    page.get_by_role("button", name="marks").click()
    page.locator("#tiles select").nth(2).select_option("40 80")
    until(page, lambda: seen("weight") == [(40, 80)])
    until(page, lambda: seen("look") and seen("look")[-1]["rows"] == (32, 48))
    expect(page.locator("#tiles .read")).to_contain_text("The tasks disagree about its sign.")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_tell_direction_from_conflict(open_part: Callable[..., Page], theme: str) -> None:
    page = open_part(DRAWN, theme)
    page.get_by_role("button", name="marks").click()
    page.locator("#tiles select").nth(2).select_option("40 80")
    expect(page.locator("#tiles .legend")).to_contain_text("One square is one weight.")
    view = (32, 72, 16, 16)
    page.mouse.move(5, 5)

    def is_ink() -> bool:
        bright = sum(pixel(page, *at(page, 40.3, 80.3, view))[:3]) / 3
        return bright > 180 if theme == "dark" else bright < 80

    until(page, is_ink)  # as far from the page as can be
    canvas(page).focus()
    page.keyboard.press("0")
    for _ in range(9):
        page.mouse.move(*at(page, 0.2, 0.2))
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(60)
    expect(page.locator("#tiles .legend")).to_contain_text("One square is one weight.")
    expect(region(page)).to_have_text(re.compile("^rows 0–[78], columns 0–[78]$"))

    def is_blue() -> bool:
        red, green, blue, _ = pixel(page, *at(page, 0.75, 0.75, (0, 0, 8, 8)))
        return blue > green > red

    until(page, is_blue)  # up is blue


def test_files_hold_what_is_shown(page: Page, tmp_path: Path) -> None:
    with page.expect_download() as found:
        page.get_by_role("button", name="Save the blocks shown as CSV").click()
    found.value.save_as(tmp_path / "tiles.csv")
    head, *rows = (tmp_path / "tiles.csv").read_text(encoding="utf-8").splitlines()
    tiles = PYRAMID.window((0, ROWS), (0, COLS), BLOCKS)
    assert len(rows) == tiles.n.size and head.startswith("row_first,row_last,column_first,column_last,n,up,down")
    first = rows[0].split(",")
    assert float(first[5]) == pytest.approx(tiles["up"][0, 0], rel=1e-6)
    assert all(not re.search(r'(^|,)"?=', row) for row in rows)  # no name becomes a formula
    with page.expect_download() as found:
        page.get_by_role("button", name="Save the picture as PNG").click()
    found.value.save_as(tmp_path / "tiles.png")
    assert (tmp_path / "tiles.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_show_is_a_sentence_and_a_new_value_ends_it(page: Page) -> None:
    page.get_by_role("button", name="empty").click()
    expect(page.locator("#tiles .empty")).to_have_text(f"Nothing here {EVIL}")
    expect(canvas(page)).to_be_hidden()
    page.get_by_role("button", name="again").click()
    expect(canvas(page)).to_be_visible()


def test_a_phone_shows_all_of_it(open_part: Callable[..., Page]) -> None:
    page = open_part(DRAWN, "dark", viewport={"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = canvas(page).bounding_box()
    assert box and box["width"] > 280
    for name in ("Zoom in", "Zoom out"):
        size = page.get_by_role("button", name=name).bounding_box()
        assert size and size["height"] >= 40
    assert canvas(page).evaluate("c => c.style.touchAction") == "pan-y"
    page.get_by_role("button", name="Zoom in").click()
    until(page, lambda: canvas(page).evaluate("c => c.style.touchAction") == "none")
