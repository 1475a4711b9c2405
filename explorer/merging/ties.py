"""TIES-Merging and the variants that other implementations of the same name compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor

from explorer.merging import _ties
from explorer.merging._api import Stat, method, per_task
from explorer.merging._fused import Steps
from explorer.merging._statistics import Statistics
from explorer.params import Advanced, Choice, PerTask, Range


@method(
    title="TIES-Merging",
    paper="Resolving Interference When Merging Models",
    granularity="elementwise+threshold",
    formula="θ = θ₀ + λ · mean of trimmed τₜ over the tasks whose sign is the elected one",
    when="Several tasks whose updates disagree in sign, without data to tune on.",
    when_not="One task, or tasks that hardly overlap: trimming then only removes what was learned.",
)
def ties(
    deltas: Tensor,
    *,
    scale: Annotated[
        float, Range(-1, 2, step=0.01), PerTask(), "λ: how much of this task is added; 0 leaves it out"
    ] = 1.0,
    density: Annotated[
        float, Range(0, 1, open_low=True, step=0.01), PerTask(), "fraction of the task vector kept, largest first"
    ] = 0.2,
    reduce: Annotated[
        str,
        Choice("mean", "sum", "max", labels=("mean of agreeing tasks", "sum", "largest")),
        "how the values that agree with the elected sign are combined",
    ] = "mean",
    scope: Annotated[
        str,
        Choice("model", "tensor", labels=("whole model", "each tensor")),
        "where the kept fraction is counted: over the whole model (paper) or in each tensor",
    ] = "model",
    sign_rule: Annotated[
        str,
        Choice("mass", "frequency", "largest_norm_share", "norm_share_mass", "none"),
        "how the sign is elected: sum of values (paper), count of signs, largest share of a task's own squared norm, "
        "sum of such shares, or no election",
    ] = "mass",
    zero_sign: Annotated[
        str,
        Choice("majority", "positive", "negative"),
        Advanced(),
        "sign where the votes cancel exactly: the majority of the whole model (paper), or always the same",
    ] = "majority",
    divisor: Annotated[
        str,
        Choice("count", "weights"),
        Advanced(),
        "what a mean divides by: the number of agreeing tasks (paper) or the sum of their weights",
    ] = "count",
    weight: Annotated[
        float, Range(0, 10, step=0.05), PerTask(), Advanced(), "factor of this task's values: see weighting"
    ] = 1.0,
    weighting: Annotated[
        str,
        Choice("before", "after", labels=("before the election", "after the election")),
        Advanced(),
        "when weights act: before the election, so that they count in the vote, or only on the values merged (PEFT)",
    ] = "before",
    trim_rule: Annotated[
        str,
        Choice("magnitude", "norm_fraction", "std"),
        Advanced(),
        "what is kept: a fraction of entries (paper), of the squared norm, or entries far from the mean",
    ] = "magnitude",
    trim_amount: Annotated[
        float,
        Range(0, 10, open_low=True, step=0.05),
        PerTask(),
        Advanced(),
        "for norm_fraction the share of the squared norm kept (1 and above keeps all), for std how many deviations",
    ] = 0.9,
    trim_count: Annotated[
        str,
        Choice("inclusive", "exact"),
        Advanced(),
        "entries kept of n: int(density·n) + 1 (paper's code) or int(density·n), at least one; ties stay in both",
    ] = "inclusive",
    rescale: Annotated[
        str, Choice("none", "l1"), Advanced(), "l1 gives each trimmed tensor the absolute sum it had before"
    ] = "none",
    stats: Mapping[str, Tensor],
) -> Tensor:
    """Trims each task vector, elects one sign per weight, and merges only the values that have it.

    Shapes: deltas [T, n], per-task values [T]; returns [n]. Votes are weightₜ · (scaleₜ / λ) · trimmed τₜ with λ the
    scale of largest magnitude, so equal scales give λ times the paper's result, a negative scale turns its task's
    vote, and a task of scale 0 neither votes nor counts. Where votes cancel exactly the paper's code takes the
    majority sign of the whole model, and minus when that is zero as well. When fewer entries changed than the density
    asks for, the threshold is 0 and nothing is trimmed. Density 1 keeps everything: with one task and scale 1 the
    result is that task's model, to one float rounding. `density` matters only for trim_rule magnitude. With weighting
    after, signs are elected without the weights, and a task of weight 0 still votes and counts in the mean.
    """
    rule = _ties.Rule(scope, sign_rule, reduce, divisor, zero_sign, trim_rule, trim_count, rescale, weighting)
    return _ties.merge(deltas, rule, per_task(weight, deltas), per_task(scale, deltas), stats)


@ties.prepare
def _(statistics: Statistics, parameters: Mapping[str, Any]) -> Mapping[str, Stat]:
    return _ties.prepare(
        statistics,
        _ties.Rule.of(parameters),
        density=parameters["density"],
        amount=parameters["trim_amount"],
        weight=parameters["weight"],
        scale=parameters["scale"],
    )


@ties.fused
def _(**parameters: Any) -> Steps | None:
    return _ties.steps(_ties.Rule.of(parameters), parameters["weight"], parameters["scale"], parameters["stats"])
