"""What one number says about a model's answers to a task: how it follows from the outcomes of single examples.

Every task score is a number where more is better, so that settings compare and a merge can be put beside its expert.
What the field counts the other way round is turned: a language model's perplexity P shows as 1 / P, the geometric mean
of the probabilities that it gives to the right tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from explorer.seeds import stable_seed

RESAMPLES = 1000
"""Bootstrap resamples of a metric that is no mean over examples."""


@dataclass(frozen=True)
class TaskMetric:
    """A metric of outcomes [n] or [n, k]: one value, `lowest` to `highest`, more is better.

    `of` gives the value of at least one outcome; NaN where it is not defined (a correlation of constants). `binary`:
    outcomes are right or wrong, and the value is their mean. `mean`: outcomes are credits 0-1, and the value is their
    mean. `shown`: name and value as the field states it, where that differs, such as a perplexity.
    """

    name: str
    of: Callable[[np.ndarray], float]
    binary: bool = False
    mean: bool = False
    lowest: float = 0.0
    highest: float = 1.0
    shown: tuple[str, Callable[[float], float]] | None = None

    def value(self, outcomes: np.ndarray) -> float:
        """The value; NaN without outcomes."""
        return float(self.of(outcomes)) if len(outcomes) else float("nan")

    def credits(self, outcomes: np.ndarray) -> np.ndarray:
        """What each example earns alone, [n]: its outcome where the metric is their mean, else the metric of it alone.

        NaN where the metric of one example is not defined (a correlation).
        """
        if self.mean or self.binary:
            return np.asarray(outcomes, dtype=np.float64)
        return np.array([self.of(outcomes[i : i + 1]) for i in range(len(outcomes))], dtype=np.float64)

    def interval(self, outcomes: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson for right and wrong; else a percentile bootstrap over examples, always with the same draws.

        The whole range without outcomes, and for a single one that is no right or wrong: nothing is known.
        """
        from explorer.evaluation.statistics import wilson

        if self.binary:
            return wilson(int(outcomes.sum()), len(outcomes), confidence)
        if len(outcomes) < 2:
            return self.lowest, self.highest
        drawn = self.resampled([outcomes], RESAMPLES, stable_seed("score interval", self.name))[:, 0]
        low, high = np.nanquantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2]) if _known(drawn) else (
            self.lowest, self.highest)  # fmt: skip
        return float(low), float(high)

    def resampled(self, several: list[np.ndarray], resamples: int, seed: int) -> np.ndarray:
        """Values [resamples, models] of the outcomes of several models on the same examples, resampled together."""
        n = len(several[0])
        generator = np.random.default_rng(seed)
        if self.binary or self.mean:
            stacked = np.stack([np.asarray(o, dtype=np.float64) for o in several], axis=1)
            return np.concatenate([generator.multinomial(n, [1 / n] * n, size=part) @ stacked / n for part in _parts(
                resamples, n)])  # fmt: skip
        places = generator.integers(0, n, size=(resamples, n))
        return np.array([[self.of(o[chosen]) for o in several] for chosen in places], dtype=np.float64)

    def describe(self) -> dict[str, Any]:
        """This metric as a plain row."""
        return {"name": self.name, "lowest": self.lowest, "highest": self.highest}


def _known(drawn: np.ndarray) -> bool:
    return bool(np.isfinite(drawn).any())


def _parts(resamples: int, n: int) -> list[int]:
    """Resamples in parts of at most about 32 MB of counts."""
    size = max(1, (4 << 20) // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def mean_of(outcomes: np.ndarray) -> float:
    """Mean of outcomes [n]."""
    return float(np.mean(outcomes))


def mean_metric(name: str) -> TaskMetric:
    """A metric that is the mean of credits 0-1, such as nDCG@10 per query or F1 per answer."""
    return TaskMetric(name, mean_of, mean=True)


ACCURACY = TaskMetric("accuracy", mean_of, binary=True, mean=True)
