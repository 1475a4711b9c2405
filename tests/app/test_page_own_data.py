"""People's own fine-tunes on their own data, from the page alone: brought, confirmed, scored, exported, again."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import App, go, headline, numbers, recipe, running_app, slider, until
from playwright.sync_api import Browser, Page, expect
from tabs import Watch

from explorer.library import evaluate_model

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LABELS = {"animals": ("cat", "dog", "owl", "fox"), "colours": ("red", "green", "blue"), "sizes": ("small", "large")}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three fine-tunes with heads of their own, each told its label words on the spot."""
    from own_models import make_classifiers

    return make_classifiers(tmp_path_factory.mktemp("own"), LABELS)


@pytest.fixture(scope="module")
def own_app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running_app(tmp_path_factory.mktemp("app"), "--models", str(models)) as started:
        yield started


@pytest.fixture
def tabs(browser: Browser, own_app: App) -> Iterator[Callable[..., Page]]:
    """Opens the app in a browser of its own, watched."""
    watch, contexts = Watch(), []

    def opened(query: str = "?__theme=light", **options: Any) -> Page:
        contexts.append(watch.context(browser, **options))
        tab = contexts[-1].new_page()
        tab.goto(f"{own_app.url}/{query}")
        tab.wait_for_selector("#places")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert watch.trouble == []


def write_table(path: Path, labels: tuple[str, ...], *, rows: int = 24) -> Path:
    """Texts with one label word each, the labels in capitals; two rows of it are bad."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "sentence", "answer"])
        for i in range(rows):
            word = labels[i % len(labels)]
            writer.writerow([i, f"there is a {word}" if i % 2 else f"the {word} was here", word.upper()])
        writer.writerow([rows, "  ", labels[0]])
        writer.writerow([rows + 1, "<img src=x onerror=alert(1)>", "purple"])
    return path


def open_models(page: Page, models: Path) -> None:
    """Choose base and fine-tunes in the form, and press the button."""
    page.get_by_role("button", name="Open other models").click()
    base = page.get_by_label("Base", exact=True)
    base.fill(str(models / "base"))
    base.press("Enter")
    tasks = page.get_by_label("Fine-tunes")
    tasks.locator("xpath=..").get_by_title("Clear").click()
    for name in LABELS:
        tasks.fill(str(models / name))
        # The list of the other box may still be fading out.
        page.get_by_role("option", name=str(models / name), exact=True).last.click()
    tasks.press("Escape")
    page.get_by_role("button", name="Open these models").click()
    expect(page.locator("#topbar")).to_contain_text("3 fine-tunes of base")


def bring(page: Page, task: str, file: Path) -> None:
    """Choose the task and drop the file in."""
    if not page.locator("#own-task").is_visible():
        page.get_by_role("button", name="Your data").click()
    box = page.locator("#own-task input")
    if box.input_value() != task:
        box.click()
        page.get_by_role("option", name=task).click()
        expect(box).to_have_value(task)
    page.get_by_test_id("Upload a data file-upload-button").set_input_files(file)
    expect(page.locator("#own-rows")).to_contain_text(file.name)
    expect(page.locator("#own-use")).to_have_text(f"Use for {task}")


def scores(page: Page, model: str = "merged") -> dict[str, float]:
    return {r["task"]: float(r["score"]) for r in numbers(page, "scores") if r["model"] == model}


def wait_scored(page: Page, has: str) -> None:
    """Wait until the recipe holds this text and every example is scored."""

    def done() -> bool:
        settled = page.locator("#scores .explorer-panel:not(.is-stale)").count()
        return bool(
            has in recipe(page) and settled and headline(page).get("held-out examples", ("", ""))[1] == "all scored"
        )

    until(page, done, 60)


def test_three_classifiers_are_scored_on_three_tables_and_evaluate_agrees(
    tabs: Callable[..., Page], models: Path, own_app: App, tmp_path: Path
) -> None:
    page = tabs()
    open_models(page, models)
    for task, labels in LABELS.items():
        bring(page, task, write_table(tmp_path / f"{task}.csv", labels))
        expect(page.locator("#own-kind input")).to_have_value("Sequence classification")
        expect(page.locator("#own-column-0 input")).to_have_value("sentence")
        expect(page.locator("#own-labels")).to_contain_text(
            "The head lacks 'purple': 1 row that carries it counts as bad."
        )
        page.locator("#own-use button, button#own-use").first.click()
        note = page.locator("#own-note").get_by_role("status")
        expect(note).to_contain_text(f"{task} is scored on 24 examples of your file now.")
        expect(note).to_contain_text("line 26: text must not be empty")
        expect(note).to_contain_text("line 27: answer must be a label that the head has; got 'purple'")
        with page.expect_download() as got:
            page.locator("#own-zip button, button#own-zip, a#own-zip").first.click()
        with zipfile.ZipFile(got.value.path()) as held:
            held.extractall(tmp_path / "tasks")
    expect(page.locator("#own-tasks tbody tr")).to_have_count(3)

    go(page, "Merge")
    wait_scored(page, "base:")
    expert = scores(page, "expert")
    before = float(slider(page, "animals").input_value())
    slider(page, "animals").press("Shift+ArrowRight")
    moved = f"scale: {before + 0.1:.1f}"
    until(page, lambda: moved in recipe(page))
    wait_scored(page, moved)
    live = scores(page)
    assert set(live) == set(LABELS) and min(expert.values()) > 0.9

    page.get_by_label("Folder name").fill("three")
    page.locator("#export-model").click()
    expect(page.locator("#export-note")).to_contain_text("Wrote")
    tasks = tmp_path / "tasks"
    assert json.loads((tasks / "sizes" / "task.json").read_text())["head"] == "head.safetensors"
    table = evaluate_model(own_app.exports / "three", tasks_folder=tasks, device="cpu").table
    table = table[table["model"] == "merged"]
    again = dict(zip(table["task"], table["score"], strict=True))
    assert again == pytest.approx(live, abs=5e-4)  # the page prints fewer digits

    # Taken away and brought back; nobody else sees any of it.
    other = tabs("?" + copied_link(page))
    expect(other.locator("#mixer .row").first).to_be_visible()  # the link opens the place that was open
    go(other, "Models")
    expect(other.locator("#topbar")).to_contain_text("3 fine-tunes of base")
    other.get_by_role("button", name="Your data").click()
    expect(other.locator("#own-tasks")).to_contain_text("nothing yet: bring data for it")
    assert "your sizes.csv" not in other.inner_text("#own-tasks")
    go(page, "Models")
    page.locator("#own-remove button, button#own-remove").first.click()
    expect(page.locator("#own-tasks tbody tr", has_text="nothing yet")).to_have_count(1)
    page.locator("#undo").click()
    expect(page.locator("#own-tasks tbody tr", has_text="nothing yet")).to_have_count(0)


def copied_link(page: Page) -> str:
    page.get_by_role("button", name="Copy link").click()
    until(page, lambda: "?s=" in page.url)
    return page.url.split("?", 1)[1]


def test_problems_stand_beside_what_they_are_about(tabs: Callable[..., Page], models: Path, tmp_path: Path) -> None:
    page = tabs()
    open_models(page, models)
    page.get_by_role("button", name="Your data").click()
    expect(page.locator("#own-rows")).to_contain_text("Nothing has been read yet")
    wrong = tmp_path / "latin.csv"
    wrong.write_bytes("sentence,answer\nthe red für,red\nthe blue,blue\n".encode("latin-1"))
    page.get_by_test_id("Upload a data file-upload-button").set_input_files(wrong)
    problem = page.locator("#own-note").get_by_role("alert")
    expect(problem).to_contain_text("byte 0xfc")
    page.locator("#own-encoding input").click()
    page.get_by_role("option", name="Windows cp1252").click()
    expect(page.locator("#own-rows")).to_contain_text("the red für")
    # The first task's head knows none of these labels.
    expect(page.locator("#own-labels").get_by_role("alert")).to_contain_text("must be labels of the head: 'cat'")
    page.locator("#own-use button, button#own-use").first.click()
    expect(problem).to_contain_text("must be labels of the head")
    page.locator("#own-path input, #own-path textarea").first.fill("/etc/passwd")
    page.locator("#own-path input, #own-path textarea").first.press("Enter")
    expect(problem).to_contain_text("must lie in an allowed folder")
