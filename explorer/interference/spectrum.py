"""Spectrum: in how few directions a task's update lies."""

from __future__ import annotations

from functools import lru_cache
from math import exp, pi, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.compute.singular import Singular
from explorer.interference._api import Totals, metric
from explorer.interference._matrices import MatrixContext
from explorer.interference._sums import ratio
from explorer.results import count, fraction, number, text

GRID = np.array(
    [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7,
     0.8, 0.9, 1]
)  # fmt: skip
"""Rank fractions at which the cumulative energy is kept."""
ENERGY = 0.9


@metric(
    title="Singular spectrum",
    on="matrix",
    higher_is_worse=None,
    paper="Task Singular Vectors: Reducing Task Interference in Model Merging",
    unit="share of the squared norm; number of directions",
    how="How much of a task's update lies in its strongest directions. A curve that rises at once: a few directions "
    "are enough, and tasks have room beside each other. A curve near its null: the update fills all directions like "
    "noise does, and cannot be reduced without loss.",
    columns=(
        text("task", "task"),
        fraction("rank_fraction", "share of all singular directions, the strongest first"),
        fraction("energy", "share of the squared norm in these directions"),
        fraction("null", "the same for matrices of these shapes with independent entries"),
        number("effective_rank", "exp of the entropy of the singular values, over all matrices together", 0.0),
        number("rank_90", "directions that hold 90 % of each matrix's squared norm, summed", 0.0),
        number("full_rank", "sum of min(m, n) over the matrices that the task changed", 0.0),
        count("n_matrices", "matrices that the task changed"),
        count("n_sketched", "of these, matrices of which only the strongest directions are known"),
    ),
)
def spectrum(deltas: Tensor, *, context: MatrixContext) -> dict[str, Tensor]:
    """In how few singular directions a task's update lies, per task and rank fraction.

    energy(q) = Σ_{i ≤ q r} σ_i² / ‖τ‖² for r = min(m, n), in [0, 1], linear between whole numbers of directions. A
    narrow spectrum is neither interference nor its absence: it says how much room others have. Several matrices: each
    keeps the fraction q of its own directions. effective_rank = exp(−Σ p log p), p = σ / Σ σ, in [1, full_rank]; over
    several matrices the singular values are put together, as of one block-diagonal matrix. rank_90 is the sum of the
    ranks at which each matrix has 90 % of its squared norm.
    Null: independent entries of equal variance, whose squared singular values follow the law of Marchenko and Pastur
    for the shape (exact for large matrices, within about 1/r for small ones), weighed by each matrix's squared norm.
    Partial sums of deltas [T, m, n]: [T, G] and [T]. Of a matrix too large for an exact decomposition energy is known
    for the strongest directions only, too small by at most what the sketch leaves out; where a scope's value needs
    more, it is NaN.
    Edges: a task that changed nothing gives NaN. Papers: Task Singular Vectors: Reducing Task Interference in Model
    Merging, section 3; The Effective Rank: A Measure of Effective Dimensionality.
    """
    chance = torch.tensor(random_energy(*deltas.shape[1:]))
    rows = [_of_task(context.singular(t), context.side, chance) for t in range(len(context.tasks))]
    keys = ("energy", "known", "chance", "sigma", "sigma_log", "rank_90", "complete", "side", "used", "square")
    return {key: torch.stack([row[key] for row in rows]) for key in keys} if rows else {}


def _of_task(found: Singular, side: int, chance: Tensor) -> dict[str, Tensor]:
    """Additive sums of one task's matrix. What a sketch does not know counts in no sum."""
    values = found.values.cpu()
    used = int(found.squared_norm > 0)
    wanted = torch.from_numpy(GRID) * side
    squares = np.concatenate([[0.0], np.cumsum(values.square().numpy())])
    if found.exact and used:
        squares *= found.squared_norm / squares[-1]  # what lies below the floor is nothing
    seen = np.interp(wanted.numpy(), np.arange(len(squares)), squares)
    known = (wanted <= len(values)) | found.exact
    enough = np.flatnonzero(squares >= ENERGY * found.squared_norm * (1 - 1e-12))
    complete = int(found.exact) * used
    logs = (values * values.log()).sum()
    number_of = lambda value: torch.tensor(float(value), dtype=torch.float64)  # noqa: E731
    return {
        "energy": torch.from_numpy(seen) * known * used,
        "known": known * number_of(found.squared_norm),
        "chance": chance * found.squared_norm,
        "sigma": values.sum() * complete,
        "sigma_log": logs * complete,
        # a sketch understates every energy, so a rank found in it may be too large by one or two
        "rank_90": number_of(enough[0] * used if len(enough) else np.nan),
        "complete": torch.tensor(complete),
        "side": torch.tensor(side * used),
        "used": torch.tensor(used),
        "square": number_of(found.squared_norm),
    }


@spectrum.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for t, task in enumerate(tasks if "square" in total else ()):
        square, used, complete = float(total["square"][t]), int(total["used"][t]), int(total["complete"][t])
        sigma = float(total["sigma"][t])
        whole = complete == used and sigma > 0
        effective = exp(np.log(sigma) - float(total["sigma_log"][t]) / sigma) if whole else float("nan")
        for g, fraction_kept in enumerate(GRID):
            known = float(total["known"][t, g]) >= square * (1 - 1e-9)
            energy = ratio(total["energy"][t, g], square) if known else float("nan")
            rows.append(
                {
                    "task": task,
                    "rank_fraction": float(fraction_kept),
                    "energy": min(energy, 1.0) if energy == energy else energy,
                    "null": ratio(total["chance"][t, g], square),
                    "effective_rank": effective,
                    "rank_90": float(total["rank_90"][t]) if used else float("nan"),
                    "full_rank": int(total["side"][t]),
                    "n_matrices": used,
                    "n_sketched": used - complete,
                }
            )
    return rows


@lru_cache(maxsize=256)
def _marchenko_pastur(ratio_of_sides: float) -> np.ndarray:
    low, high = (1 - sqrt(ratio_of_sides)) ** 2, (1 + sqrt(ratio_of_sides)) ** 2
    # x = low + (high - low) sin²(a) takes the infinite slopes of the density away at both ends
    angle = (np.arange(20_000) + 0.5) / 20_000 * pi / 2
    x = low + (high - low) * np.sin(angle) ** 2
    weight = np.sqrt((x - low) * (high - x)) / x * np.sin(2 * angle)
    weight, x = weight[::-1] / weight.sum(), x[::-1]
    counts, energies = np.cumsum(weight), np.cumsum(weight * x)
    return np.interp(GRID, np.concatenate([[0], counts]), np.concatenate([[0], energies / energies[-1]]))


def random_energy(rows: int, columns: int) -> np.ndarray:
    """Cumulative energy on `GRID` of a large matrix of this shape with independent entries of equal variance, [G]."""
    small, large = sorted((rows, columns))
    return _marchenko_pastur(small / large) if small else np.zeros(len(GRID))
