"""Data that people bring: read row by row, guessed, matched to a head's labels, and made into an evaluation task."""

from __future__ import annotations

from explorer.data.earlier import head_of_task, like_task
from explorer.data.guessing import Guess, guess_kinds, guess_mapping
from explorer.data.labels import LabelMatch, match_labels
from explorer.data.making import MADE, Made, Plan, check_plan, label_field, labels_of, make_task
from explorer.data.reading import BadRow, DataFile, Raw, open_data
from explorer.data.sampling import EXAMPLES

__all__ = [
    "EXAMPLES",
    "MADE",
    "BadRow",
    "DataFile",
    "Guess",
    "LabelMatch",
    "Made",
    "Plan",
    "Raw",
    "check_plan",
    "guess_kinds",
    "guess_mapping",
    "head_of_task",
    "label_field",
    "labels_of",
    "like_task",
    "make_task",
    "match_labels",
    "open_data",
]
