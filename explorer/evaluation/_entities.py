"""Entities in label sequences: what the names B-X, I-X and O of the BIO (IOB2) scheme mark."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = re.compile(r"O|[BI](?:-.+)?")


def is_bio(labels: Sequence[str]) -> bool:
    """Whether label names are O, B-X and I-X (or plain B and I), with at least one B."""
    return all(_NAME.fullmatch(x) for x in labels) and any(x.startswith("B") for x in labels)


def entities(names: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities (type, first word, word after the last) that label names mark.

    B-X begins one; I-X goes on with an entity of type X, and begins one where there is none, as conlleval reads it;
    anything else ends it.
    """
    found, begun, kind = set(), 0, None
    for i, name in enumerate([*names, "O"]):
        mark, _, own = name.partition("-")
        goes_on = mark == "I" and kind == own
        if kind is not None and not goes_on:
            found.add((kind, begun, i))
            kind = None
        if mark in ("B", "I") and not goes_on:
            begun, kind = i, own
    return found


def counts(answered: Sequence[str], right: Sequence[str]) -> tuple[int, int, int]:
    """Entities of one sentence that are right in type and borders, those made up, and those missed."""
    ours, theirs = entities(answered), entities(right)
    return len(ours & theirs), len(ours - theirs), len(theirs - ours)
