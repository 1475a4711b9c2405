"""Whether a pairwise number foretells a pairwise loss, when pairs share tasks and so are not independent.

The correlation is Spearman's rank correlation over pairs. Its p-value is a Mantel test: the tasks of one matrix are
renamed in every possible way, which keeps whatever pairs owe to sharing a task, and the correlation is computed anew.
As several numbers are tried, an adjusted p-value compares each correlation with the largest of all under the same
renaming (Westfall and Young). The interval is a bootstrap over tasks, not over pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

Matrix = np.ndarray
RESAMPLES = 2000
FEWEST_TASKS = 4


def predictions(found: Mapping[str, Matrix], loss: Matrix) -> list[dict[str, Any]]:
    """Per number, [losing, added], its correlations with the loss: over unordered pairs and over directed ones.

    Pairs carry the mean of both losses; a number that is not symmetric has no row over unordered pairs.
    """
    both = (loss + loss.T) / 2
    rows: list[dict[str, Any]] = []
    for over, target in (("pairs", both), ("directed pairs", loss)):
        usable = {k: x for k, x in found.items() if over == "directed pairs" or np.allclose(x, x.T, equal_nan=True)}
        tested = mantel(usable, target)
        for name, x in usable.items():
            low, high = interval(x, target)
            count = int((~np.isnan(target)).sum()) // (2 if over == "pairs" else 1)
            rows.append({"number": name, "over": over, "n": count, **tested[name], "low": low, "high": high})
    return rows


def mantel(found: Mapping[str, Matrix], loss: Matrix) -> dict[str, dict[str, float]]:
    """Per number: rank correlation `rho`, two-sided `p` under renaming of tasks, and `p_adjusted` for trying several.

    Every renaming is taken, so p-values are exact; the least possible is 1 / T! (or more where renamings tie).
    """
    if not found:
        return {}
    off = ~np.eye(len(loss), dtype=bool)
    target, ranks = np.zeros(loss.shape), np.zeros((len(found), *loss.shape))
    target[off] = _standard(rankdata(loss[off]))
    for row, x in zip(ranks, found.values(), strict=True):
        row[off] = _standard(rankdata(x[off]))

    def correlations(order: tuple[int, ...]) -> np.ndarray:
        return (ranks[:, order][:, :, order] * target).sum((1, 2))

    rho = correlations(tuple(range(len(loss))))
    renamed = np.abs([correlations(order) for order in itertools.permutations(range(len(loss)))])
    least = np.abs(rho) - 1e-12
    p, adjusted = (renamed >= least).mean(0), (renamed.max(1)[:, None] >= least).mean(0)
    return {
        name: {"rho": float(rho[i]), "p": float(p[i]), "p_adjusted": float(adjusted[i])} for i, name in enumerate(found)
    }


def interval(x: Matrix, loss: Matrix, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the rank correlation when tasks are drawn again, with replacement.

    Pairs of a task with itself are left out, and draws with fewer than four different tasks.
    """
    draw, found = np.random.default_rng(seed), []
    while len(found) < resamples:
        chosen = draw.integers(0, len(loss), len(loss))
        if len(set(chosen.tolist())) < FEWEST_TASKS:
            continue
        at = np.ix_(chosen, chosen)
        different = chosen[:, None] != chosen[None, :]
        found.append(rank_correlation(x[at][different], loss[at][different]))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(_standard(rankdata(a)) @ _standard(rankdata(b)))


def _standard(ranks: np.ndarray) -> np.ndarray:
    """Ranks less their mean, of length 1, so that a dot product is a correlation; zeros where all are equal."""
    centred = ranks - ranks.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length else centred
