"""The overview as HTML: one card per finding. Every text is escaped: names come from checkpoints and are untrusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from viz.charts._words import safe
from viz.overview import HOW, Finding, Standing

CSS = Path(__file__).with_name("parts") / "overview.css"
"""Style sheet of the cards; follows Gradio's theme variables, or the page's own text colour without them."""

NOTHING = (
    "There is nothing to tell yet: no metric is defined for these models. Add a fine-tune that differs from the base."
)
_SIGNS: dict[Standing, str] = {"above chance": "▲", "about chance": "≈", "below chance": "▼"}


def cards(found: Sequence[Finding], *, targets: Mapping[str, str] | None = None) -> str:
    """A list of cards, most telling first, and how to read them; without findings one sentence.

    `targets` gives, by chart, the id of the element that shows it: the card then links there. A card carries its
    chart and pair in `data-figure`, `data-task-a` and `data-task-b`.
    """
    if not found:
        return f'<p class="explorer-overview-empty">{escape(NOTHING)}</p>'
    listed = "".join(_card(finding, (targets or {}).get(finding.figure, "")) for finding in found)
    how = f'<details class="how"><summary>How to read this</summary><p>{escape(HOW)}</p></details>'
    return f'<section class="explorer-overview" aria-label="Overview"><ol>{listed}</ol>{how}</section>'


def _card(finding: Finding, target: str) -> str:
    state = finding.standing.split()[0]
    tone = f"{state} worse" if finding.worse else state
    pair = dict(zip(("data-task-a", "data-task-b"), finding.pair or (), strict=False))
    data = "".join(f' {key}="{escape(text)}"' for key, text in {"data-figure": finding.figure, **pair}.items())
    link = f'<a href="#{escape(target)}">Show the figure</a>' if target else ""
    return (
        f'<li class="card {tone}"{data}><h4>{_text(finding.title)}</h4>'
        f'<p class="number"><span class="value">{_text(finding.value)}</span> '
        f'<span class="unit">{_text(finding.unit)}</span></p><p class="sentence">{_text(finding.sentence)}</p>'
        f'<p class="foot"><span class="standing"><span aria-hidden="true">{_SIGNS[finding.standing]}</span> '
        f'{_text(finding.standing)}</span><span class="null">{_text(finding.null)}</span>{link}</p></li>'
    )


def _text(text: str) -> str:
    """Escaped, without control characters, and with every percent sign kept beside its number."""
    return safe(text).replace(" %", "\u00a0%")
