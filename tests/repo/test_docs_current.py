"""The generated reference pages say what the code declares now; the guard is shown to be able to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from explorer import reference


def test_generated_pages_are_current() -> None:
    assert reference.stale_pages() == [], "run `python -m explorer docs`"


def test_every_page_holds_every_declaration() -> None:
    for kind in reference.KINDS:
        text = reference.page_path(kind).read_text(encoding="utf-8")
        for entry in reference.catalogue(kind):
            assert f"(`{entry['name']}`)" in text
            assert all(f"| `{p['name']}` | {p['allowed']} |" in text for p in entry["parameters"])


def test_the_guard_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "reference")
    expected = {"methods.md", "add-ons.md", "metrics.md", "tasks.md", "presets.md", "command-line.md"}
    assert {p.name for p in reference.stale_pages()} == expected
    reference.write_pages()
    assert reference.stale_pages() == []
    page = tmp_path / "reference" / "metrics.md"
    page.write_text(page.read_text("utf-8").replace("chance", "luck", 1), encoding="utf-8")
    assert reference.stale_pages() == [page]
