"""Made-up results of the history: settings that were tried, and B against a pinned A."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from chart_examples import TASKS, result

from explorer.results import Result, count, fraction, number, text

AB_COLUMNS = (
    text("part", "p"), text("task", "t"), text("metric", "m"), text("test", "t"), count("n", "n"),
    count("n_total", "n"), fraction("score_a", "a"), fraction("score_b", "b"),
    number("difference", "d", -1, 1), number("low", "l", -1, 1),
    number("high", "h", -1, 1),
    count("only_a", "a"), count("only_b", "b"), fraction("p", "p"), fraction("p_holm", "p"),
)  # fmt: skip
SETTINGS_COLUMNS = (
    number("move", "m"), text("label", "l"), text("method", "m"), text("when", "w"),
    number("starred", "s", 0, 1), number("shown", "s", 0, 1),
    number("pinned", "p", 0, 1), number("complete", "c", 0, 1), text("group", "g"), text("axis", "a"),
    text("task", "t"), number("value", "v"), text("words", "w"),
)  # fmt: skip


def ab_difference(tasks: Sequence[str] = TASKS, n: int = 400, n_total: int = 400) -> Result:
    """Clearly better on the first task, worse on the second, a hair on the third, in doubt on the others."""
    rows: list[dict[str, object]] = []
    for i, task in enumerate(tasks):
        difference, half = ((0.08, 0.03), (-0.06, 0.03), (0.0025, 0.02))[i] if i < 3 else (0.015, 0.03)
        p = 0.0001 if i < 2 else 0.4
        rows.append({
            "part": "task", "task": task, "metric": "accuracy", "test": "McNemar",
            "n": n, "n_total": n_total, "score_a": 0.8, "score_b": 0.8 + difference,
            "difference": difference, "low": difference - half, "high": difference + 1.1 * half,
            "only_a": 40, "only_b": 40 + round(difference * n), "p": p, "p_holm": min(1.0, p * len(tasks)),
        })  # fmt: skip
    if rows:
        mean = float(np.mean([float(str(r["difference"])) for r in rows]))
        rows.append({
            "part": "mean", "task": "", "metric": "accuracy", "test": "McNemar",
            "n": n * len(tasks), "n_total": n_total * len(tasks), "score_a": 0.8,
            "score_b": 0.8 + mean, "difference": mean, "low": mean - 0.004, "high": mean + 0.004, "only_a": 70,
            "only_b": 90, "p": np.nan, "p_holm": np.nan,
        })  # fmt: skip
    return result("ab_difference", tasks, rows, AB_COLUMNS)


def settings(tasks: Sequence[str] = TASKS, moves: int = 12) -> Result:
    """Two methods in turn, one of which has no density; the last but one is shown, the last an estimate."""
    draw, rows = np.random.default_rng(9), []
    for move in range(1, moves + 1):
        ties = move % 2 == 0
        method = "TIES" if ties else "Task arithmetic"
        head: dict[str, object] = {
            "move": move, "label": f"number {move}: scale 0.{move}", "method": method,
            "when": f"2026-01-02 03:04:{move % 60:02d}+00:00", "starred": 0, "shown": int(move == moves - 1),
            "pinned": int(move == 2), "complete": int(move < moves),
        }  # fmt: skip
        told: list[tuple[str, str, str, float, str]] = [("method", "method", "", np.nan, str(head["method"]))]
        told += [("setting", f"scale of {t}", t, round(float(draw.uniform(0, 1)), 2), "") for t in tasks]
        told += [("setting", "density", "", 0.1 * move, ""), ("setting", "scope", "", np.nan, "model")] if ties else []
        told += [("setting", "stored as", "", np.nan, "float16" if move == 3 else "the base")]
        scores = [float(draw.uniform(0.6, 0.9)) for _ in tasks]
        told += [("score", f"score on {t}", t, s, "30 of 40") for t, s in zip(tasks, scores, strict=True)]
        mean = float(np.mean(scores)) / 0.9 if tasks else 0.8
        told += [("score", "mean of experts", "", mean, ""), ("score", "worst of experts", "", mean - 0.1, "spam")]
        rows += [{**head, **dict(zip(("group", "axis", "task", "value", "words"), t, strict=True))} for t in told]
    return result("settings", tasks, rows, SETTINGS_COLUMNS)


HISTORY_EXAMPLES: dict[str, Callable[..., Result]] = {"ab_difference": ab_difference, "settings": settings}
