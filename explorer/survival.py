"""What a storage dtype leaves of the task vectors, said in words: for the page, the command line and the model card."""

from __future__ import annotations

import math
from typing import Any

from explorer.results import Result

Row = dict[str, Any]


def survival_text(result: Result, task: str | None = None) -> str:
    """One sentence: what survives of the merged task vector, and which task vector fares worst alone.

    `task` names the one task that a per-task model serves. A vector of zeros has nothing to lose and is left out.
    """
    merged, alone = (_defined(_rows(result, part, task)) for part in ("merged", "alone"))
    stored = "Stored as " + " and ".join(result.provenance["stored_as"])
    if not merged:
        return f"{stored}: the merged task vector is zero, so there is nothing to lose."
    if all(row["survives"] == 1 for row in (*merged, *alone)):
        return f"{stored}, all of the merged task vector survives."
    least = min(merged, key=_survives)
    several = f" (the least of {len(merged)} models: {least['task']})" if len(merged) > 1 else ""
    text = f"{stored}, {share_text(least['survives'])} of the merged task vector survives{several}"
    if all(row["survives"] == 1 for row in alone):
        return text + "."
    worst = min(alone, key=_survives)
    fares = "fares worst: " if len(alone) > 1 else ""
    return f"{text}; alone, {worst['task']} {fares}{share_text(worst['survives'])}."


def survival_lines(result: Result, task: str | None = None) -> list[str]:
    """The sentence and a Markdown table with one row per task vector; `task` as for `survival_text`."""
    lines = [
        "### What the stored dtype leaves",
        "",
        survival_text(result, task),
        "Alone: one task vector times its scale in this merge. Rounded away: changed weights stored as the base's own.",
        "",
        "| task vector | scale | survives | rounded away |",
        "|---|---|---|---|",
    ]
    for row in (*_rows(result, "merged", task), *_rows(result, "alone", task)):
        name = str(row["task"]).replace("|", "\\|")
        name = f"**merged{', ' if name else ''}{name}**" if row["part"] == "merged" else f"{name}, alone"
        scale = "" if math.isnan(row["scale"]) else f"{row['scale']:g}"
        lines.append(f"| {name} | {scale} | {share_text(row['survives'])} | {share_text(row['rounded_away'])} |")
    return [*lines, ""]


def share_text(value: float) -> str:
    """A fraction as a percentage that says 100 only of all, and 0 only of nothing; a dash where it is undefined."""
    if math.isnan(value):
        return "–"
    if 0.999 < value < 1:
        return "> 99.9 %"
    if 0 < value < 0.001:
        return "< 0.1 %"
    return f"{100 * value:.1f} %" if value not in (0, 1) else f"{100 * value:.0f} %"


def _rows(result: Result, part: str, task: str | None) -> list[Row]:
    """The rows of one part; of one task, and of what serves all tasks, when `task` is given."""
    rows: list[Row] = [{str(k): v for k, v in row.items()} for row in result.table.to_dict("records")]
    return [row for row in rows if row["part"] == part and (task is None or row["task"] in ("", task))]


def _defined(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not math.isnan(row["survives"])]


def _survives(row: Row) -> float:
    return float(row["survives"])
