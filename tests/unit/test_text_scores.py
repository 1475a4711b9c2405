"""Agreement of an answer with a reference: hand-worked cases, and Google's ROUGE where it is installed."""

from __future__ import annotations

import random

import pytest

from explorer.evaluation.text_scores import best, exact_match, normalized, rouge_l, token_f1

CASES = [  # answer, reference, exact match, F1, ROUGE-L
    ("The cat sat.", "a cat sat", 1.0, 1.0, 2 * 2 / 6),
    ("the cat sat on the mat", "the mat sat on the cat", 0.0, 1.0, 2 * 4 / 12),
    ("cat cat dog", "cat bird", 0.0, 2 * 1 / 5, 2 * 1 / 5),
    ("", "cat", 0.0, 0.0, 0.0),
    ("the", "a", 1.0, 1.0, 0.0),
    ("well-known", "well known", 0.0, 0.0, 1.0),
    ("Grüße aus Ömer", "grüße, Ömer!", 0.0, 2 * 2 / 5, 2 * 2 / 5),
]


@pytest.mark.parametrize(("answer", "reference", "exact", "f1", "rouge"), CASES)
def test_hand_worked_cases(answer: str, reference: str, exact: float, f1: float, rouge: float) -> None:
    assert exact_match(answer, reference) == exact
    assert token_f1(answer, reference) == pytest.approx(f1)
    assert rouge_l(answer, reference) == pytest.approx(rouge)


def test_normalisation_is_squads() -> None:
    assert normalized("  The U.S.A.'s  *an* apple\tthe end ") == "usas apple end"
    assert normalized("Theatre, another A") == "theatre another"


def test_the_best_reference_counts() -> None:
    assert best("f1", "paris", ["rome", "Paris, France", "lyon"]) == pytest.approx(2 / 3)


def test_rouge_is_that_of_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    theirs, draw = scorer.RougeScorer(["rougeL"], use_stemmer=False), random.Random(0)
    for _ in range(50):
        one, other = (" ".join(draw.choices(["the", "A-b", "c.", "dog", "x1"], k=draw.randint(1, 9))) for _ in "ab")
        assert rouge_l(one, other) == pytest.approx(theirs.score(other, one)["rougeL"].fmeasure)
