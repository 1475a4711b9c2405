"""Model Breadcrumbs: drop the smallest and the very largest changes of each task, then add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._combine import Elect, Reduce, Weight, combine, steps
from explorer.merging._fused import Steps
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, Choice, PerBlock, PerTask, Range


@method(
    title="Model Breadcrumbs",
    paper="Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + Σₜ λₜ mₜ ⊙ τₜ,  mₜ = 0 on the smallest and on the largest entries of |τₜ|",
    when="Many tasks: settings found on a few of them keep working when more are added.",
    when_not="Small tensors and short rows matter much: counted there, a small fraction is no entry at all.",
)
def breadcrumbs(
    deltas: Tensor,
    *,
    scale: Annotated[
        float, Range(-1, 2, step=0.01), PerTask(), PerBlock(), "λ: how much of this task's vector is added"
    ] = 0.3,
    drop_smallest: Annotated[
        float, Range(0, 1, step=0.01), PerTask(), "fraction of entries dropped among the smallest changes"
    ] = 0.85,
    drop_largest: Annotated[
        float, Range(0, 1, step=0.001), PerTask(), "fraction of entries dropped among the largest changes (outliers)"
    ] = 0.007,
    scope: Annotated[
        str,
        Choice("tensor", "row", labels=("each tensor", "each row")),
        "where the fractions are counted: in each tensor (paper, mergekit) or along the last dimension (authors' code)",
    ] = "tensor",
    elect: Elect = "none",
    reduce: Reduce = "sum",
    count_rule: Annotated[
        str,
        Choice("drop", "keep", "keep_first"),
        Advanced(),
        "entries of n, s and g the fractions dropped: drop int(s·n) and int(g·n); keep int((1−s−g)·n) below the "
        "int(g·n) largest (authors, mergekit); or cut the int(g·n) largest out of the int((1−s)·n) largest",
    ] = "drop",
    weight: Weight = 1.0,
    stats: Mapping[str, Tensor],
    offset: int = 0,
) -> Tensor:
    """Adds task vectors whose smallest and largest changes were dropped.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. Fractions of 0 drop nothing: task arithmetic, bit for bit.
    Fractions that leave no entry give the base. Entries tied with the last one kept at either end stay. A scalar is
    never dropped under `drop`, nor under scope row; `keep` drops it, and every row shorter than 1 / (1 − s − g), as
    published: a 3x3 convolution then vanishes along its rows. The paper writes β for the rank below which changes are
    dropped and γ for the rank above which they are; its code and mergekit use the same letters for other fractions.
    With elect mass this is breadcrumbs_ties.
    """
    low, high = stats["low"], stats["high"]
    if scope == "row":
        low, high = (_spread(t, int(stats["columns"]), offset, deltas.shape[1]) for t in (low, high))
    else:
        low, high = parts.column(low, deltas), parts.column(high, deltas)
    size = deltas.abs()
    crumbs = torch.where((size >= low) & (size <= high), deltas, 0)
    return combine(crumbs, per_task(scale, deltas), per_task(weight, deltas), elect=elect, reduce=reduce)


def kept_ranks(smallest: float, largest: float, n: int, rule: str) -> tuple[int, int]:
    """How many of n entries are cut at the top, and how many from the top on are seen at all; (cut, seen)."""
    cut = _whole(largest * n)
    if rule == "drop":
        return cut, n - _whole(smallest * n)
    seen = _whole((1 - smallest) * n) if rule == "keep_first" else cut + _whole((1 - smallest - largest) * n)
    return cut, min(seen, n)


@breadcrumbs.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    scope, rule = parameters["scope"], parameters["count_rule"]
    fractions = list(zip(parameters["drop_smallest"], parameters["drop_largest"], strict=True))

    def ends(task: int, n: int) -> Sequence[int]:
        cut, seen = kept_ranks(*fractions[task], n, rule)
        return seen, cut + 1

    low, high = statistics.magnitudes_at(ends, keys=[("crumbs", rule, f) for f in fractions], scope=scope)
    assert isinstance(low, dict)
    assert isinstance(high, dict)
    for name, size in _sizes(statistics, scope).items():
        for task, fraction in enumerate(fractions):
            cut, seen = kept_ranks(*fraction, size, rule)
            if size and cut >= seen and (statistics.source.shape(name) or scope == "tensor"):
                low[name][task] = torch.inf  # nothing is left
            elif not statistics.source.shape(name) and scope == "row":
                low[name][task], high[name][task] = 0, torch.inf  # a scalar has no row
    columns = {n: torch.tensor((statistics.source.shape(n) or (1,))[-1]) for n in low}
    return {"low": low, "high": high, "columns": columns}


def _sizes(statistics: Statistics, scope: str) -> dict[str, int]:
    """Entries among which a fraction is counted, by tensor name."""
    shapes = {name: statistics.source.shape(name) for name in statistics.source.names}
    if scope == "row":
        return {name: (shape or (1,))[-1] for name, shape in shapes.items()}
    return {name: torch.Size(shape).numel() for name, shape in shapes.items()}


def _whole(count: float) -> int:
    """The whole part of a product of a fraction and a count; 0.2 · 5 is 1, whatever its last bit."""
    return int(count + 1e-9 * (1 + abs(count)))


def _spread(per_row: Tensor, columns: int, offset: int, count: int) -> Tensor:
    """Values per row [T, rows] at the positions offset … offset + count of the flat tensor, [T, count]."""
    first, last = offset // columns, (offset + count - 1) // columns
    repeated = per_row[:, first : last + 1].repeat_interleave(columns, dim=1)
    return repeated[:, offset - first * columns :][:, :count]


@breadcrumbs.fused
def _(
    *, scale: Tensor, weight: Tensor, scope: str, elect: str, reduce: str, stats: Mapping[str, Tensor], **_: Any
) -> Steps | None:
    if scope == "row":
        return None
    return steps(scale, weight, elect=elect, reduce=reduce, low=stats["low"], high=stats["high"])
