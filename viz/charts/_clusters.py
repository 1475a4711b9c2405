"""An order of tasks in which alike ones stand side by side, and the tree behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Join(NamedTuple):
    """Two branches of the tree that meet: at which height, where their stems stand, and the leaves below them."""

    height: float
    left: tuple[float, float]
    right: tuple[float, float]
    members: tuple[tuple[int, ...], tuple[int, ...]]


def clustered(distances: np.ndarray) -> tuple[list[int], list[Join]]:
    """Average linkage with optimal leaf order, [T, T] -> indices in their order, and T - 1 joins, lowest first.

    Stems are (position in the order, height of the branch below; NaN for a single task). A distance that is not
    known counts as the largest known one (1 where none is). Mirrored orders are equally good: the one in which the
    first task stands nearer to the front is taken. Two tasks or fewer keep their order.
    """
    count = len(distances)
    if count < 2:
        return list(range(count)), []
    from scipy.cluster.hierarchy import leaves_list, linkage  # the page starts without it

    between = distances[np.triu_indices(count, 1)]
    known = between[np.isfinite(between)]
    between = np.where(np.isfinite(between), between, known.max() if known.size else 1.0)
    tree = linkage(between, "average", optimal_ordering=True)
    order = [int(leaf) for leaf in leaves_list(tree)]
    if order.index(0) > order.index(count - 1):
        order.reverse()
    return order, _joins(tree, order)


def _joins(tree: np.ndarray, order: Sequence[int]) -> list[Join]:
    stems = {leaf: (float(place), float("nan")) for place, leaf in enumerate(order)}
    members: dict[int, tuple[int, ...]] = {leaf: (leaf,) for leaf in order}
    joins = []
    for number, (a, b, height, _) in enumerate(tree, start=len(order)):
        left, right = sorted((int(a), int(b)), key=lambda node: stems[node][0])
        joins.append(Join(float(height), stems[left], stems[right], (members[left], members[right])))
        stems[number] = ((stems[left][0] + stems[right][0]) / 2, float(height))
        members[number] = (*members[left], *members[right])
    return joins
