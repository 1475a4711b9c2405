"""Greedy soup: which checkpoints to average, chosen one at a time by a held-out score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from explorer.errors import InputError, sentence

Score = Callable[[tuple[str, ...]], float]
"""The held-out score of the uniform average of these checkpoints; higher is better."""


@dataclass(frozen=True)
class SoupStep:
    """One try: the soup so far with `candidate` in it, its score, and whether the candidate stayed."""

    candidate: str
    members: tuple[str, ...]
    score: float
    before: float
    kept: bool


@dataclass(frozen=True)
class Soup:
    """The chosen checkpoints in order of joining, their score, each checkpoint's own score, and every try."""

    members: tuple[str, ...]
    score: float
    singles: dict[str, float]
    steps: tuple[SoupStep, ...]


def greedy_soup(names: Sequence[str], score: Score) -> Soup:
    """The greedy soup of checkpoints: never worse, on the examples scored, than the best single one.

    Sort by own score, best first (equal scores: as given); begin with the best; add each in turn to the uniform
    average and keep it if the score does not fall (an equal score keeps it). The score of the members asked for is
    `score(members)`, members in order of joining; every set is asked for once. A score that is no number loses to
    every number: such a checkpoint comes last, and a soup with it is not kept.
    Raises InputError for no checkpoint, or when no checkpoint alone has a score; whatever `score` raises.
    Paper: Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
    time, algorithm 1. It says "improves" in words and ≥ in the algorithm; the algorithm is what is done.
    """
    singles = {name: float(score((name,))) for name in dict.fromkeys(names)}
    order = sorted(singles, key=lambda n: (math.isnan(singles[n]), -singles[n] if not math.isnan(singles[n]) else 0.0))
    if not order or math.isnan(singles[order[0]]):
        got = "none" if not order else "no score for any"
        raise InputError(sentence("greedy soup", "needs a checkpoint with a score", got, "Check tasks and split."))
    members: tuple[str, ...] = (order[0],)
    best = singles[order[0]]
    steps = [SoupStep(order[0], members, best, float("nan"), True)]
    for candidate in order[1:]:
        tried = (*members, candidate)
        found = float(score(tried))
        steps.append(SoupStep(candidate, tried, found, best, found >= best))
        if found >= best:
            members, best = tried, found
    return Soup(members, best, singles, tuple(steps))
