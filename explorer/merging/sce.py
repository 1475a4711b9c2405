"""SCE: select the weights on which the tasks differ, weigh tasks by their energy, erase minority signs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._derived import values_at
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, PerBlock, PerTask, Range


@method(
    title="SCE",
    paper="FuseChat: Knowledge Fusion of Chat Models",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + Σₜ λₜ wₜ aₜ ⊙ τₜ / Σₜ wₜ aₜ,  wₜ ∝ mean(τₜ²) in the tensor,  aₜ = sign of Σ τₜ",
    when="Chat models whose updates differ in strength from tensor to tensor; the stronger one leads there.",
    when_not="A small but important task: its squared updates give it next to no weight.",
)
def sce(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), PerBlock(), "λ: factor of this task's values"] = 1.0,
    select_density: Annotated[
        float,
        Range(0, 1, open_low=True, step=0.01),
        "fraction of each tensor's differing weights kept, those on which the tasks vary most",
    ] = 1.0,
    energy_floor: Annotated[
        float,
        Range(0, 0.001, step=1e-6),
        Advanced(),
        "tensors whose mean squares sum to less weigh all tasks alike; mergekit uses 0.000001, more than many updates",
    ] = 0.0,
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Averages the values of the elected sign with weights from each task's squared updates of the tensor.

    Shapes: deltas [T, n], scale [T]; returns [n]. Variance is over tasks, the fraction counts weights of a tensor whose
    variance is not 0, as int(fraction · count) and every tie; below 1 a tensor in which that is 0 stays as in the base,
    and so does everything with one task. Votes that cancel exactly elect +. A tensor nobody changed stays as it is.
    Scales multiply values, not votes or weights.
    """
    kept = _selected(deltas, stats)
    # float64 sums: the quotient of two rounded sums would otherwise depend on the order of the tasks.
    positive = parts.elected_positive(parts.task_sum(kept.double()), True)
    agreeing = (kept > 0) & positive | (kept < 0) & ~positive
    weights = torch.where(agreeing, parts.column(_shares(stats["energy"], energy_floor), deltas), 0)
    total = parts.task_sum(weights)
    values = parts.task_sum(weights * (kept * parts.column(per_task(scale, deltas), deltas)))
    return (values / torch.where(total > 0, total, 1)).to(deltas.dtype)


@sce.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    density = parameters["select_density"]
    names = statistics.source.names
    stats: dict[str, Stat] = {}
    if density < 1:
        differing = statistics.sum("sce differing", lambda d, _: (_variance(d) != 0).sum(), scope="tensor")
        assert isinstance(differing, dict)
        wanted = {n: int(int(differing[n]) * density) if n in differing else 0 for n in names}
        found = values_at(
            statistics,
            f"sce {density}",
            lambda deltas, given, row: _variance(deltas),
            lambda name, row, n: [wanted[name]],
            rows=1,
            scope="tensor",
        )
        assert isinstance(found, dict)
        stats["border"] = {
            n: v.view(()) if wanted[n] else torch.full_like(v.view(()), torch.inf) for n, v in found.items()
        }
    energy = statistics.sum(
        f"sce energy {density}",
        lambda d, given: _selected(d, given).double().square().sum(1),
        scope="tensor",
        given=stats,
    )
    assert isinstance(energy, dict)
    sizes = {n: torch.Size(statistics.source.shape(n)).numel() for n in energy}
    return {**stats, "energy": {n: e / sizes[n] for n, e in energy.items()}}


def _selected(deltas: Tensor, stats: Mapping[str, Tensor]) -> Tensor:
    return torch.where(_variance(deltas) >= stats["border"], deltas, 0) if "border" in stats else deltas


def _variance(deltas: Tensor) -> Tensor:
    """Variance over tasks, [n] float64-summed; 0 where all tasks agree to the bit."""
    wide = deltas.double()
    mean = parts.task_sum(wide) / len(wide)
    variance = parts.task_sum((wide - mean).square_()) / len(wide)
    return torch.where((deltas == deltas[0]).all(0), 0, variance).to(deltas.dtype)


def _shares(energy: Tensor, floor: float) -> Tensor:
    """Weights of the tasks, [T] float64, sum 1; equal where the energies sum to 0 or to less than the floor."""
    total = energy.sum()
    return energy / total if bool(total > 0) and bool(total >= floor) else torch.full_like(energy, 1 / len(energy))
