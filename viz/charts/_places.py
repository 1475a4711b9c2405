"""Points in a plane from distances, and places for their names that do not cover one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Scaling(NamedTuple):
    """Classical multidimensional scaling: points [T, 2], share of the variation in two dimensions, and stress."""

    points: np.ndarray
    explained: float
    stress: float


def classical_scaling(distances: np.ndarray) -> Scaling:
    """Points in a plane whose distances come near to those given, [T, T] -> [T, 2] (Torgerson 1952).

    B = -1/2 J D² J with J = I - 11ᵀ/T; points = the eigenvectors of the two largest eigenvalues λ > 0 times √λ.
    explained = (λ1 + λ2) / Σ|λ|, in [0, 1], NaN where all distances are 0. stress = √(Σ(d − δ)² / Σδ²) over pairs, d
    in the plane, δ given (Kruskal's stress 1 without monotone fit): 0 is exact. The largest entry of each axis is
    positive, so that the same distances give the same picture.
    """
    count = len(distances)
    centre = np.eye(count) - 1 / max(count, 1)
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    points, scale = np.zeros((count, 2)), float(np.abs(values).sum())
    for axis, k in enumerate(np.argsort(values)[::-1][:2]):
        if values[k] > 1e-12 * scale:
            vector = vectors[:, k] * math.sqrt(values[k])
            # Rounded, so that the sign does not hang on the last bit of two equally large entries.
            points[:, axis] = vector * np.sign(vector[np.argmax(np.round(np.abs(vector), 9))])
    drawn = np.linalg.norm(points[:, None] - points[None], axis=-1)
    given = float((distances**2).sum())
    top = float(np.clip(np.sort(values)[::-1][:2], 0, None).sum())
    return Scaling(
        points,
        top / scale if scale > 0 else math.nan,
        math.sqrt(float(((drawn - distances) ** 2).sum()) / given) if given > 0 else math.nan,
    )


_ANGLES = tuple(math.radians(degrees) for degrees in (0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 202, 338))
_REACHES = (12, 20, 34, 50, 70, 95)


def label_offsets(
    points: np.ndarray, texts: Sequence[str], sizes: Sequence[float], *, letter: float = 6.6, line: float = 15
) -> list[tuple[float, float]]:
    """Where each name's middle stands, in pixels from its point (x right, y up), so that names keep apart.

    `points` [T, 2] are fractions of a square plane, which is tried at each of `sizes` pixels, so that the names keep
    apart in a narrow and in a wide window. Names are set one after another, the most crowded first, each at the
    nearest of some places around its point that covers least of other names, points and the plane's edge.
    """
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.where(np.eye(len(points)), np.inf, 0)
    crowded = np.argsort(gaps.min(axis=1, initial=np.inf), kind="stable")
    taken = {size: [_boxes(at[None], (8, 8)) for at in points * size] for size in sizes}
    found = [(0.0, 0.0)] * len(texts)
    for index in crowded:
        half = (letter * len(texts[index]) / 2, line / 2)
        offsets, cost = _offsets(half)
        for size in sizes:
            boxes = _boxes(points[index] * size + offsets, half)
            beyond = 4 * half[0] * half[1] - _overlap(boxes, np.array([[0, 0, size, size]]))[:, 0]
            cost = cost + 20 * (_overlap(boxes, np.concatenate(taken[size])).sum(axis=1) + 3 * beyond)
        best = offsets[int(np.argmin(cost))]
        found[index] = (float(best[0]), float(best[1]))
        for size in sizes:
            taken[size].append(_boxes((points[index] * size + best)[None], half))
    return found


def _offsets(half: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Places around a point for the middle of a name of this half size, [n, 2], and how far off each is, [n]."""
    angles, reaches = (grid.ravel() for grid in np.meshgrid(_ANGLES, _REACHES))
    offsets = np.stack([np.cos(angles) * (reaches + half[0]), np.sin(angles) * (reaches + half[1])], axis=1)
    return offsets, reaches + 0.1 * np.tile(np.arange(len(_ANGLES)), len(_REACHES))


def _boxes(middles: np.ndarray, half: tuple[float, float]) -> np.ndarray:
    """Left, bottom, right and top of boxes around points, [n, 2] -> [n, 4]."""
    return np.concatenate([middles - half, middles + half], axis=1)


def _overlap(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that each of some boxes [n, 4] shares with each of others [m, 4], [n, m]."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=-1)
