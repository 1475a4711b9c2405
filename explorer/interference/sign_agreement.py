"""Sign agreement: how unanimous the tasks are about the direction of each weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._sums import ratio
from explorer.results import count, fraction


@metric(
    title="Sign agreement",
    on="trimmed",
    higher_is_worse=False,
    paper="Resolving Interference When Merging Models",
    unit="mean margin of the sign vote",
    how="1: every weight is pushed one way by all tasks that change it; 0: as many push up as down. Fair coins give "
    "the null, which is high for few voters: two tasks agree on half of their weights by chance.",
    columns=(
        fraction("agreement", "mean of |up − down| / (up + down) over weights that two or more tasks changed"),
        fraction("null", "the same if every sign were a fair coin, with as many voters at each weight"),
        fraction("unanimous", "share of those weights that all their voters push the same way"),
        count("n_positions", "weights that two or more tasks changed"),
        count("n", "all weights"),
    ),
)
def sign_agreement(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
    """How one-sided the vote on the direction of a weight is, over weights that two or more tasks changed.

    agreement = mean of |n⁺ − n⁻| / (n⁺ + n⁻), in [0, 1]; lower means more interference.
    Null: Σ over positions of E|2B − m| / m with B binomial(m, ½) and m voters; 1/2 for 2 and 3 voters, 3/8 for 4.
    Partial sums of deltas [T, n]: positions by number of voters, [T + 1], and by voters and margin, [T + 1, T + 1].
    Edges: weights with one voter are left out, as their vote says nothing (the published code counts them, and
    weights without any, as 1); no weight with two voters gives NaN; one task gives NaN.
    Paper: Resolving Interference When Merging Models (its code's sign agreement ratio; the mean and null are ours).
    """
    live = deltas[:, :0] if context.unchanged else deltas
    count_of = live.shape[0] + 1
    signs = torch.sign(live)
    voters, margin = signs.abs().sum(0).long(), signs.sum(0).abs().long()
    votes = torch.bincount(voters * count_of + margin, minlength=count_of * count_of)
    votes[0] += deltas.shape[1] - live.shape[1]
    return {"votes": votes.view(count_of, count_of)}


@sign_agreement.fused("signs")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    up, down = np.indices(found.votes[level].shape)
    votes = np.zeros_like(found.votes[level])
    inside = up + down < len(votes)
    np.add.at(votes, ((up + down)[inside], abs(up - down)[inside]), found.votes[level][inside])
    return {"votes": votes}


@sign_agreement.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    votes = total["votes"]
    voting = range(2, len(tasks) + 1)
    n_positions = int(votes[2:].sum())
    agreement = sum(float(votes[m, d]) * d / m for m in voting for d in range(m + 1))
    null = sum(float(votes[m].sum()) * _fair_margin(m) for m in voting)
    return [
        {
            "agreement": ratio(agreement, n_positions),
            "null": ratio(null, n_positions),
            "unanimous": ratio(sum(float(votes[m, m]) for m in voting), n_positions),
            "n_positions": n_positions,
            "n": int(votes.sum()),
        }
    ]


def sign_agreement_ratio(deltas: Tensor) -> Tensor:
    """|n⁺ − n⁻| / (n⁺ + n⁻) of every weight, [T, *shape] -> [*shape]; 1 where no task changed it, as published."""
    signs = torch.sign(deltas)
    voters = signs.abs().sum(0)
    return torch.where(voters > 0, signs.sum(0).abs() / voters.clamp(min=1), 1)


def _fair_margin(voters: int) -> float:
    """E|2B − m| / m for B binomial(m, ½): the mean margin of m fair coins."""
    return sum(comb(voters, k) * abs(2 * k - voters) for k in range(voters + 1)) / (voters * 2**voters)
