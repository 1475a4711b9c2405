"""Headline numbers in words, the same wherever they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from viz.style import NOTHING, percent


def headline_words(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """Title, value and one sentence of a headline (`explorer.headlines`), as plain text."""
    share = entry.get("share", False)
    value, null = _figure(entry.get("value"), share), _figure(entry.get("null"), share)
    spread = entry.get("null_sd")
    chance = f"{null} ± {spread:.2g}" if spread else null
    where = entry.get("where", {})
    parts = [f"Chance gives {chance}."]
    if "task_a" in where:
        parts.append(f"{where['task_a']} and {where['task_b']}: the furthest from chance of {_pairs(entry)}.")
    elif "task" in where:
        parts.append(f"{where['task']}: the furthest from chance of {entry['rows']} tasks.")
    elif "k" in where:
        parts.append(f"Weights needed by exactly {where['k']} task{'' if where['k'] == 1 else 's'}.")
    if "threshold" in where:
        parts.append(f"Mask threshold {where['threshold']:.2f}.")
    return str(entry["title"]), value, " ".join(parts)


def _pairs(entry: Mapping[str, Any]) -> str:
    rows = entry["rows"]
    return "one pair" if rows == 1 else f"{rows} pairs, {entry['above_null']} of them above it"


def _figure(value: Any, share: bool) -> str:
    if value is None:
        return NOTHING
    return percent(value) if share else f"{value:.3g}"
