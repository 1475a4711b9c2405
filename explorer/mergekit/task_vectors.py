"""The family of task arithmetic with mergekit's semantics: θ = base + λ · Σ wₜ · sparse τₜ, added or elected.

Differences from the methods of the same names here: trimming is per tensor; kept entries grow by the ratio of L1 norms,
never by 1 / density; signs are elected by weighted, trimmed values, and 0 counts as +; a normalised sum is divided by
the sum of the weights that agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from explorer.compute import readiness, select
from explorer.compute.source import Chunk, deltas
from explorer.mergekit.feed import CHUNK, Feed, merged
from explorer.mergekit.methods import Method
from explorer.merging import _draws, _fused
from explorer.merging._fused import Steps
from explorer.merging.della import keep_probability

_TINY = 1e-7
"""L1 norms below this are left alone."""


@dataclass(frozen=True)
class Sparse:
    """What happens to one task vector: |τ| outside low … high becomes 0, or a draw decides; `growth` follows.

    `spread` not None: the chance to be kept goes with the rank within a row, from keep − spread to keep + spread.
    `above` and `below`: how many entries should be at least `low`, and at most `high`; values tied with the last one
    kept stay as well, and more may be.
    """

    low: float = 0.0
    high: float = float("inf")
    keep: float = 1.0
    spread: float | None = None
    growth: float = 1.0
    above: int | None = None
    below: int | None = None

    @property
    def changes(self) -> bool:
        """Whether anything is dropped."""
        return self.low > 0 or self.high < float("inf") or self.keep < 1

    def applied(self, delta: Tensor, start: int, seed: int, columns: int) -> Tensor:
        """What is left of τ [n], before growth; with ranks, n is whole rows."""
        if self.spread is not None and self.keep < 1:
            rows = delta.view(-1, columns)
            chance = keep_probability(rows.to(torch.float32), self.keep, self.spread).view(-1)
            return torch.where(_draws.uniform(seed, start, delta.numel(), delta.device) < chance, delta, 0)
        if self.keep < 1:
            return torch.where(_draws.keep(seed, start, delta.numel(), self.keep, delta.device), delta, 0)
        size = delta.abs()
        return torch.where((size >= self.low) & (size <= self.high), delta, 0)


def merge(feed: Feed, method: Method) -> Tensor:
    """The merged tensor, stored."""
    out = feed.out
    if not feed.tasks:
        return merged(feed, None, lambda c: feed.base(c.name, c.start, c.stop))
    each = [out.each[i] for i in feed.places]
    sparse = [_sparse(feed, index, values, method) for index, values in enumerate(each)]
    if out.shared["rescale"]:
        sparse = [replace(s, growth=_growth(feed, i, s)) if s.changes else s for i, s in enumerate(sparse)]
    weights = [float(e["weight"]) for e in each]
    columns = _draws.row_length(out.shape)
    ranked = any(s.spread is not None for s in sparse)
    return merged(
        feed,
        _steps(sparse, weights, out.shared, method),
        lambda chunk: _by_torch(feed, chunk, sparse, weights, method, columns),
        unit=columns if ranked else 1,
    )


def _sparse(feed: Feed, index: int, values: Any, method: Method) -> Sparse:
    """Thresholds and chances of one task vector."""
    density, n = float(values["density"]), feed.size
    if method.sparsify is None or density >= 1 or n == 0:
        return Sparse(spread=0.0 if method.sparsify == "ranked" else None)
    if method.sparsify == "outliers":
        return _between(feed, index, int(density * n), int(float(values["gamma"]) * n))
    if density <= 0:
        return Sparse(low=float("inf")) if method.sparsify == "magnitude" else _none(method)
    if method.sparsify == "magnitude":
        count = max(1, int(density * n))
        return Sparse(low=float(select.kth_largest(select.scan(feed, index), count)), above=count)
    return Sparse(keep=density, spread=float(values["epsilon"]) if method.sparsify == "ranked" else None)


def _none(method: Method) -> Sparse:
    """Everything is dropped by chance."""
    return Sparse(keep=0.0, spread=0.0 if method.sparsify == "ranked" else None)


def _between(feed: Feed, index: int, wanted: int, top: int) -> Sparse:
    """Magnitudes of the first and last entry kept: `wanted` of them below the `top` largest, more if those are few."""
    bottom = max(0, feed.size - wanted - top)
    if wanted == 0:
        return Sparse(low=float("inf"))
    ranks = [feed.size - bottom, feed.size - bottom - wanted + 1]
    low, high = select.at_ranks(select.scan(feed, index), ranks)
    return Sparse(low=float(low), high=float(high), above=feed.size - bottom, below=bottom + wanted)


def _growth(feed: Feed, index: int, sparse: Sparse) -> float:
    """Σ|τ| / Σ|what is left|; 1 where either is next to nothing.

    Of values tied with a threshold only as many count as mergekit keeps, so that all others grow as they do there.
    """
    before, after, above, below = _l1(feed, index, sparse)
    if sparse.above is not None:
        after -= (above - sparse.above) * sparse.low
    if sparse.below is not None:
        after -= (below - sparse.below) * sparse.high
    return 1.0 if before < _TINY or after < _TINY else before / after


def _l1(feed: Feed, index: int, sparse: Sparse) -> tuple[float, float, int, int]:
    """Σ|τ| before and after, and how many entries are at least low and at most high."""
    columns = _draws.row_length(feed.out.shape)
    unit = columns if sparse.spread is not None else 1
    compiled = feed.device.type == "cpu" and readiness.ready() and _fused.readable(feed, feed.out.name)
    before, after, above, below = 0.0, 0.0, 0, 0
    for chunk in feed.chunks(unit, _fused.FUSED_CHUNK_ELEMENTS if compiled else CHUNK):
        found = (_l1_compiled if compiled else _l1_by_torch)(feed, index, sparse, chunk, columns)
        before, after, above, below = before + found[0], after + found[1], above + found[2], below + found[3]
    return before, after, above, below


def _l1_by_torch(feed: Feed, index: int, sparse: Sparse, chunk: Chunk, columns: int) -> tuple[float, float, int, int]:
    base = feed.base(chunk.name, chunk.start, chunk.stop)
    wide = torch.promote_types(base.dtype, torch.float32)
    delta = feed.task(index, chunk.name, chunk.start, chunk.stop).to(wide) - base.to(wide)
    kept = sparse.applied(delta, chunk.start, feed.seeds[index], columns)
    size = delta.abs()
    counts = int((size >= sparse.low).sum()), int((size <= sparse.high).sum())
    return float(size.double().sum()), float(kept.double().abs().sum()), *counts


def _l1_compiled(feed: Feed, index: int, sparse: Sparse, chunk: Chunk, columns: int) -> tuple[float, float, int, int]:
    import numpy as np

    from explorer.mergekit import _l1_kernels as loops

    base = feed.base(chunk.name, chunk.start, chunk.stop).contiguous()
    task = feed.task(index, chunk.name, chunk.start, chunk.stop).contiguous()
    low_word, high_word = _fused.seed_words([feed.seeds[index]])[0]
    where = (base.data_ptr(), _fused.KINDS[base.dtype], task.data_ptr(), _fused.KINDS[task.dtype], base.numel())
    if sparse.spread is not None and sparse.keep < 1:
        table = _draws.chances(sparse.keep, sparse.spread, columns, dtype=torch.float32).numpy()
        found = loops.ranked_sums(table, *where, chunk.start, low_word, high_word)
    else:
        limit = np.int32(min(max(round(sparse.keep * 2**32) - 2**31, -(2**31)), 2**31 - 1))
        ends = (np.float32(sparse.low), np.float32(sparse.high))
        found = loops.sums(*where, chunk.start, *ends, sparse.keep < 1, low_word, high_word, limit)
    return float(found[0]), float(found[1]), int(found[2]), int(found[3])


def _steps(sparse: list[Sparse], weights: list[float], shared: Any, method: Method) -> Steps | None:
    """The same for the compiled pass; None for weights whose sums it does not divide by as mergekit does."""
    divides = bool(shared["normalize"])
    if method.elects and divides and min(weights) < 0:
        return None
    factors = torch.tensor([w * s.growth for w, s in zip(weights, sparse, strict=True)], dtype=torch.float32)
    common, more = float(shared["lambda"]), _fields(sparse)
    if not method.elects:
        total = sum(weights)
        return Steps("sum", factors, divisor=total if divides and abs(total) >= 1e-8 else 1.0, common=common, **more)
    kind = "elect_mean" if divides else "elect_sum"
    own = torch.tensor(weights, dtype=torch.float32) if divides else None
    return Steps(kind, factors, weights=own, common=common, zero_is_positive=True, **more)


def _fields(sparse: list[Sparse]) -> dict[str, Any]:
    if any(s.spread is not None for s in sparse):
        return {"keep": [s.keep for s in sparse], "spread": [s.spread or 0.0 for s in sparse]}
    if any(s.keep < 1 for s in sparse):
        return {"keep": [s.keep for s in sparse]}
    if any(s.changes for s in sparse):
        ends = [torch.tensor([getattr(s, end) for s in sparse], dtype=torch.float32) for end in ("low", "high")]
        return {"low": ends[0], "high": ends[1] if any(s.high < float("inf") for s in sparse) else None}
    return {}


def _by_torch(
    feed: Feed, chunk: Chunk, sparse: list[Sparse], weights: list[float], method: Method, columns: int
) -> Tensor:
    """One chunk of merged weights, in arithmetic precision."""
    votes = deltas(feed, chunk)
    for index, one in enumerate(sparse):
        if one.changes:
            votes[index] = one.applied(votes[index], chunk.start, feed.seeds[index], columns) * one.growth
    own = torch.tensor(weights, dtype=votes.dtype, device=votes.device).view(-1, 1)
    votes *= own
    if method.elects:
        majority = torch.where(votes.sum(0) >= 0, 1, -1).to(votes.dtype)
        agree = votes.sign() == majority
        votes, share = votes * agree, (own * agree).sum(0)
        share[share == 0] = 1
    else:
        share = own.sum(0)
        share[share.abs() < 1e-8] = 1
    total = votes.sum(0)
    if feed.out.shared["normalize"]:
        total = total / share
    return feed.base(chunk.name, chunk.start, chunk.stop).to(total.dtype) + total * float(feed.out.shared["lambda"])
