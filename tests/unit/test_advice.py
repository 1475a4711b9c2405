"""Advice: every rule on a hand-made table that fires it, and on one a step away that does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from chart_examples import result
from chart_why_examples import row

from explorer.advice import advice
from explorer.merging import CONTRIBUTIONS
from explorer.results import SCORES, Result

EVERY = ("coefficient", "density", "mask_threshold")
AS_AVERAGE = "much as under plain averaging"


def table(controls: tuple[str, ...] = EVERY, output: str = "single", **tasks: dict[str, Any]) -> Result:
    """Tasks by name with the numbers in which they differ from plain averaging."""
    made = result("contributions", list(tasks), [row(t, **own) for t, own in tasks.items()], CONTRIBUTIONS)
    return dataclasses.replace(made, provenance={"controls": controls, "output": output})


def scores(merged: dict[str, float], expert: float = 0.9, half: float = 0.02) -> Result:
    """Merged and expert scores with intervals of ± half."""
    rows = []
    for task, score in merged.items():
        for model, value in (("merged", score), ("expert", expert)):
            known = {"n": 500, "n_total": 500, "correct": 500 * value, "score": value, "metric": "accuracy"}
            rows.append({"model": model, "task": task, **known, "low": value - half, "high": value + half})
    return result("scores", list(merged), rows, SCORES)  # type: ignore[arg-type]


def test_a_small_share_of_the_task_that_is_furthest_behind() -> None:
    found = advice(table(spam={"share": 0.03}, movies={}), scores({"spam": 0.45, "movies": 0.6}))
    assert found == (
        "spam is furthest behind its expert, at 50 % of its score, and it makes 3 % of the merged update "
        "(plain averaging 14 %): try a larger coefficient for it."
    )
    assert AS_AVERAGE in advice(table(spam={"share": 0.08}, movies={}), scores({"spam": 0.45, "movies": 0.6}))
    other = advice(table(spam={"share": 0.03}, movies={}), scores({"spam": 0.8, "movies": 0.6}))
    assert other.startswith("movies is furthest behind its expert, at 67 %") and AS_AVERAGE in other


def test_settings_are_named_only_where_the_method_has_them() -> None:
    low, behind = {"share": 0.03}, scores({"spam": 0.45})
    assert "try" not in advice(table((), spam=low), behind)
    lost = {"dropped": 0.5}
    assert advice(table(("density",), spam=lost), behind).endswith("(plain averaging 0 %): try a higher density.")
    assert "density or a lower mask" in advice(table(spam=lost), behind)
    assert advice(table((), spam=lost), behind).endswith("50 % of its squared length is dropped (plain averaging 0 %).")


@pytest.mark.parametrize(("name", "over", "under"), [("outvoted", 0.31, 0.29), ("dropped", 0.21, 0.19)])
def test_what_is_lost_beyond_plain_averaging(name: str, over: float, under: float) -> None:
    behind = scores({"spam": 0.45})
    said = {"outvoted": "out-voted", "dropped": "dropped"}[name]
    found = advice(table(spam={name: over}), behind)
    assert f"{100 * over:.0f} % of its squared length is {said}" in found and ": try " in found
    assert AS_AVERAGE in advice(table(spam={name: under}), behind)


def test_another_task_that_crowds_it_out() -> None:
    behind = scores({"spam": 0.45, "movies": 0.89})
    found = advice(table(spam={}, movies={"share": 0.6}), behind)
    assert found.endswith(
        "movies makes 60 % of the merged update (plain averaging 14 %): try a smaller coefficient for movies."
    )
    assert AS_AVERAGE in advice(table(spam={}, movies={"share": 0.27}), behind)
    assert found.count("try") == 1 and "try" not in advice(table((), spam={}, movies={"share": 0.6}), behind)


def test_nobody_is_clearly_behind() -> None:
    close = scores({"spam": 0.87, "movies": 0.88})
    assert advice(table(spam={"share": 0.03}, movies={}), close) == (
        "None of the 2 scored tasks is clearly behind its expert so far, with its 95 % interval below the expert's."
    )
    assert advice(table(spam={}), scores({"spam": 0.95})).startswith("The scored task is not clearly behind")
    assert "furthest behind" in advice(table(spam={}), scores({"spam": 0.85}))


def test_before_any_score_the_odd_one_out_or_nothing() -> None:
    assert advice(table(spam={}, movies={"share": 0.02})).startswith("movies stands out: it makes 2 % of the merged")
    assert advice(table(spam={"outvoted": 0.4}, movies={})).startswith("spam stands out: 40 % of its squared length")
    plain = "Shares and losses are much as under plain averaging: the scores decide."
    assert advice(table(spam={}, movies={})) == plain
    nobody = result("scores", [], [], SCORES)
    assert advice(table(spam={}, movies={}), nobody) == plain


def test_one_model_per_task_is_not_told_to_share() -> None:
    own = table(EVERY, "per_task", spam={"share": 0.03, "outvoted": 0.4}, movies={"share": 0.6})
    found = advice(own, scores({"spam": 0.45, "movies": 0.6}))
    assert "40 % of its squared length is out-voted" in found and "try" not in found and "share" not in found


def test_the_base_and_fine_tunes_that_change_nothing() -> None:
    still = {"update_norm": 0.0, "share": np.nan, "dropped": 1.0, "outvoted": 0.0}
    assert advice(table(spam=still), scores({"spam": 0.3})).startswith("The merged model is the base")
    assert not advice(table(spam={**still, "update_norm": 1e-3, "share": 0.1})).startswith("The merged model")
    assert advice(table(spam=dict.fromkeys(("dropped", "outvoted"), np.nan))).startswith("No fine-tune changes")
    one = table(spam=dict.fromkeys(("share", "dropped", "outvoted"), np.nan), movies={"share": 0.01})
    assert advice(one).startswith("movies stands out")


def test_it_is_one_sentence_without_unknown_numbers() -> None:
    told = [advice(table(spam={"share": s}), scores({"spam": a})) for s in (0.01, 0.14) for a in (0.1, 0.89)]
    assert all(t.endswith(".") and t.count(". ") == 0 and "nan" not in t for t in told)
