"""Labels in a file beside the labels of a head: which is which, and what does not fit, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.errors import DataError, sentence

MAX_LABELS = 10_000
_GENERIC = re.compile(r"label[ _-]?\d+", re.IGNORECASE)
_NAMED = 8


@dataclass(frozen=True)
class LabelMatch:
    """How the values of a column become places in a list of labels.

    `labels`: the task's labels, in the order of the head where there is one. `how`: name, number, or as given.
    `counts`: rows per value of the file, commonest first. `head`: whether the labels are those of a head.
    """

    labels: tuple[str, ...]
    places: Mapping[str, int]
    how: str
    counts: Mapping[str, int]
    head: bool

    def place(self, cell: Any) -> int | None:
        """The place of a cell's label, or None where there is none."""
        return self.places.get(label_text(cell))

    @property
    def lacking(self) -> tuple[str, ...]:
        """Values of the file that the head has no label for: their rows count as bad."""
        return tuple(v for v in self.counts if v not in self.places)

    @property
    def unused(self) -> tuple[str, ...]:
        """Labels of the head that no row carries."""
        used = {self.places[v] for v in self.counts if v in self.places}
        return tuple(label for i, label in enumerate(self.labels) if i not in used)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person should know about the match."""
        said = [_HOW[self.how] if self.head else "The labels are taken from the file, as given."]
        if self.lacking:
            rows = sum(self.counts[v] for v in self.lacking)
            count = "1 row that carries it counts" if rows == 1 else f"{rows:,} rows that carry them count"
            said.append(f"The head lacks {listed(self.lacking)}: {count} as bad.")
        if self.unused and self.head:
            said.append(f"The head also knows {listed(self.unused)}, which no row carries.")
        if len(self.places.keys() & self.counts.keys()) == 1:
            only = next(v for v in self.counts if v in self.places)
            said.append(f"Every usable row has the label {only!r}: a model that always says so is right everywhere.")
        return tuple(said)

    def rows(self) -> list[tuple[str, int, str]]:
        """Per value of the file: the value, its rows, and the label it becomes ("" for none)."""
        return [(v, n, self.labels[self.places[v]] if v in self.places else "") for v, n in self.counts.items()]


_HOW = {
    "name": "Labels are matched to those of the head by name.",
    "number": "Labels are numbers: each is the place of a label of the head, counted from 0.",
    "as given": "The labels are taken from the file, as given.",
}


def label_text(cell: Any) -> str:
    """A label as text: 1, 1.0 and " 1" are the same one, True is "true"."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell == cell // 1:
        return str(int(cell))
    return str(cell).strip()


def match_labels(
    counts: Mapping[str, int], head: Sequence[str] = (), *, names: Sequence[str] = (), how: str = "auto"
) -> LabelMatch:
    """The values of a file (with their rows) beside a head's labels.

    By name, whatever the case and the spaces; by number where every value is one within the head; `how` forces one of
    the two. `names`: what whole numbers of the file stand for, where it says so. Without a head the file's own values
    are the labels: numbers from 0 to the largest, else names in their order.
    Raises DataError where nothing fits, with both lists, or where fewer than two labels would be left.
    """
    if not counts:
        raise DataError(sentence("labels", "the label column must hold values", "none", "Choose another column."))
    counts = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    own = {v: names[int(v)] if names and v.isdecimal() and int(v) < len(names) else v for v in counts}
    if not head:
        return _as_given(counts, own, names)
    by_name = {_plain(label): i for i, label in enumerate(head)}
    named = {v: by_name[_plain(own[v])] for v in counts if _plain(own[v]) in by_name}
    generic = all(_GENERIC.fullmatch(label) for label in head)
    numbered = {v: int(v) for v in counts if v.isdecimal() and int(v) < len(head)}
    places, chosen = named, "name"
    if how == "number" or (how == "auto" and not named and numbered):
        places, chosen = numbered, "number"
    if not places:
        raise DataError(_nothing_fits(counts, own, head, generic))
    return LabelMatch(tuple(head), places, chosen, counts, head=True)


def _as_given(counts: Mapping[str, int], own: Mapping[str, str], names: Sequence[str]) -> LabelMatch:
    numbers = [int(v) for v in counts if v.isdecimal()]
    if names:
        labels = list(names)
        places = {v: labels.index(own[v]) for v in counts if own[v] in labels}
    elif len(numbers) == len(counts) and max(numbers) < max(100, 2 * len(counts)):
        labels = [str(i) for i in range(max(numbers) + 1)]
        places = {v: int(v) for v in counts}
    else:
        labels = sorted(counts)
        places = {v: i for i, v in enumerate(labels)}
    if len(labels) < 2:
        got = f"only {listed(labels)}"
        raise DataError(sentence("labels", "there must be at least two labels", got, "Choose another label column."))
    return LabelMatch(tuple(labels), places, "as given", counts, head=False)


def _nothing_fits(counts: Mapping[str, int], own: Mapping[str, str], head: Sequence[str], generic: bool) -> str:
    advice = "Choose another label column, or another fine-tune."
    if generic:
        advice = f"The head does not name its labels: write their numbers, 0 to {len(head) - 1}, in the file."
    must = f"the file's labels must be labels of the head: {listed(head)}"
    return sentence("labels", must, listed([own[v] for v in counts]), advice)


def count_labels(values: Iterable[Any]) -> dict[str, int]:
    """Rows per label. Raises DataError beyond MAX_LABELS different ones."""
    counts: dict[str, int] = {}
    for value in values:
        text = label_text(value)
        counts[text] = counts.get(text, 0) + 1
        if len(counts) > MAX_LABELS:
            must, advice = f"a label column may hold at most {MAX_LABELS:,} different labels", "Choose another column."
            raise DataError(sentence("labels", must, "more", advice))
    return counts


def listed(names: Sequence[str]) -> str:
    """Some names in quotes, and how many more."""
    shown = ", ".join(repr(n if len(n) <= 40 else n[:39] + "…") for n in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()
