"""A seeded sample of a file's usable rows in one pass, whatever the size of the file."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from explorer.data.reading import BadRow, Raw
from explorer.seeds import stable_seed

EXAMPLES = 5000
"""Rows that a task takes at most, unless a person says otherwise: an accuracy is then known to about 1.4 points."""
LISTED = 200
"""Bad rows that are listed with their numbers; the others are counted."""

Chosen = tuple[int, Any]
Usable = Callable[[Raw], "tuple[str, Any] | str"]


@dataclass
class Sample:
    """What was read and what was taken: `rows` as (number in the file, value) in the order of the file."""

    rows: list[Chosen] = field(default_factory=list)
    n_read: int = 0
    n_bad: int = 0
    bad: list[BadRow] = field(default_factory=list)

    @property
    def n_good(self) -> int:
        """Rows that could be used."""
        return self.n_read - self.n_bad

    def refuse(self, row: BadRow) -> None:
        """Count a bad row, and list it while there is room."""
        self.n_bad += 1
        if len(self.bad) < LISTED:
            self.bad.append(row)


def sample_rows(
    rows: Iterable[Raw | BadRow], usable: Usable, *, examples: int, seed: int, counts: Mapping[str, int] | None = None
) -> Sample:
    """At most `examples` of the usable rows, every one as likely, by reservoirs of that size in all.

    `usable` gives a row's stratum and value, or what is wrong with it. With `counts` (rows per stratum) each stratum
    has its share of the file, and at least one row while there is room. The same seed and file give the same rows.
    """
    sample = Sample()
    quotas = shares(counts, examples) if counts else {}
    reservoirs: dict[str, list[Chosen]] = {}
    seen: dict[str, int] = {}
    generators: dict[str, random.Random] = {}
    for row in rows:
        sample.n_read += 1
        found = usable(row) if isinstance(row, Raw) else row.why
        if isinstance(found, str):
            sample.refuse(BadRow(row.number, found))
            continue
        stratum = found[0] if counts else ""
        quota, held = quotas.get(stratum, 0 if counts else examples), reservoirs.setdefault(stratum, [])
        seen[stratum] = seen.get(stratum, 0) + 1
        if len(held) < quota:
            held.append((row.number, found[1]))
            continue
        if stratum not in generators:
            generators[stratum] = random.Random(stable_seed("sample of a file", seed, stratum))
        if (place := generators[stratum].randrange(seen[stratum])) < quota:
            held[place] = (row.number, found[1])
    sample.rows = sorted((c for held in reservoirs.values() for c in held), key=lambda c: c[0])
    return sample


def shares(counts: Mapping[str, int], examples: int) -> dict[str, int]:
    """How many of `examples` each stratum gives: all of them where there are no more, else its share, at least one.

    The largest strata give way where ones for the small do not fit; beyond `examples` strata the commonest stay.
    """
    total = sum(counts.values())
    if total <= examples:
        return dict(counts)
    order = sorted(counts, key=lambda s: (-counts[s], s))[:examples]
    quotas = {s: max(1, min(counts[s], counts[s] * examples // total)) for s in order}
    over = sum(quotas.values()) - examples
    for s in order if over > 0 else ():
        less = min(over, quotas[s] - 1)
        quotas[s], over = quotas[s] - less, over - less
    by_rest = sorted(order, key=lambda s: (-(counts[s] * examples % total), s))
    for s in by_rest[: max(0, -over)]:
        quotas[s] += quotas[s] < counts[s]
    return quotas
