"""How far a model's confidence is from how often it is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from explorer.seeds import stable_seed

BINS = 15
"""Equal-width bins of confidence, as in Guo et al."""
DRAWS = 1000
_AT_A_TIME = 2048


@dataclass(frozen=True, eq=False)
class Reliability:
    """Bins of confidence (edge b, edge b + 1], the first with 0: examples `n`, mean `confidence`, share `right`.

    All are [bins]; confidence and right are NaN in empty bins. `edges` [bins + 1] from 0 to 1.
    """

    edges: np.ndarray
    n: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: Σ n_b/n · |right_b − confidence_b|, 0-1; NaN without examples."""
        total = self.n.sum()
        held = self.n > 0
        gaps = np.abs(self.right[held] - self.confidence[held])
        return float((self.n[held] * gaps).sum() / total) if total else float("nan")

    @property
    def overconfidence(self) -> float:
        """Mean confidence − share right over all examples, -1 to 1: above 0, the model promises too much."""
        total = self.n.sum()
        held = self.n > 0
        gaps = self.confidence[held] - self.right[held]
        return float((self.n[held] * gaps).sum() / total) if total else float("nan")


def reliability(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> Reliability:
    """Confidences [n], 0-1, and whether each answer is right [n], gathered in equal-width bins.

    Examples whose confidence is NaN (the model gave no number) are left out. Raises ValueError (a programming error)
    for other shapes, or a confidence outside 0-1.
    Paper: Guo et al., On Calibration of Modern Neural Networks, 2017, eq. 3.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    known = np.isfinite(confidence)
    confidence = confidence[known]
    if known.shape != right.shape or confidence.min(initial=0) < 0 or confidence.max(initial=0) > 1 + 1e-6:
        raise ValueError("reliability: needs one confidence from 0 to 1 per answer")
    edges, places = np.linspace(0, 1, bins + 1), _places(confidence, bins)
    n = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(places, weights=confidence, minlength=bins) / n
        shares = np.bincount(places, weights=right[known], minlength=bins) / n
    return Reliability(edges, n, means, shares)


def calibrated_error(confidence: np.ndarray, *, bins: int = BINS) -> tuple[float, float]:
    """The calibration error that chance alone gives: its mean, and what it stays below in 95 of 100 cases.

    Each answer is right with the probability that its confidence says, 1,000 times over, always with the same draws:
    the estimate is never 0 at a finite n, even for a model whose confidence is exact. NaN without examples.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    confidence = confidence[np.isfinite(confidence)]
    if not len(confidence):
        return float("nan"), float("nan")
    generator = np.random.default_rng(stable_seed("calibrated error", bins))
    # Sorted, so that the order of examples changes no draw; a part at a time bounds the memory.
    confidence = np.sort(confidence)
    places, surplus = _places(confidence, bins), np.zeros((DRAWS, bins))
    for start in range(0, len(confidence), _AT_A_TIME):
        own, place = confidence[start : start + _AT_A_TIME], places[start : start + _AT_A_TIME]
        right = generator.random((DRAWS, len(own))) < own
        surplus += (right - own) @ (place[:, None] == np.arange(bins))
    errors = np.abs(surplus).sum(axis=1) / len(confidence)
    return float(errors.mean()), float(np.quantile(errors, 0.95))


def _places(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
