"""One sentence about a merge that follows from its contributions and scores, and says no more than they do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from explorer.results import Result

SMALL_SHARE = 0.5
"""A share is small below this part of what plain averaging gives."""
LARGE_SHARE = 2.0
"""A share is large above this multiple of what plain averaging gives."""
MORE_OUTVOTED, MORE_DROPPED = 0.05, 0.2
"""So much more of ‖τ‖² than under plain averaging is worth a word."""

Row = Mapping[str, Any]


def advice(contributions: Result, scores: Result | None = None) -> str:
    """What to try next, or that nothing stands out.

    With scores: about the task that is furthest behind its expert, among those whose 95 % intervals do not overlap.
    Without: about the task that differs most from plain averaging. In this order: a share below `SMALL_SHARE` of plain
    averaging's; a squared length out-voted by `MORE_OUTVOTED`, or dropped by `MORE_DROPPED`, more than it would be;
    another task with more than `LARGE_SHARE` times its share. Settings are named only where the method has them.
    """
    rows: list[Row] = [{str(k): v for k, v in r.items()} for r in contributions.at("model").to_dict("records")]
    rows = [row for row in rows if row["task"] in contributions.tasks and math.isfinite(row["dropped"])]
    if not rows:
        return "No fine-tune changes a weight, so there is nothing to merge."
    if all(row["update_norm"] == 0 for row in rows):
        return "The merged model is the base, to the last bit: no weight is moved."
    accuracies = _accuracies(scores) if scores is not None else {}
    if not accuracies:
        return _unscored(contributions, rows)
    behind = {t: ours / theirs for t, (ours, theirs, clear) in accuracies.items() if clear and theirs > 0}
    known = {row["task"]: row for row in rows}
    worst = min((t for t in behind if t in known), key=lambda t: behind[t], default=None)
    if worst is None:
        who = "The scored task is not" if len(accuracies) == 1 else f"None of the {len(accuracies)} scored tasks is"
        return f"{who} clearly behind its expert so far, with its 95 % interval below the expert's."
    lead = f"{worst} is furthest behind its expert, at {_percent(behind[worst])} of its score, and "
    found = _about(contributions, known[worst]) or _crowded(contributions, rows, worst)
    return lead + (found or "its share and losses are much as under plain averaging, so these numbers do not say why.")


def _unscored(contributions: Result, rows: list[Row]) -> str:
    """About the task that differs most from plain averaging."""
    ranked = sorted(rows, key=lambda row: _over(row["share"], row["share_average"], unknown=math.inf))
    for row in [*ranked, *sorted(rows, key=lambda row: row["kept"])]:
        found = _about(contributions, row)
        if found:
            return f"{row['task']} stands out: {found}"
    return "Shares and losses are much as under plain averaging: the scores decide."


def _about(contributions: Result, row: Row) -> str:
    """What sets a task apart from plain averaging, and what may help; empty where nothing does."""
    shared = contributions.provenance.get("output") != "per_task"
    if shared and _over(row["share"], row["share_average"]) < SMALL_SHARE:
        made = f"it makes {_percent(row['share'])} of the merged update"
        return f"{made} (plain averaging {_percent(row['share_average'])})" + _try(contributions, "coefficient")
    if row["outvoted"] > row["outvoted_average"] + MORE_OUTVOTED:
        lost = f"{_percent(row['outvoted'])} of its squared length is out-voted"
        tried = _try(contributions, "coefficient") if shared else "."
        return f"{lost} (plain averaging {_percent(row['outvoted_average'])})" + tried
    if row["dropped"] > row["dropped_average"] + MORE_DROPPED:
        lost = f"{_percent(row['dropped'])} of its squared length is dropped"
        return f"{lost} (plain averaging {_percent(row['dropped_average'])})" + _try(contributions, "dropped")
    return ""


def _crowded(contributions: Result, rows: list[Row], worst: str) -> str:
    """Another task that takes far more of the update than plain averaging gives it; empty where none does."""
    if contributions.provenance.get("output") == "per_task":
        return ""
    others = [row for row in rows if row["task"] != worst and math.isfinite(row["share"])]
    large = max(others, key=lambda row: _over(row["share"], row["share_average"], unknown=-math.inf), default=None)
    if large is None or not _over(large["share"], large["share_average"]) > LARGE_SHARE:
        return ""
    made = f"{large['task']} makes {_percent(large['share'])} of the merged update"
    name = f"try a smaller coefficient for {large['task']}"
    tried = f": {name}." if _has(contributions, "coefficient") else "."
    return f"{made} (plain averaging {_percent(large['share_average'])}){tried}"


def _try(contributions: Result, what: str) -> str:
    """The settings of the method that bear on it, as the end of a sentence."""
    if what == "coefficient":
        return ": try a larger coefficient for it." if _has(contributions, "coefficient") else "."
    found = ["a higher density"] * _has(contributions, "density")
    found += ["a lower mask threshold"] * _has(contributions, "mask_threshold")
    return f": try {' or '.join(found)}." if found else "."


def _has(contributions: Result, name: str) -> bool:
    return name in contributions.provenance.get("controls", ())


def _over(share: float, average: float, *, unknown: float = math.nan) -> float:
    """How many times plain averaging's share; `unknown` where one of the two is, or that one is not positive."""
    return share / average if math.isfinite(share) and average > 0 else unknown


def _accuracies(scores: Result) -> dict[str, tuple[float, float, bool]]:
    """Per task that both have answered: the merged and the expert's score, and whether merged is clearly lower."""
    rows = {(row["model"], row["task"]): row for row in scores.table.to_dict("records")}
    found = {}
    for task in scores.tasks:
        ours, theirs = rows.get(("merged", task)), rows.get(("expert", task))
        if ours and theirs:
            found[task] = (ours["score"], theirs["score"], bool(ours["high"] < theirs["low"]))
    return found


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
