"""Methods whose result is a sum of the inputs: factors from weights alone, or from lengths and angles.

Every angle is known from the inner products of whole tensors, so these methods take one pass over the inputs for the
products (float64) and one for the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from explorer.errors import CheckpointError, sentence
from explorer.mergekit.feed import Feed, gram, weighted

STRAIGHT = 0.9995
"""SLERP takes the chord where |cos| is above this."""
_PARALLEL = 2.0**-24
_SHORT = 1e-7


def linear(feed: Feed) -> Tensor:
    """Σ w θ / Σ w, or Σ w θ without `normalize`."""
    weights = [float(e["weight"]) for e in feed.out.each]
    return weighted(feed, weights, sum(weights) if feed.out.shared["normalize"] else 1.0)


def passthrough(feed: Feed) -> Tensor:
    """The only input, times its scale where one is given."""
    scale = feed.out.each[0]["scale"]
    return weighted(feed, [1.0 if scale is None else float(scale)])


def slerp(feed: Feed) -> Tensor:
    """The point at t on the arc from the base to the other model; the chord where they are nearly parallel."""
    t, base = float(feed.out.shared["t"]), feed.out.base
    products = gram(feed)
    lengths = [math.sqrt(float(products[i, i])) for i in (0, 1)]
    lengths = [n if n > 1e-8 else 1.0 for n in lengths]
    cosine = max(-1.0, min(1.0, float(products[0, 1]) / (lengths[0] * lengths[1])))
    first, second = _arc(cosine, t, abs(cosine) > STRAIGHT)
    return weighted(feed, [first, second] if base == 0 else [second, first])


def nuslerp(feed: Feed) -> Tensor:
    """The point on the arc between two models, or between their task vectors where there is a base."""
    t = share(feed)
    products = gram(feed)
    lengths = [max(math.sqrt(float(products[i, i])), _SHORT) for i in (0, 1)]
    cosine = max(-1.0, min(1.0, float(products[0, 1]) / (lengths[0] * lengths[1])))
    return weighted(feed, list(_arc(cosine, t, 1 - cosine * cosine <= _PARALLEL)))


def share(feed: Feed) -> float:
    """The second model's part of the weights; a half where they cancel."""
    first, second = (float(feed.out.each[i]["weight"]) for i in feed.places)
    return 0.5 if abs(first + second) < 1e-6 else second / (first + second)


def _arc(cosine: float, t: float, straight: bool) -> tuple[float, float]:
    if straight:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def multislerp(feed: Feed) -> Tensor:
    """The mean direction at the mean length. Raises CheckpointError where the directions of more than two cancel."""
    weights = torch.tensor([float(feed.out.each[i]["weight"]) for i in feed.places], dtype=torch.float64)
    if len(weights) == 1:
        return weighted(feed, [1.0])
    if feed.out.shared["normalize_weights"]:
        weights = weights / weights.sum()
    epsilon = float(feed.out.shared["eps"])
    products = gram(feed)
    lengths = products.diagonal().sqrt()
    direction = weights / (lengths + epsilon)
    size = float((direction @ products @ direction).clamp(min=0).sqrt())
    if size >= epsilon:
        factors = direction / size * float(weights @ lengths) * math.cos(epsilon)
    elif len(weights) == 2 or not bool(lengths.any()):  # where nothing changed there is nothing to turn
        factors = weights
    else:
        must, got = f"the directions of {feed.out.name} must not cancel", "vectors whose weighted sum is zero"
        raise CheckpointError(sentence("multislerp", must, got, "Change the weights, or leave one model out."))
    return weighted(feed, factors.tolist())


def karcher(feed: Feed) -> Tensor:
    """The point on the sphere with the least squared angles to all models, at their mean length."""
    count = len(feed.tasks)
    if count == 1:
        return weighted(feed, [1.0])
    most, tolerance = int(feed.out.shared["max_iter"]), float(feed.out.shared["tol"])
    products = gram(feed)
    lengths = products.diagonal().sqrt()
    valid = [i for i in range(count) if float(lengths[i]) > tolerance]
    factors = torch.zeros(count, dtype=torch.float64)
    if valid:
        own = lengths[valid]
        mean = _mean_direction(products[valid][:, valid] / own / own[:, None], most, tolerance)
        factors[valid] = mean / own * float(lengths.mean())
    return weighted(feed, factors.tolist())


def _mean_direction(cosines: Tensor, most: int, tolerance: float) -> Tensor:
    """Factors of unit vectors whose sum is their Karcher mean, by at most so many steps from their normalised mean."""
    count = cosines.shape[0]
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    size = _length(weights, cosines)
    if size < tolerance:
        mean = torch.zeros_like(weights)
        mean[0] = 1
    else:
        mean = weights / size
    for _ in range(most):
        cosine = (cosines @ mean).clamp(-1, 1)
        angle = cosine.acos()
        pull = torch.where(angle < tolerance, 0.0, weights * angle / angle.sin().clamp(min=1e-12))
        step = pull - (pull @ cosine) * mean
        length = _length(step, cosines)
        if length < tolerance:
            break
        mean = math.cos(length) * mean + math.sin(length) * step / length
        size = _length(mean, cosines)
        mean = mean / size if size > tolerance else mean
    return mean


def _length(factors: Tensor, cosines: Tensor) -> float:
    return float((factors @ cosines @ factors).clamp(min=0).sqrt())


def model_stock(feed: Feed) -> Tensor:
    """base + t · mean τ, t = N cos φ / (1 + (N − 1) cos φ) with φ the mean angle of all pairs; not cut to 0 … 1."""
    products = gram(feed)
    t = float(stock_ratio(products[None])[0])
    return weighted(feed, [t / len(feed.tasks)] * len(feed.tasks))


def stock_ratio(products: Tensor) -> Tensor:
    """t of Model Stock from inner products [..., N, N]; 0 where 1 + (N − 1) cos φ vanishes."""
    count = products.shape[-1]
    lengths = products.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    scale = (lengths[..., None] * lengths[..., None, :]).clamp(min=1e-6)
    pairs = torch.ones(count, count, device=products.device).triu(1).bool()
    cosine = (products / scale).clamp(-1, 1)[..., pairs].mean(-1)
    below = 1 + (count - 1) * cosine
    singular = below.abs() < 1e-6
    return torch.where(singular, 0, count * cosine / torch.where(singular, 1, below))


COMBINATIONS: dict[str, tuple[str, Callable[[Feed], Tensor]]] = {
    "linear": ("zero", linear),
    "passthrough": ("zero", passthrough),
    "slerp": ("zero", slerp),
    "nuslerp": ("base", nuslerp),
    "multislerp": ("base", multislerp),
    "karcher": ("zero", karcher),
    "model_stock": ("base", model_stock),
}
"""By method: what the inputs are seen from, and the function."""


def seen_from(name: str) -> str:
    """What a method's inputs are seen from."""
    return COMBINATIONS[name][0] if name in COMBINATIONS else "base"


def names() -> Sequence[str]:
    """Methods that are sums of their inputs."""
    return tuple(COMBINATIONS)
