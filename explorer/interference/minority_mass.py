"""Minority mass: how much of all change is voted down when signs are elected."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference import _nulls
from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._sums import ratio, row_sums
from explorer.results import count, fraction, number


@metric(
    title="Minority mass",
    on="trimmed",
    higher_is_worse=True,
    paper="Resolving Interference When Merging Models",
    unit="share of the total size of all changes",
    how="The share of all change that points against the winning direction of its weight, and so is lost or does harm "
    "in a merge. Read it against its null: that many tasks with random signs lose this much by chance.",
    columns=(
        number("minority_mass", "size of changes against the elected sign / size of all changes", 0.0, 0.5),
        number("null", "the same after every change got a random sign", 0.0, 0.5),
        fraction("any_conflict", "of the weights that two or more tasks changed, the share with both signs"),
        fraction("any_null", "any_conflict expected if the tasks' signs were independent"),
        fraction("cancellation", "share of all change that cancels in the plain sum of task vectors"),
        count("n_positions", "weights that two or more tasks changed"),
        count("n", "all weights"),
    ),
)
def minority_mass(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
    """Share of all change that points against the elected sign of its weight.

    minority_mass = Σ_i Σ_{t : sgn τ_t,i ≠ γ_i} |τ_t,i| / Σ_i Σ_t |τ_t,i| with γ = sgn Σ_t τ_t, in [0, 0.5]; higher
    means more interference. The part against the winner of one weight is (Σ_t |τ_t| − |Σ_t τ_t|) / 2, also where the
    vote is an exact tie (whichever sign is elected, half the mass loses). So cancellation = 1 − ‖Στ‖₁ / Σ‖τ‖₁, in
    [0, 1], is exactly twice it. any_conflict = #{both signs occur} / #{≥ 2 nonzero}, in [0, 1].
    Null: the same mass after independent random sign flips of every entry, seeded by tensor, chunk start and task;
    for Gaussian changes 0.146, 0.249, 0.322 at T = 2, 4, 8. In models of more than 4 million weights, 1 block of 1024
    in 16 carries it: its standard error is below 0.2 / √(weights drawn), 0.002 for a tensor of 2^18.
    any_null: expected under independent signs with each task's own P(+) in the scope, given how many tasks changed
    each weight and every such set of tasks equally likely.
    Edges: nothing changed gives NaN; no weight changed twice gives NaN for the any_ columns; one task gives mass 0.
    Paper: Resolving Interference When Merging Models, section 3.2 (elected sign); the statistic and nulls are ours.
    """
    live = deltas[:, :0] if context.unchanged else deltas
    votes = torch.zeros(live.shape[1], dtype=torch.int16, device=live.device)
    voters = torch.zeros_like(votes)
    total = torch.zeros(live.shape[1], dtype=torch.float64, device=live.device)
    for row in live:
        sign = torch.sign(row).to(torch.int16)
        votes += sign
        voters += sign.abs()
        total += row
    signs = torch.sign(live)
    changed, signed = row_sums(signs.abs()), row_sums(signs)
    voters_hist = torch.bincount(voters, minlength=live.shape[0] + 1)
    voters_hist[0] += deltas.shape[1] - live.shape[1]
    return {
        "mass": row_sums(live.abs()).sum(),
        "sum_mass": row_sums(total.abs()),
        **_null_sums(live, context),
        "conflicts": (votes.abs() < voters).sum(),
        "voters": voters_hist,
        "plus": ((changed + signed) / 2).round().to(torch.int64),
        "minus": ((changed - signed) / 2).round().to(torch.int64),
    }


def _null_sums(live: Tensor, context: Context) -> dict[str, Tensor]:
    """Σ|τ| and Σ|Σ τ| under random signs, from the blocks of the chunk that carry the null, as if from all of them."""
    n = live.shape[1]
    first = _nulls.first_block(context.tensor, context.start, context.null_every)
    at = _nulls.blocks(n, context.null_every, first)
    total = torch.zeros(len(at), dtype=torch.float64, device=live.device)
    mass = torch.zeros_like(total)
    for task, row in zip(context.tasks, live, strict=True):
        turned = _nulls.flips(_nulls.seed_words(context.tensor, context.start, task), at).to(live.device)
        chosen = row[at.to(live.device)]
        total += torch.where(turned, -chosen, chosen)
        mass += chosen.abs()
    weight = n / max(len(at), 1)
    return {"null_mass": row_sums(mass) * weight, "null_sum_mass": row_sums(total.abs()) * weight}


@minority_mass.fused("signs", "mass")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    votes, mass = found.votes[level], found.mass[level]
    up, down = np.indices(votes.shape)
    voters = np.zeros(len(votes), np.int64)
    inside = up + down < len(votes)
    np.add.at(voters, (up + down)[inside], votes[inside])
    return {
        "mass": mass[0],
        "sum_mass": mass[1],
        "null_mass": mass[2],
        "null_sum_mass": mass[3],
        "conflicts": votes[1:, 1:].sum(),
        "voters": voters,
        "plus": found.signs[level][:, 0],
        "minus": found.signs[level][:, 1],
    }


@minority_mass.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    mass, voters, null_mass = float(total["mass"]), total["voters"], float(total["null_mass"])
    n_positions = int(voters[2:].sum())
    cancellation = ratio(max(mass - float(total["sum_mass"]), 0.0), mass)
    return [
        {
            "minority_mass": cancellation / 2,
            "null": ratio(max(null_mass - float(total["null_sum_mass"]), 0.0), null_mass) / 2,
            "any_conflict": ratio(float(total["conflicts"]), n_positions),
            "any_null": ratio(_expected_conflicts(voters, total["plus"], total["minus"]), n_positions),
            "cancellation": cancellation,
            "n_positions": n_positions,
            "n": int(voters.sum()),
        }
    ]


def _expected_conflicts(voters: np.ndarray, plus: np.ndarray, minus: np.ndarray) -> float:
    """Expected number of positions with both signs, from voters [T + 1] and the sign counts [T] of each task.

    A set of m tasks agrees with probability Π P(+) + Π P(−); its mean over all sets of m tasks is the elementary
    symmetric polynomial over the binomial coefficient.
    """
    active = (plus + minus) > 0
    chance_plus = plus[active] / (plus + minus)[active]
    all_plus, all_minus = _elementary_symmetric(chance_plus), _elementary_symmetric(1 - chance_plus)
    expected = 0.0
    for m in range(2, len(chance_plus) + 1):
        agree = (all_plus[m] + all_minus[m]) / comb(len(chance_plus), m)
        expected += float(voters[m]) * min(max(1 - agree, 0.0), 1.0)
    return expected


def _elementary_symmetric(values: np.ndarray) -> np.ndarray:
    """e_0 … e_M of M values: the coefficients of Π (1 + v x)."""
    coefficients = np.ones(1)
    for value in values:
        coefficients = np.convolve(coefficients, [1.0, float(value)])
    return coefficients
