"""Sets of tasks whose TALL masks are counted together, and what follows from counts of sets.

#{i : at least k tasks hold i} follows from the counts of all sets, by inclusion and exclusion; where only some sets are
counted, the k-th largest level of every position is counted as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np

CHOSEN_MAX = 6
"""So many tasks have 64 patterns: more could neither be drawn nor read."""
_EVERY_SET = 4
"""Up to so many tasks, all their sets are no more rows than tasks, pairs and ranks are."""


def chosen_places(chosen: int | dict[str, int], tasks: Sequence[str]) -> list[int] | None:
    """Positions of the chosen tasks; None where more than six are chosen."""
    kept = [i for i, task in enumerate(tasks) if (chosen.get(task, 1) if isinstance(chosen, dict) else chosen)]
    return kept if len(kept) <= CHOSEN_MAX else None


@dataclass(frozen=True)
class Sets:
    """Which sets of `count` tasks are counted: single tasks, pairs, and every set of the tasks in each of `chosen`."""

    count: int
    chosen: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def places(self) -> dict[tuple[int, ...], int]:
        """The row of every set; a set is a tuple of ascending tasks."""
        whole = tuple(range(self.count))
        groups = (*self.chosen, whole) if self.count <= _EVERY_SET else self.chosen
        wanted = dict.fromkeys(s for size in (1, 2) for s in combinations(whole, size))
        wanted |= dict.fromkeys(s for group in groups for size in range(3, 7) for s in combinations(group, size))
        return {s: row for row, s in enumerate(wanted)}

    @cached_property
    def complete(self) -> bool:
        """Whether every set is counted."""
        return len(self.places) == 2**self.count - 1

    @cached_property
    def rows(self) -> int:
        """Rows counted: the sets, and the ranks where they do not follow."""
        return len(self.places) + (0 if self.complete else self.count)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Positions that at least k = 1 … T tasks hold = this matrix [T, S] @ those that every set holds."""
        of_size = [[(-1) ** (m - k) * comb(m - 1, k - 1) if m >= k else 0 for m in range(1, self.count + 1)]
                   for k in range(1, self.count + 1)]  # fmt: skip
        return np.array(of_size, np.int64)[:, [len(s) - 1 for s in self.places]]

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The tasks of every set, int64 [S, 6], and how many there are, int64 [S]."""
        tasks = np.zeros((len(self.places), CHOSEN_MAX), np.int64)
        for row, members in enumerate(self.places):
            tasks[row, : len(members)] = members
        return tasks, np.array([len(s) for s in self.places], np.int64)


@dataclass(frozen=True, eq=False)
class Reached:
    """How many positions reach each level, whole numbers [R, 40] for the rows of `sets`; each counts `weight` times."""

    sets: Sets
    counts: np.ndarray
    weight: float = 1.0

    def of(self, wanted: Iterable[tuple[int, ...]]) -> np.ndarray:
        """Positions whose smallest level among the tasks of each set is at least 1 … 40, [wanted, 40]."""
        places = self.sets.places
        return self._weighed(self.counts[[places[s] for s in wanted]])

    def ranks(self) -> np.ndarray:
        """Positions whose k-th largest level is at least 1 … 40, k = 1 … T, [T, 40]."""
        held = len(self.sets.places)
        return self._weighed(self.sets.ranks @ self.counts if self.sets.complete else self.counts[held:])

    def _weighed(self, counts: np.ndarray) -> np.ndarray:
        return counts if self.weight == 1.0 else counts * self.weight
