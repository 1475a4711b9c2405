"""Texts of several models side by side as accessible HTML; every text is escaped: models write what they like."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from explorer.generations import Writing
from viz.style import count, seconds_text

TITLES = {"base": "base", "expert": "expert", "merged": "merged"}
ENDS = {
    "end": "the model ended here",
    "length": "cut at the most tokens",
    "room": "no room left: the model has no more positions",
    "broken": "its scores are not finite: the merge has overflowed",
}


def columns(writings: Sequence[Writing], *, stopped: bool = False) -> str:
    """One card per model; `stopped`: what has not ended will not go on."""
    cards = "".join(_card(w, stopped) for w in writings)
    return f'<div class="explorer-writings" role="group" aria-label="What each model wrote">{cards}</div>'


def _card(writing: Writing, stopped: bool) -> str:
    of = f" <b>{escape(writing.task)}</b>" if writing.task else ""
    head = f"<h4>{escape(TITLES[writing.role])}{of}</h4>"
    text = f'<div class="text">{escape(writing.text)}</div>' if writing.text else ""
    return (
        f'<section class="{escape(writing.role)}" aria-busy="{"false" if writing.ended or stopped else "true"}">'
        f'{head}{text}<p class="state">{escape(_state(writing, stopped))}</p></section>'
    )


def _state(writing: Writing, stopped: bool) -> str:
    """How far it is, in words."""
    written = f"{count(writing.tokens)} {'token' if writing.tokens == 1 else 'tokens'}"
    if writing.ended:
        bare = "" if writing.text.strip() or not writing.tokens else ", none of them a word"
        how = ENDS[writing.ended] if writing.tokens or writing.ended != "end" else "the model ended at once"
        return f"{written}{bare} in {seconds_text(writing.seconds)}; {how}"
    if stopped:
        return f"{written}, stopped" if writing.tokens else "stopped before its turn"
    return f"{written}, writing …" if writing.tokens else "waits for its turn"
