"""Methods that are neither sums of their inputs nor task arithmetic: SCE, RAM, NearSwap, Arcee Fusion, and by rows."""

from __future__ import annotations

import torch
from torch import Tensor

from explorer.compute.source import Chunk, deltas
from explorer.mergekit.combinations import share, stock_ratio
from explorer.mergekit.feed import Feed, merged, stored

_SMALL = 1e-6


def _base(feed: Feed, chunk: Chunk, like: Tensor) -> Tensor:
    return feed.base(chunk.name, chunk.start, chunk.stop).to(like.dtype)


def nearswap(feed: Feed) -> Tensor:
    """base + w · τ with w = t / |τ|, at most 1: nothing moves further than t."""
    t = float(feed.out.shared["t"])

    def by_torch(chunk: Chunk) -> Tensor:
        change = deltas(feed, chunk)[0]
        base = _base(feed, chunk, change)
        weight = (t / change.abs().clamp(min=_SMALL)).clamp(0, 1)
        return weight * (base + change) + (1 - weight) * base

    return merged(feed, None, by_torch)


def ram(feed: Feed, *, boost: float = 0.0, limit: float = 0.0) -> Tensor:
    """What one task alone changed is added whole (or enlarged), what several changed is averaged."""
    threshold = float(feed.out.shared["epsilon"])
    growth = torch.ones(len(feed.tasks))
    if boost:
        counts = torch.zeros(2, len(feed.tasks), dtype=torch.float64)
        for chunk in feed.chunks():
            changed = deltas(feed, chunk).abs() > threshold
            alone = changed.sum(0) == 1
            counts += torch.stack([(changed & ~alone).sum(1), (changed & alone).sum(1)]).double().cpu()
        ratio = counts[0] / counts[1].clamp(min=threshold)
        growth = 1 + boost * ratio.nan_to_num(0).clamp(0, limit)

    def by_torch(chunk: Chunk) -> Tensor:
        values = deltas(feed, chunk)
        changed = values.abs() > threshold
        count = changed.sum(0)
        kept = torch.where(changed, values, 0)
        grown = kept * growth.to(kept).view(-1, 1)
        parts = torch.where(count == 1, grown, kept / count.clamp(min=1))
        return parts.sum(0) + _base(feed, chunk, values)

    return merged(feed, None, by_torch)


def ramplus_tl(feed: Feed) -> Tensor:
    """RAM with unique changes enlarged by 1 + r · min(shared / unique, α), counted in the tensor."""
    return ram(feed, boost=float(feed.out.shared["r"]), limit=float(feed.out.shared["alpha"]))


def sce(feed: Feed) -> Tensor:
    """Selects by variance over tasks, weighs tasks by their mean squares, erases what has not the elected sign."""
    border = _border(feed, float(feed.out.shared["select_topk"]))
    energy = torch.zeros(len(feed.tasks), dtype=torch.float64, device=feed.device)
    for chunk in feed.chunks():
        energy += _selected(deltas(feed, chunk), border).double().square().sum(1)
    energy /= max(1, feed.size)
    total = float(energy.sum())
    weights = torch.full_like(energy, 1 / max(1, len(energy))) if total < _SMALL else energy / total

    def by_torch(chunk: Chunk) -> Tensor:
        kept = _selected(deltas(feed, chunk), border)
        majority = torch.where(kept.sum(0) >= 0, 1, -1).to(kept.dtype)
        own = weights.to(kept).view(-1, 1) * (kept.sign() == majority)
        return (kept * own).sum(0) / own.sum(0).clamp(min=_SMALL) + _base(feed, chunk, kept)

    return merged(feed, None, by_torch)


def _border(feed: Feed, density: float) -> float:
    """The variance from which on a weight is selected; 0 selects all, infinity none."""
    if density >= 1:
        return 0.0
    found = [_variance(deltas(feed, chunk)) for chunk in feed.chunks()]
    variance = torch.cat(found) if found else torch.zeros(0)
    wanted = int(int((variance != 0).sum()) * density) if density > 0 else 0
    return float(variance.kthvalue(variance.numel() - wanted + 1).values) if wanted else float("inf")


def _variance(values: Tensor) -> Tensor:
    return values.var(0, unbiased=False)


def _selected(values: Tensor, border: float) -> Tensor:
    return torch.where(_variance(values) >= border, values, 0) if border > 0 else values


def arcee_fusion(feed: Feed) -> Tensor:
    """The base with those changes whose |τ| · KL(softmax rows) is at least median + 1.5 · interquartile range.

    Quantiles are exact; mergekit samples a million values at random of a larger tensor.
    """
    (donor,) = feed.places
    base_place = feed.out.base
    assert base_place is not None
    base, other = feed.values(base_place), feed.values(donor)
    if not base.numel():
        return stored(base, feed, feed.out.dtype).cpu()
    flat = base.dim() == 0
    first, second = (x.reshape(1) if flat else x for x in (base, other))
    importance = _importance(second, first).reshape(-1)
    places = [int(q * (importance.numel() - 1)) + 1 for q in (0.25, 0.5, 0.75)]
    low, middle, high = (importance.kthvalue(k).values for k in places)
    chosen = (importance >= middle + 1.5 * (high - low)).view(first.shape)
    return stored(first + (second - first) * chosen.to(first.dtype), feed, feed.out.dtype).view(base.shape).cpu()


def _importance(new: Tensor, old: Tensor) -> Tensor:
    """|τ| times the divergence of its row, block by block of rows so that little is held twice."""
    width = new.shape[-1]
    rows, before = new.reshape(-1, width), old.reshape(-1, width)
    step = max(1, (1 << 20) // max(1, width))
    parts = []
    for start in range(0, rows.shape[0], step):
        a, b = rows[start : start + step], before[start : start + step]
        p, q = a.softmax(-1) + 1e-8, b.softmax(-1) + 1e-8
        parts.append((a - b).abs() * (p * (p / q).log()).sum(-1, keepdim=True))
    return torch.cat(parts).view(new.shape)


def nuslerp_rows(feed: Feed) -> Tensor:
    """NuSLERP with an angle for every row along the last axis, or along the first with nuslerp_row_wise."""
    t, base_place = share(feed), feed.out.base
    base = feed.values(base_place) if base_place is not None else None
    first, second = (feed.values(p) - base if base is not None else feed.values(p) for p in feed.places)
    axis = 0 if feed.out.shared["nuslerp_row_wise"] else -1
    if first.dim() == 0:
        first, second, axis = first.view(1), second.view(1), 0
    lengths = [x.norm(dim=axis, keepdim=True).clamp(min=1e-7) for x in (first, second)]
    cosine = ((first / lengths[0]) * (second / lengths[1])).sum(axis, keepdim=True).clamp(-1, 1)
    straight = 1 - cosine.square() <= 1e-16
    angle = torch.where(straight, 0, cosine).acos()
    turned = (((1 - t) * angle).sin() * first + (t * angle).sin() * second) / angle.sin()
    result = torch.where(straight, (1 - t) * first + t * second, turned).view(feed.out.shape)
    return stored(result if base is None else result + base, feed, feed.out.dtype).cpu()


def model_stock_rows(feed: Feed) -> Tensor:
    """Model Stock with a ratio for every row along the last axis; a vector is one row."""
    columns = feed.out.shape[-1] if feed.out.shape else 1

    def by_torch(chunk: Chunk) -> Tensor:
        values = deltas(feed, chunk)
        rows = values.view(len(values), -1, columns).movedim(0, 1)
        t = stock_ratio(rows.double() @ rows.double().transpose(1, 2)).to(values.dtype)
        return (rows.mean(1) * t[:, None]).reshape(-1) + _base(feed, chunk, values)

    return merged(feed, None, by_torch, unit=columns)


OWN = {
    "nearswap": nearswap,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
    "sce": sce,
    "arcee_fusion": arcee_fusion,
}
