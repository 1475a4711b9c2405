"""The strip of examples as an accessible table; every text is escaped: names and examples are untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from explorer.results import Result

COLUMNS = (("base", "base"), ("expert", "own fine-tune"), ("pinned", "pinned A"), ("merged", "merged"))
_NAMES = {1.0: "right", 0.0: "wrong"}
_SHAPES = {
    "right": '<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.6"/><path d="M4.8 8.3l2.2 2.3 '
    '4.2-4.8"/></svg>',
    "wrong": '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3 3l10 10M13 3L3 13"/></svg>',
}
"""A tick in a ring, and a cross: told apart without colour."""
NO_DATA = "No examples: none of these fine-tunes carries the name of an evaluation task."


def strip_table(result: Result) -> str:
    """Examples and answers; right and wrong are said in words and marked by a shape."""
    if result.table.empty:
        return f'<p class="explorer-strip-note">{NO_DATA}</p>'
    told = result.provenance
    columns = [(name, title) for name, title in COLUMNS if name != "pinned" or told.get("pinned")]
    caption = f"Fixed held-out examples, page {told.get('page', 0) + 1:,} of {told.get('pages', 1):,}"
    head = "".join(
        f'<th scope="col">{escape(t)}</th>' for t in ("task", "text", "right label", *(t for _, t in columns))
    )
    body = "".join(_row(dict(row), columns) for row in result.table.to_dict("records"))
    return (
        f'<div class="explorer-strip" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Mapping[Any, Any], columns: list[tuple[str, str]]) -> str:
    cells = (
        f'<th scope="row">{escape(str(row["task"]))}</th><td class="text"><div>{escape(str(row["text"]))}</div></td>'
    )
    cells += f'<td data-label="right label">{escape(str(row["gold"]))}</td>'
    for name, title in columns:
        cells += f'<td data-label="{escape(title)}">{_answer(row[name], row[f"{name}_right"])}</td>'
    return f"<tr>{cells}</tr>"


def _answer(label: object, right: float) -> str:
    """The label and whether it is right; what is not scored yet says so."""
    word = _NAMES.get(right)
    if word is None:
        return '<span class="unknown">not scored yet</span>'
    said = escape(str(label)) if label else "no answer"
    return f'<span class="answer {word}">{_SHAPES[word]}<span class="label">{said}</span> <i>{word}</i></span>'
