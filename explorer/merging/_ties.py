"""TIES-Merging, step by step: trim, elect a sign, merge what agrees. Used by every method that builds on TIES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from explorer.compute.source import Chunk, Source
from explorer.merging import _fused
from explorer.merging import _parts as parts
from explorer.merging._api import Stat
from explorer.merging._fused import Steps
from explorer.merging._statistics import Statistics


@dataclass(frozen=True)
class Rule:
    """How to trim, elect and merge; the defaults are the paper's. Field meanings: see the method `ties`."""

    scope: str = "model"
    sign_rule: str = "mass"
    reduce: str = "mean"
    divisor: str = "count"
    zero_sign: str = "majority"
    trim_rule: str = "magnitude"
    trim_count: str = "inclusive"
    rescale: str = "none"
    weighting: str = "before"

    @staticmethod
    def of(parameters: Mapping[str, Any]) -> Rule:
        """The rule among a method's parameters."""
        return Rule(**{k: v for k, v in parameters.items() if k in Rule.__dataclass_fields__})


def vote_weights(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Factors [T] of the votes, and the common scale λ that multiplies their result (0-d).

    Votes are weighted by weight_t · scale_t / λ, where λ is the scale of largest magnitude; it is negative only when
    no scale is positive. Equal scales thus give exactly the paper's election, times λ.
    """
    largest = scale.abs().max()
    common = -largest if bool((scale <= 0).all()) else largest
    return weight * (scale / torch.where(common == 0, 1, common)), common


def merge(deltas: Tensor, rule: Rule, weight: Tensor, scale: Tensor, stats: Mapping[str, Tensor]) -> Tensor:
    """The merged task vector of one chunk, [n], scale applied."""
    later = rule.weighting == "after"
    factors, common = vote_weights(torch.ones_like(weight) if later else weight, scale)
    votes = _votes(deltas, rule, factors, stats)
    if rule.sign_rule == "none":
        return _merge_all(votes * parts.column(weight, votes) if later else votes, rule, weight) * common
    positive = parts.elected_positive(_election(votes, rule, factors, stats), _zero_is_positive(rule, stats))
    magnitudes = parts.agreeing(votes, positive)
    if later:
        return parts.with_sign(_reduce_weighted(magnitudes, rule, weight), positive) * common
    return parts.with_sign(_reduce(magnitudes, rule, weight), positive) * common


def prepare(
    statistics: Statistics,
    rule: Rule,
    *,
    density: Sequence[float],
    amount: Sequence[float] = (),
    weight: Sequence[float] = (),
    scale: Sequence[float] = (),
) -> dict[str, Stat]:
    """Thresholds of the trimming, then what election and rescaling need of the whole model.

    `amount` is what `trim_rule` norm_fraction or std goes by. Empty weights and scales mean 1 for every task.
    """
    ones = [1.0] * len(density)
    voting = () if rule.weighting == "after" else weight
    factors, _ = vote_weights(*(torch.tensor(list(v) or ones, dtype=torch.float64) for v in (voting, scale)))
    stats, key = _thresholds(statistics, rule, density, amount)
    if rule.rescale == "l1":
        stats["rescale"] = _rescale(statistics, rule, key, stats)
    if rule.sign_rule in ("largest_norm_share", "norm_share_mass"):
        stats["energy"] = statistics.sum(
            f"energy {key} {rule.rescale}", lambda d, s: _trimmed(d, rule, s).double().square().sum(1), given=stats
        )
    if rule.sign_rule != "none" and rule.zero_sign == "majority":
        stats["elected"] = _elected(statistics, rule, f"{key} {rule.rescale} {rule.sign_rule}", factors, stats)
    return stats


def _thresholds(
    statistics: Statistics, rule: Rule, density: Sequence[float], amount: Sequence[float]
) -> tuple[dict[str, Stat], str]:
    """What trimming compares with, and a text that tells these thresholds from all others."""
    key = f"{rule.scope} {rule.trim_rule} "
    if rule.trim_rule == "magnitude":
        found = statistics.magnitude_threshold(density, scope=rule.scope, count_rule=rule.trim_count)
        return {"threshold": found}, f"{key}{rule.trim_count} {tuple(density)}"
    if rule.trim_rule == "norm_fraction":
        fractions = [min(a, 1.0) for a in amount]
        return {"threshold": statistics.norm_threshold(fractions, scope=rule.scope)}, f"{key}{fractions}"
    mean, std = statistics.mean_and_std(scope=rule.scope)
    factor = torch.tensor(list(amount), dtype=torch.float64, device=statistics.source.device)
    return {"mean": mean, "std": std, "factor": factor}, f"{key}{tuple(amount)}"


def _rescale(statistics: Statistics, rule: Rule, key: str, stats: Mapping[str, Stat]) -> Stat:
    """Per tensor and task, what brings the L1 norm of the trimmed task vector back to that before trimming."""
    plain = replace(rule, rescale="none")

    def sums(deltas: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        before, after = (x.double().abs().sum(1) for x in (deltas, _trimmed(deltas, plain, given)))
        return torch.stack([before, after])

    total = statistics.sum(f"l1 {key}", sums, scope="tensor", given=stats)
    assert isinstance(total, dict)
    return {name: torch.where(s[1] > 0, s[0] / s[1].clamp(min=1e-300), 1.0) for name, s in total.items()}


def _elected(statistics: Statistics, rule: Rule, key: str, factors: Tensor, stats: Mapping[str, Stat]) -> Stat:
    """The sum of all elected signs of the model, a whole number."""

    def signs(deltas: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        chosen = factors.to(deltas)
        return _election(_votes(deltas, rule, chosen, given), rule, chosen, given).sign().long().sum()

    def quick(source: Source, chunk: Chunk, given: Mapping[str, Tensor]) -> Tensor | None:
        if not _is_compiled(rule, given) or not _fused.readable(source, chunk.name):
            return None
        found = _fused.balance(Steps("election", factors.float(), low=given["threshold"]), source, chunk)
        return None if found is None else torch.tensor(found)

    if len(factors) == 1:  # one task never cancels, so no tie needs a sign
        return torch.ones((), dtype=torch.int64, device=statistics.source.device)
    return statistics.sum(f"elected {key} {factors.tolist()}", signs, given=stats, quick=quick)


def _zero_is_positive(rule: Rule, stats: Mapping[str, Tensor]) -> Tensor | bool:
    # A majority of exactly 0 counts as negative, as in the published code.
    return stats["elected"] > 0 if rule.zero_sign == "majority" else rule.zero_sign == "positive"


def _trimmed(deltas: Tensor, rule: Rule, stats: Mapping[str, Tensor]) -> Tensor:
    if rule.trim_rule == "std":
        kept = parts.trim_outliers(deltas, stats["mean"], stats["std"], stats["factor"])
    else:
        kept = parts.trim(deltas, stats["threshold"])
    return kept * parts.column(stats["rescale"].to(deltas.dtype), deltas) if rule.rescale == "l1" else kept


def _votes(deltas: Tensor, rule: Rule, factors: Tensor, stats: Mapping[str, Tensor]) -> Tensor:
    """Trimmed task vectors times their vote weights, [T, n]."""
    return _trimmed(deltas, rule, stats).mul_(parts.column(factors, deltas))


def _election(votes: Tensor, rule: Rule, factors: Tensor, stats: Mapping[str, Tensor]) -> Tensor:
    """A number per position whose sign is the elected one, [n]; exactly 0 where the votes cancel or there are none."""
    if rule.sign_rule == "mass":
        return parts.task_sum(votes)
    if rule.sign_rule == "frequency":
        return parts.weighted_sum(votes.sign(), factors.abs())
    # Shares of the trimmed vector's own squared norm: a task's vote weight then counts once, not squared.
    whole = factors.abs() * stats["energy"].to(votes.dtype)
    shares = votes.square() / parts.column(torch.where(whole > 0, whole, 1), votes)
    if rule.sign_rule == "norm_share_mass":
        return parts.task_sum(shares.copysign_(votes).masked_fill_(votes == 0, 0))
    return parts.task_sum(votes.sign().masked_fill_(shares < shares.amax(0), 0))


def _reduce(magnitudes: Tensor, rule: Rule, weight: Tensor) -> Tensor:
    if rule.reduce == "sum":
        return parts.disjoint_sum(magnitudes)
    if rule.reduce == "max":
        return parts.disjoint_max(magnitudes)
    return parts.disjoint_mean(magnitudes, weight if rule.divisor == "weights" else None)


def _reduce_weighted(magnitudes: Tensor, rule: Rule, weight: Tensor) -> Tensor:
    """As `_reduce` of weight · magnitude, where an agreeing task counts in a mean whatever its weight, 0 included."""
    weighted = magnitudes * parts.column(weight, magnitudes)
    if rule.reduce != "mean":
        return _reduce(weighted, rule, weight)
    share = weight if rule.divisor == "weights" else torch.ones_like(weight)
    total = parts.task_sum((magnitudes != 0) * parts.column(share, magnitudes))
    return parts.task_sum(weighted) / torch.where(total > 0, total, 1)


def _merge_all(votes: Tensor, rule: Rule, weight: Tensor) -> Tensor:
    """Every non-zero vote merged, whatever its sign; equally large opposite ones give + under `max`."""
    if rule.reduce == "max":
        high, low = votes.amax(0), votes.amin(0)
        return torch.where(high >= -low, high, low)
    if rule.reduce == "sum":
        return parts.task_sum(votes)
    share = weight if rule.divisor == "weights" else torch.ones_like(weight)
    total = parts.task_sum((votes != 0) * parts.column(share, votes))
    return parts.task_sum(votes) / torch.where(total > 0, total, 1)


def steps(rule: Rule, weight: Tensor, scale: Tensor, stats: Mapping[str, Tensor]) -> Steps | None:
    """The same merge for the compiled pass; None for rules that it does not know."""
    if rule.weighting == "after" or not _is_compiled(rule, stats):
        return None
    factors, common = vote_weights(weight, scale)
    return Steps(
        f"elect_{rule.reduce}",
        factors,
        low=stats["threshold"],
        weights=weight if rule.divisor == "weights" else None,
        zero_is_positive=bool(_zero_is_positive(rule, stats)),
        common=float(common),
    )


def _is_compiled(rule: Rule, stats: Mapping[str, Tensor]) -> bool:
    """Whether the compiled pass knows the rule; thresholds of models that hold float64 as well are float64."""
    known = rule.sign_rule == "mass" and rule.trim_rule != "std" and rule.rescale == "none"
    return known and stats["threshold"].dtype == torch.float32
