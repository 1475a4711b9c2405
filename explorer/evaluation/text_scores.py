"""How well a written answer agrees with the right ones, 0-1: exact match, token F1 and ROUGE-L."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORDS = re.compile(r"[^\W_]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation, then without the words a, an and the, single spaces between words.

    Paper: Rajpurkar et al., SQuAD, 2016 (the normalisation of its evaluation script).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 where both are equal after `normalized`, else 0."""
    return float(normalized(answer) == normalized(reference))


def token_f1(answer: str, reference: str) -> float:
    """2 P R / (P + R) = 2 · common / (|answer| + |reference|) over words after `normalized`, counted with repeats.

    1 where neither has a word, 0 where only one has none.
    Paper: Rajpurkar et al., SQuAD, 2016.
    """
    ours, theirs = normalized(answer).split(), normalized(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def rouge_l(answer: str, reference: str) -> float:
    """2 P R / (P + R) = 2 · LCS / (|answer| + |reference|), LCS the longest common subsequence of words.

    Words are runs of letters and digits in lower case, of any script, without stemming. 0 where either has none.
    Paper: Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004 (with β = 1).
    """
    ours, theirs = _WORDS.findall(answer.lower()), _WORDS.findall(reference.lower())
    if not ours or not theirs:
        return 0.0
    longest = [0] * (len(theirs) + 1)
    for word in ours:
        before = longest
        longest = [0]
        for place, other in enumerate(theirs, start=1):
            longest.append(before[place - 1] + 1 if word == other else max(before[place], longest[-1]))
    return 2 * longest[-1] / (len(ours) + len(theirs))


MEASURES: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "rouge_l": rouge_l,
}


def best(measure: str, answer: str, references: Sequence[str]) -> float:
    """The measure against the reference that agrees most."""
    return max(MEASURES[measure](answer, reference) for reference in references)
