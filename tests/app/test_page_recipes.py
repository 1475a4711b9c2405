"""Recipes in, recipes out: paste mergekit's YAML, see every control set, take ours away, bring it back, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from driving import App, drag, go, slider, until
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MERGEKIT = """\
merge_method: ties
base_model: sample_checkpoints/base
models:
- {model: sample_checkpoints/spam, parameters: {weight: 0.5, density: 0.4}}
- {model: org/movies, parameters: {weight: 0.25, density: 0.4}}
parameters: {lambda: 0.8}
dtype: float16
"""


SECONDS = 180
"""Seconds are enough; the limit is for a machine that does much else besides."""


def method(page: Page) -> str:
    """The method that is chosen."""
    return page.get_by_label("Method", exact=True).input_value()


def bring(page: Page, text: str, *, said: str, button: str = "#import-take") -> str:
    """Paste a text into the import and take it; what the page said."""
    page.locator("#import-text .cm-content").fill(text)
    page.locator(button).click()
    until(page, lambda: said in page.locator("#import-note").inner_text(), SECONDS)
    return page.locator("#import-note").inner_text()


def ours(page: Page) -> str:
    """Our recipe as the button beside it copies it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("() => navigator.clipboard.writeText('')")
    page.locator("#recipe-ours").get_by_role("button", name="Copy").click()
    return str(until(page, lambda: page.evaluate("() => navigator.clipboard.readText()")))


def settings(text: str) -> dict[str, Any]:
    """A recipe without what it was made with: digests are told once they are known."""
    return {key: value for key, value in yaml.safe_load(text).items() if key != "made_with"}


def test_a_mergekit_recipe_comes_in_and_ours_goes_out_and_back(page: Page, app: App, tmp_path: Path) -> None:
    page.locator("#go-import").click()
    expect(page.locator("#import-text .cm-content")).to_be_visible()
    told = bring(page, MERGEKIT, said="At hand instead")
    assert "line 5: " in told and "sample_checkpoints/movies (the same name)" in told
    assert method(page) == "Task arithmetic"
    page.locator("#import-stand-in").click()
    until(page, lambda: "Imported TIES-Merging" in page.locator("#import-note").inner_text(), SECONDS)
    assert "mergekit trims each tensor" in page.locator("#import-note").inner_text()
    expect(page.locator("#import-command .cm-content")).to_contain_text("python -m explorer merge recipe.yaml")
    until(page, lambda: method(page) == "TIES-Merging", SECONDS)
    expect(page.get_by_label("Stored as")).to_have_value("float16")
    assert [float(slider(page, n).input_value()) for n in ("spam", "movies")] == [0.8, 0.8]
    expect(page.locator("#mixer").get_by_role("slider")).to_have_count(3)
    expect(page.locator("#export-plan")).to_contain_text("Peak memory")
    page.locator("#undo").click()
    until(page, lambda: method(page) == "Task arithmetic", SECONDS)
    page.locator("#redo").click()
    until(page, lambda: method(page) == "TIES-Merging", SECONDS)
    until(page, lambda: "digest" in ours(page), SECONDS)
    text = ours(page)
    made = yaml.safe_load(text)
    assert made["tasks"]["movies"]["weight"] == 0.25 and made["dtype"] == "float16" and made["seed"] == 0
    assert set(made["made_with"]["tasks"]) == {"spam", "movies"}
    go(page, "Merge")
    drag(page, slider(page, "spam"), 0.3)
    until(page, lambda: "scale: 0.3" in ours(page), SECONDS)
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with page.expect_file_chooser() as chooser:
        page.locator("#import-upload").click()
    chooser.value.set_files(file)
    until(page, lambda: slider(page, "spam").input_value() == "0.8", SECONDS)
    until(page, lambda: settings(ours(page)) == settings(text), SECONDS)
    page.get_by_label("Folder name").clear()
    page.get_by_label("Folder name").press_sequentially("from a recipe")
    command = page.locator("#recipe-texts").get_by_role("tab", name="Command", exact=True)
    command.click()
    expect(page.locator("#recipe-command .cm-content")).to_contain_text("from a recipe'")
    page.locator("#export-model").click()
    until(page, lambda: "Wrote" in page.locator("#export-note").inner_text(), SECONDS)
    written = (app.exports / "from a recipe" / "explorer_recipe.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(written) == settings(text)
    until(page, lambda: "must be a new or empty folder" in page.locator("#export-plan").inner_text(), SECONDS)
