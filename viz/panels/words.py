"""Small pieces of HTML for the page. Every name is escaped: names come from checkpoints and are untrusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from viz.charts import Selection
from viz.style import percent

PLACES = {"host": "models wait in main memory", "disk": "models are read from disk each time"}
"""What it means for a move where the models are kept; nothing to say where they are on the device."""


def note(text: str, *, kind: str = "info") -> str:
    """A sentence in a box; kind is info, problem or done. Empty text gives nothing."""
    if not text:
        return ""
    role = "alert" if kind == "problem" else "status"
    body = "<br>".join(escape(line) for line in text.splitlines())
    return f'<div class="explorer-note {kind}" role="{role}">{body}</div>'


def table(frame: pd.DataFrame, *, caption: str, numeric: Sequence[str] = ()) -> str:
    """A data frame as an accessible table; `numeric` columns are right-aligned."""
    classes = {c: ' class="number"' if c in numeric else "" for c in frame.columns}
    head = "".join(f'<th scope="col"{classes[c]}>{escape(str(c))}</th>' for c in frame.columns)
    rows = []
    for values in frame.itertuples(index=False):
        first, *rest = zip(frame.columns, values, strict=True)
        cells = f'<th scope="row">{escape(str(first[1]))}</th>'
        cells += "".join(f"<td{classes[c]}>{escape(str(v))}</td>" for c, v in rest)
        rows.append(f"<tr>{cells}</tr>")
    body = "".join(rows)
    return (
        f'<div class="explorer-table" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(label: str, value: str, detail: str = "", *, tone: str = "") -> str:
    """One number of the headline row."""
    extra = f'<span class="detail">{escape(detail)}</span>' if detail else ""
    return (
        f'<div class="figure {tone}"><span class="label">{escape(label)}</span>'
        f'<span class="value">{escape(value)}</span>{extra}</div>'
    )


def headline(*figures: str) -> str:
    """A row of numbers."""
    return f'<div class="explorer-headline" role="group" aria-live="off">{"".join(figures)}</div>'


def rebuilt(errors: Mapping[str, float], stored: float | None) -> str:
    """How far the tasks' rebuilt updates lie from their own, and what must be stored: for one model per task."""
    known = {task: e for task, e in errors.items() if math.isfinite(e)}
    if not known:
        return ""
    worst = max(known, key=lambda t: known[t])
    mean = sum(known.values()) / len(known)
    kept = "" if stored is None else f"; stored: {share(stored)} of all task vectors"
    return figure("error of rebuilt tasks", share(mean), f"worst {share(known[worst])} ({worst}){kept}", tone="small")


def selection(selected: Selection) -> str:
    """What is marked in every figure, in words."""
    whom = " and ".join(selected.pair) if selected.pair else selected.task or ""
    where = " · ".join(part for part in (selected.layer, selected.kind) if part)
    said = ", ".join(part for part in (whom, where) if part)
    text = f"Selected: <b>{escape(said)}</b>" if said else "Nothing is selected: click in any figure."
    return f'<p class="explorer-selection" role="status">{text}</p>'


def fine_tunes(n: int) -> str:
    """How many fine-tunes, in words."""
    return "1 fine-tune" if n == 1 else f"{n} fine-tunes"


def share(value: float) -> str:
    """A fraction as text, or a dash where it is not known."""
    return percent(value, 1) if math.isfinite(value) else "–"


def change_text(now: float, before: float) -> tuple[str, str]:
    """The difference of two fractions in points, and its tone (better, worse, same)."""
    if not (math.isfinite(now) and math.isfinite(before)):
        return "", ""
    points = 100 * (now - before)
    if abs(points) < 0.05:
        return "as before", "same"
    return f"{points:+.1f} points".replace("-", "−"), "better" if points > 0 else "worse"
