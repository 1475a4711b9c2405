"""PCB-Merging: every weight of every task gets a score from its size and from how it agrees with the other tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.compute.source import numel
from explorer.merging import _curves
from explorer.merging import _parts as parts
from explorer.merging._api import Stat, method, per_task
from explorer.merging._derived import extremes, values_at
from explorer.merging._fused import Steps
from explorer.merging._scores import borders
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, Choice, PerBlock, PerTask, Range

ALL = slice(None)
CLAMPED = {"paper": 0.0, "es": 0.01, "vision": 0.01, "nlp": 0.01, "root": 0.0001}
COMPILED = {"es": "pairs", "vision": "signed", "nlp": "raw", "root": "raw"}


@method(
    title="PCB-Merging",
    paper="Parameter Competition Balancing for Model Merging",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + Σₜ λₜ sₜ ⊙ τₜ / Σₜ sₜ,  sₜ = score of τₜ within its task times agreement with the others, "
    "0 outside the top fraction",
    when="Tasks that fight over the same weights: each weight goes mostly to the tasks that need it and agree on it.",
    when_not="Little memory for a preparation of several passes, or one task: weak weights are dropped even then.",
)
def pcb(
    deltas: Tensor,
    *,
    scale: Annotated[float, Range(-1, 2, step=0.01), PerTask(), PerBlock(), "λ: factor of this task's values"] = 1.2,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), "fraction of each task's weights kept, highest scores first"
    ] = 0.05,
    variant: Annotated[
        str,
        Choice("es", "vision", "nlp", "root", "paper"),
        Advanced(),
        "which published code: pcb_ES.py (pairwise agreement, closest to the paper), pcb.py of the vision experiments, "
        "that of the language experiments, pcb-merging.py of the repository's root; or the formulas of the paper",
    ] = "es",
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Averages task vectors with scores that balance competition within a task and between tasks.

    Shapes: deltas [T, n], scale [T]; returns [n]. Magnitudes are first clamped to their quantiles q and 1 − q of the
    whole model and mapped to ν in 0 … 1. Score = exp(T ν²) · agreement, where agreement is Σⱼ tanh(ν̃ₜ ν̃ⱼ) with signed ν̃
    (es), tanh(τₜ Σⱼ ν̃ⱼ) (vision) or tanh(τₜ Σⱼ τⱼ) (nlp, root); q is 0.01, in root 0.0001. Scores below the top
    fraction are raised to its border and all are mapped to 0 … 1: the weakest survivors count almost nothing, the
    border itself exactly nothing. Variant paper, which no published code follows: score = softmax(T · norm(τₜ²)) ·
    Σⱼ softmax(norm(τₜ τⱼ)) over the whole model, norm mapping to 0 … 1, used as it is in the top fraction and 0
    outside, without clamping. Frozen weights count in every fraction. Where no task has a score the base stays. A task
    equal to the base counts nowhere in the published variants, where their code gives NaN. Scales multiply values, not
    scores, so a task of scale 0 still competes.
    """
    clamped = _clamped(deltas, stats)
    shares = _score_shares(_score(deltas, stats, variant), stats, variant)
    # float64 sums: the quotient of two rounded sums would otherwise depend on the order of the tasks.
    weighted = clamped.double().mul_(shares).mul_(parts.column(per_task(scale, deltas), deltas))
    total = parts.task_sum(shares.double()).clamp_(min=1e-12)
    return (parts.task_sum(weighted) / total).to(deltas.dtype)


@pcb.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    variant, density = parameters["variant"], parameters["density"]
    part, count = CLAMPED[variant], len(statistics.source.tasks)

    def quantiles(task: int, n: int) -> tuple[int, int]:
        return n - int(n * part), n - int(n * (1 - part) - 1)

    low, high = statistics.magnitudes_at(quantiles, keys=[("pcb", part)] * count)
    stats: dict[str, Stat] = {"low": low, "high": high}

    def rank(n: int) -> int:
        return n - int(n * (1 - density))

    def compiled() -> Tensor | None:
        if variant == "paper" or not isinstance(low, Tensor) or low.dtype != torch.float32:
            return None
        steps = _steps(variant, torch.ones(count), stats)
        return borders(steps, statistics.source, rank, statistics.executor, statistics.cancel)

    found = statistics.kept(("pcb borders", variant, density), compiled)
    if found is not None:
        return {**stats, "border": found[:, 0], "best": found[:, 1]}
    if variant == "paper":
        stats |= _paper_statistics(statistics, count)
    ends = values_at(
        statistics,
        f"pcb {variant} {density}",
        lambda deltas, given, task: _score(deltas, given, variant, slice(task, task + 1))[0],
        lambda name, task, n: (rank(n), 1),
        rows=count,
        width=2,
        given=stats,
    )
    assert isinstance(ends, Tensor)
    return {**stats, "border": ends[:, 0], "best": ends[:, 1]}


@pcb.fused
def _(*, scale: Tensor, variant: str, stats: Mapping[str, Tensor], **_: Any) -> Steps | None:
    known = variant in COMPILED and all(stats[k].dtype == torch.float32 for k in ("low", "border"))
    return _steps(variant, scale, stats) if known else None


def _steps(variant: str, scale: Tensor, stats: Mapping[str, Any]) -> Steps:
    low, high, border, best = (stats.get(key) for key in ("low", "high", "border", "best"))
    return Steps(COMPILED[variant], scale, low=low, high=high, border=border, best=best)


def _clamped(deltas: Tensor, stats: Mapping[str, Tensor]) -> Tensor:
    """Task vectors with magnitudes clamped to the task's quantiles; a zero stays 0."""
    low, high = (parts.column(stats[k], deltas).to(deltas.dtype) for k in ("low", "high"))
    return deltas.abs().clamp_(min=low).clamp_(max=high).mul_(deltas.sign())


def _score(deltas: Tensor, stats: Mapping[str, Tensor], variant: str, tasks: slice = ALL) -> Tensor:
    """Scores of some tasks before the top fraction is taken, [tasks, n]."""
    if variant == "paper":
        within, between = _softmax_parts(deltas, stats, tasks)
        between = between.div_(stats["between"][tasks, :, None])
        return (within / stats["within"][tasks, None]).mul_(between.sum(1)).to(deltas.dtype)
    low, high = (parts.column(stats[k], deltas).to(deltas.dtype) for k in ("low", "high"))
    size = deltas.abs().clamp_(min=low).clamp_(max=high)
    relative = _unit(size, low, high)
    within = _curves.exp(relative[tasks].square() * len(deltas))
    signed = relative.mul_(deltas.sign())
    if variant == "es":
        agreement = torch.stack([parts.task_sum(_curves.tanh_within_1(row * signed).double()) for row in signed[tasks]])
        return within.mul_(agreement.to(deltas.dtype))
    others = parts.task_sum((signed if variant == "vision" else deltas).double()).to(deltas.dtype)
    return within.mul_(_curves.tanh(deltas[tasks] * others))


def _pairs(deltas: Tensor, tasks: slice = ALL) -> Tensor:
    """τₛ τₜ for some tasks s and every t, [tasks, T, n] float64."""
    wide = deltas.double()
    return wide[tasks, None] * wide[None]


def _softmax_parts(deltas: Tensor, stats: Mapping[str, Tensor], tasks: slice = ALL) -> tuple[Tensor, Tensor]:
    """Numerators of the two softmaxes of the paper: within a task [tasks, n], between tasks [tasks, T, n]."""
    relative = _unit(_pairs(deltas, tasks), stats["least"][tasks, :, None], stats["most"][tasks, :, None])
    chosen = torch.arange(len(deltas), device=deltas.device)[tasks]
    own = relative[torch.arange(len(chosen), device=deltas.device), chosen]
    return (own * len(deltas)).exp_(), relative.exp()


def _paper_statistics(statistics: Statistics, count: int) -> dict[str, Stat]:
    """Extremes of all products of two task vectors, and mean numerators: denominators of the softmaxes over n."""
    ends = extremes(statistics, "pcb products", lambda deltas, _: _pairs(deltas).flatten(0, 1), rows=count * count)
    stats: dict[str, Stat] = {key: end.view(count, count) for key, end in zip(("least", "most"), ends, strict=True)}

    def numerators(deltas: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        within, between = _softmax_parts(deltas, given)
        return torch.cat([within.sum(1)[:, None], between.sum(2)], dim=1)

    sums = statistics.sum("pcb softmax", numerators, given=stats)
    assert isinstance(sums, Tensor)
    mean = sums / max(1, sum(numel(statistics.source, name) for name in statistics.source.names))
    if mean.dim() == 0:  # a model without weights
        return stats
    return {**stats, "within": mean[:, 0], "between": mean[:, 1:]}


def _score_shares(score: Tensor, stats: Mapping[str, Tensor], variant: str) -> Tensor:
    border, best = (parts.column(stats[k], score).to(score.dtype) for k in ("border", "best"))
    if variant == "paper":
        return torch.where(score >= border, score, 0)
    return _unit(torch.maximum(score, border), border, best)


def _unit(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values mapped linearly from low … high to 0 … 1; 0 where the two ends are one."""
    width = high - low
    return (values - low) / torch.where(width > 0, width, 1) * (width > 0)
