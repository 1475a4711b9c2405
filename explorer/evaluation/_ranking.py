"""How well a ranking puts what is wanted first."""

from __future__ import annotations

import numpy as np


def ndcg(scores: np.ndarray, relevance: np.ndarray, k: int) -> float:
    """nDCG at k of documents [d] by their scores: Σ gain · 1 / log2(place + 1) over the best order's, in [0, 1].

    Documents of equal score share the mean of their discounts, so no order among them is favoured; beyond place k the
    discount is 0. Scores that are not finite come last; where none is finite nothing was ranked,
    which earns 0. NaN where nothing is relevant.
    Paper: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002; ties as McSherry and Najork,
    Computing information retrieval performance measures efficiently in the presence of tied scores, 2008.
    """
    discount = np.where(np.arange(len(scores)) < k, 1 / np.log2(np.arange(len(scores)) + 2), 0.0)
    best = float(np.sort(relevance)[::-1] @ discount)
    known = np.where(np.isfinite(scores), scores, -np.inf)
    _, group, sizes = np.unique(-known, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    shared = np.array([discount[end - size : end].mean() for end, size in zip(ends, sizes, strict=True)])
    if best > 0 and not np.isfinite(scores).any():
        return 0.0
    return float(relevance @ shared[group]) / best if best > 0 else float("nan")
