"""Which examples two models answer differently: how many, and which, with what was asked and what was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from explorer.calibration import provenance_of
from explorer.comparing import paired_p
from explorer.evaluation import KINDS, EvaluationTask, TaskScore, holm, wilson
from explorer.results import Column, Result, count, fraction, number, text

CHURN = (
    text("task", "task of the row"),
    text("before", "what it is put beside, such as expert or base"),
    text("after", "the model in question, such as merged"),
    text("metric", "what the task's score is"),
    count("n", "examples that both have answered"),
    count("n_total", "examples of the whole split"),
    number("changed", "examples that they answer differently; undefined where answers are no choices or texts", 0),
    fraction("churn", "changed / n"),
    fraction("low", "lower end of its 95 % Wilson interval"),
    fraction("high", "upper end of its 95 % Wilson interval"),
    count("lost", "examples that only `before` answers correctly, or better where answers are not right or wrong"),
    count("gained", "examples that only `after` answers correctly, or better"),
    fraction("p", "two-sided p-value that lost and gained are alike: exact McNemar, else a paired permutation"),
    fraction("p_holm", "the same after Holm's correction for all rows"),
)
"""Paper: Milani Fard et al., Launch and Iterate: Reducing Prediction Churn, 2016."""

CHANGED_EXAMPLES = (
    count("example", "position in the split, from 1"),
    text("change", "right → wrong, wrong → right, credit down or credit up"),
    text("content", "what was asked"),
    text("right_answer", "the right answer, in words"),
    text("answer_before", "what the first model answers; empty where that is no finite number"),
    text("answer_after", "what the second model answers"),
    fraction("confidence_before", "softmax probability of the first model's answer; undefined where it is not known"),
    fraction("confidence_after", "softmax probability of the second model's answer"),
    number("credit_before", "what the first model's answer earns: 1 right, 0 wrong, or the metric of it alone", -1, 1),
    number("credit_after", "what the second model's answer earns", -1, 1),
)
LOST, GAINED, DOWN, UP = "right → wrong", "wrong → right", "credit down", "credit up"
CHANGES = (LOST, GAINED, DOWN, UP)
SHOWN_TYPES = ("text", "texts", "tokens", "image")


def churn(
    before: Mapping[str, Mapping[str, TaskScore]],
    after: Mapping[str, TaskScore],
    tasks: Sequence[EvaluationTask],
    *,
    named: str = "merged",
) -> Result:
    """How much of what each of several models answers is answered differently by another; columns CHURN.

    `before` maps a model (expert, base, a pinned setting) to its score per task, `after` is that of the model in
    question, called `named`. Each row is on the examples that both have answered. Answers that are real numbers, such
    as similarities, are always different, so their churn is left undefined; lost and gained are told all the same.
    """
    found, p_values = [], []
    for task in tasks:
        for model, scores in before.items():
            if task.name in scores and task.name in after:
                first, second = _both(scores[task.name], after[task.name])
                if first.n:
                    found.append((task.name, model, named, *_row(first, second)))
                    p_values.append(paired_p(first.metric, first.outcomes, second.outcomes))
    rows = [(*row, p, q) for row, p, q in zip(found, p_values, holm(p_values), strict=True)]
    table = _table(rows, CHURN)
    known = [t for t in tasks if t.name in set(table["task"])]
    given = {"seed": 0, "tests": len(rows), "tasks": {t.name: provenance_of(t) for t in known}}
    return Result("churn", tuple(t.name for t in known), table, CHURN, given)


def changed_examples(
    task: EvaluationTask,
    before: TaskScore,
    after: TaskScore,
    *,
    names: tuple[str, str] = ("expert", "merged"),
    least: float = 0.0,
) -> Result:
    """The examples of one task that a second model answers better or worse than a first; columns CHANGED_EXAMPLES.

    Worse first, then better; in each the largest change of credit first, then the surest new answer, then the order of
    the split. `least`: changes of credit up to it are left out. Only examples that both have answered are compared;
    how many that is, the names, and the task's version and digest are in the provenance. Where no single example has a
    credit (a correlation), the table is empty and `comparable` in the provenance is false.
    """
    first, second = _both(before, after)
    ours, theirs = (s.metric.credits(s.outcomes) for s in (first, second))
    gap = theirs - ours
    places = np.flatnonzero(np.abs(gap) > least)
    sure = _confidences(second)[places]
    order = np.lexsort((places, -np.nan_to_num(sure), -np.abs(gap[places]), gap[places] > 0))
    binary = first.metric.binary
    rows = []
    for i in places[order]:
        change = ((GAINED if binary else UP) if gap[i] > 0 else (LOST if binary else DOWN))  # fmt: skip
        told = [task.in_words(x) for x in (task.answers[first.indices[i]], first.predictions[i], second.predictions[i])]
        certain = [float(_confidences(s)[i]) for s in (first, second)]
        content = content_of(task, int(first.indices[i]))
        rows.append((int(first.indices[i]) + 1, change, content, *told, *certain, float(ours[i]), float(theirs[i])))
    table = _table(rows, CHANGED_EXAMPLES)
    counted = {change: int((table["change"] == change).sum()) for change in CHANGES[:2] if binary}
    given = {"before": names[0], "after": names[1], "n": first.n, "least": least, "seed": 0, "changes": counted}
    given |= {"comparable": bool(np.isfinite(gap).any() or not first.n), **provenance_of(task)}
    return Result("changed_examples", (task.name,), table, CHANGED_EXAMPLES, given)


def example_table(
    result: Result, *, search: str = "", change: str | None = None, most: int | None = None
) -> pd.DataFrame:
    """The changed examples as a table to look at: confidences in %, and the models' names above their answers.

    `search`: only examples in whose content, answers or number every word of it occurs, whatever the case. `change`:
    only one of CHANGES. `most`: so many rows at most. `example`, from 1, says which one of the split it is.
    """
    table = result.table
    if change is not None:
        table = table[table["change"] == change]
    shown = table[["example", "content", "right_answer", "answer_before", "answer_after"]].astype(str)
    text = shown.agg("\n".join, axis=1).str.casefold() if len(table) else pd.Series([], dtype=str)
    for word in search.casefold().split():
        text = text[text.str.contains(word, regex=False)]
    rows = table.loc[text.index].head(most) if most is not None else table.loc[text.index]
    before, after = str(result.provenance["before"]), str(result.provenance["after"])
    after = f"{after} (2)" if after == before else after
    told = {"example": rows["example"], "change": rows["change"], "content": rows["content"]}
    told |= {
        "right answer": rows["right_answer"],
        f"answer of {before}": rows["answer_before"],
        f"answer of {after}": rows["answer_after"],
    }
    for name, column in ((before, "confidence_before"), (after, "confidence_after")):
        if rows[column].notna().any():
            told[f"{name}, % sure"] = (100 * rows[column].astype(float)).round(1)
    if not result.provenance["changes"]:
        told |= {f"{before}, credit": rows["credit_before"], f"{after}, credit": rows["credit_after"]}
    return pd.DataFrame(told).reset_index(drop=True)


def content_of(task: EvaluationTask, index: int) -> str:
    """What an example asks, as one text: its texts and words; for an image the name of its file.

    Of a kind that declares no such field: every text of the row.
    """
    row, fields = task.rows[index], KINDS.get(task.kind).fields
    shown = [(f.type, row[f.name]) for f in fields if f.type in SHOWN_TYPES and row.get(f.name) is not None]
    return " | ".join(_plain(*one) for one in shown or [("text", v) for v in row.values() if isinstance(v, str)])


def _plain(type: str, value: Any) -> str:
    if type == "image":
        return str(value).replace("\\", "/").rsplit("/", 1)[-1]
    return value if isinstance(value, str) else (" " if type == "tokens" else " / ").join(map(str, value))


def _table(rows: list[Any], columns: tuple[Column, ...]) -> pd.DataFrame:
    """Rows under the names of columns; numbers are numbers also where there is none."""
    table = pd.DataFrame(rows, columns=[c.name for c in columns])
    return table if rows else table.astype({c.name: float for c in columns if c.type != "text"})


def _both(first: TaskScore, second: TaskScore) -> tuple[TaskScore, TaskScore]:
    """Both on the examples that both have answered, in the order of the split."""
    return first.on(second.indices), second.on(first.indices)


def _confidences(score: TaskScore) -> np.ndarray:
    return np.full(score.n, np.nan) if score.confidences is None else score.confidences


def _row(first: TaskScore, second: TaskScore) -> tuple[Any, ...]:
    ours, theirs = (s.metric.credits(s.outcomes) for s in (first, second))
    lost, gained = int((ours > theirs).sum()), int((theirs > ours).sum())
    head = (first.metric.name, first.n, first.n_total)
    if "f" in (first.predictions.dtype.kind, second.predictions.dtype.kind):
        return (*head, *[float("nan")] * 4, lost, gained)
    same = (first.predictions == second.predictions).reshape(first.n, -1).all(axis=1)
    changed = first.n - int(same.sum())
    return (*head, changed, changed / first.n, *wilson(changed, first.n), lost, gained)
