"""The place Models, uploads, and links that bring a setting back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import (
    ROOT,
    TASKS,
    TOPICS,
    caption,
    choose,
    coefficients,
    figure,
    go,
    merged,
    numbers,
    open_merge,
    recipe,
    row,
    slider,
    topic,
    until,
    wait_drawn,
    wait_scored,
)
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SAMPLES = ROOT / "sample_checkpoints"
WRONG = {"/etc": "allowed", "sample_checkpoints/tasks/spam": "spam", "sample_checkpoints/nothing": "nothing"}
"""Selections that cannot be opened, and a word of the reason."""


def listed(page: Page) -> list[str]:
    """The models that the place Models lists."""
    return page.locator(".explorer-table tbody th").all_text_contents()


def select(page: Page, *paths: str) -> None:
    """Choose these fine-tunes in the form and press the button."""
    if not page.get_by_label("Fine-tunes").is_visible():
        page.get_by_role("button", name="Open other models").click()
    box = page.get_by_label("Fine-tunes")
    box.locator("xpath=..").get_by_title("Clear").click()
    for path in paths:
        box.fill(path)
        offered = page.get_by_role("option", name=path, exact=True)
        offered.click() if offered.count() else box.press("Enter")
        expect(page.locator("#open-models .token", has_text=path.removeprefix("uploaded: "))).to_have_count(1)
    box.press("Escape")
    page.get_by_role("button", name="Open these models").click()


def safetensors_of(path: Path, source: Path) -> Path:
    """One .safetensors file with the tensors of a sharded folder."""
    from safetensors.torch import load_file, save_file

    tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        tensors.update(load_file(shard))
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_a_selection_of_two_shows_in_all_places(page: Page) -> None:
    wait_drawn(page, "first-look")
    expect(page.locator(".explorer-table tbody th")).to_have_text(["base", *TASKS])
    select(page, "sample_checkpoints/spam", "sample_checkpoints/movies")
    expect(page.locator("#topbar")).to_contain_text("2 fine-tunes of base")
    assert listed(page) == ["base", "spam", "movies"]
    expect(page.locator("#open-models").get_by_role("status")).to_contain_text("Opened.")
    until(page, lambda: "spam and movies" in caption(page, "first-look").lower())
    go(page, "Interference")
    for name, panels in TOPICS.items():
        topic(page, name)
        for panel in panels:
            until(page, lambda panel=panel: "newsgroups" not in figure(page, panel))
    page.get_by_label("Show", exact=True).click()
    offered = [text.replace("✓", "").strip() for text in page.get_by_role("option").all_text_contents()]
    assert offered == ["all tasks together", "spam and movies"]
    page.keyboard.press("Escape")
    go(page, "Merge")
    expect(page.locator("#mixer .row:not(.master) .name")).to_have_text(["spam", "movies"])
    wait_scored(page, "movies: {checkpoint")
    assert list(merged(page)) == ["spam", "movies"]
    assert "newsgroups" not in recipe(page)
    page.locator("#undo").click()
    expect(page.locator("#topbar")).to_contain_text("7 fine-tunes of base")
    wait_scored(page, "newsgroups")
    assert list(merged(page)) == list(TASKS)


def test_a_wrong_selection_says_why_and_changes_nothing(page: Page) -> None:
    wait_drawn(page, "first-look")
    before = figure(page, "first-look")
    for path, reason in WRONG.items():
        select(page, "sample_checkpoints/spam", path)
        problem = page.locator("#open-models").get_by_role("alert")
        expect(problem).to_contain_text(path.rsplit("/", 1)[-1])
        assert reason in problem.inner_text()
        assert listed(page) == ["base", *TASKS]
        expect(page.locator("#topbar")).to_contain_text("7 fine-tunes of base")
        assert figure(page, "first-look") == before
    open_merge(page)
    assert list(coefficients(page)) == list(TASKS)


def test_an_upload_can_be_merged(page: Page, tmp_path: Path) -> None:
    weights = safetensors_of(tmp_path / "spam.safetensors", SAMPLES / "spam")
    wait_drawn(page, "first-look")
    page.get_by_role("button", name="Open other models").click()
    upload = page.get_by_test_id("Upload a checkpoint-upload-button")
    upload.set_input_files([weights, SAMPLES / "spam" / "config.json"])
    expect(page.locator("#open-models").get_by_role("status")).to_contain_text("Received spam")
    select(page, "uploaded: spam")
    expect(page.locator("#topbar")).to_contain_text("1 fine-tune of base")
    assert listed(page) == ["base", "spam"]
    open_merge(page)
    # Alone, at coefficient 1, it is the expert again.
    slider(page, "spam").press("End")
    row(page, "spam").get_by_role("textbox").fill("1")
    row(page, "spam").get_by_role("textbox").press("Enter")
    wait_scored(page, "scale: 1.0}")
    rows = {r["model"]: r["correct"] for r in numbers(page, "scores")}
    assert rows["merged"] == rows["expert"]


def test_a_pickle_is_refused(page: Page, tmp_path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "disguised.safetensors").write_bytes((tmp_path / "pytorch_model.bin").read_bytes())
    wait_drawn(page, "first-look")
    page.get_by_role("button", name="Open other models").click()
    upload = page.get_by_test_id("Upload a checkpoint-upload-button")
    upload.set_input_files([tmp_path / "disguised.safetensors", SAMPLES / "spam" / "config.json"])
    expect(page.locator("#open-models").get_by_role("alert")).to_contain_text("disguised")
    assert listed(page) == ["base", *TASKS]


def test_a_link_brings_the_setting_back(page: Page, open_tab: Callable[..., Page]) -> None:
    open_merge(page)
    choose(page, "TIES-Merging")
    until(page, lambda: "method: ties" in recipe(page))
    slider(page, "languages").press("Shift+ArrowLeft")
    until(page, lambda: "languages, scale: 0.9}" in recipe(page))
    wait_scored(page, "languages, scale: 0.9}")
    page.get_by_role("button", name="Copy link").click()
    until(page, lambda: "?s=" in page.url)
    other = open_tab("?" + page.url.split("?", 1)[1])
    open_merge(other)
    wait_scored(other, "languages, scale: 0.9}")
    assert coefficients(other) == {**dict.fromkeys(TASKS, 1.0), "languages": 0.9}
    expect(other.get_by_label("Method", exact=True)).to_have_value("TIES-Merging")
    assert recipe(other) == recipe(page) and merged(other) == merged(page)
    expect(other.locator("#undo")).to_be_disabled()


def test_a_damaged_link_says_so_and_shows_the_samples(open_tab: Callable[..., Page]) -> None:
    page = open_tab("?s=" + json.dumps("damaged")[1:-1])
    expect(page.locator("#page-note").get_by_role("alert")).to_contain_text("The link could not be opened")
    wait_drawn(page, "first-look")
    assert listed(page) == ["base", *TASKS]
