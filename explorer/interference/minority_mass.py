"""Minority mass: how much of all change is voted down when signs are elected."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference._api import Context, Totals, metric
from explorer.interference._sums import ratio, row_sums
from explorer.results import count, fraction, number

_BYTE_SIGNS = 1.0 - 2.0 * ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).to(torch.float32)
"""Row b: the eight signs ±1 that the bits of byte b stand for."""


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
    for Gaussian changes 0.146, 0.249, 0.322 at T = 2, 4, 8. any_null: expected under independent signs with each
    task's own P(+) in the scope, given how many tasks changed each weight and every such set of tasks equally likely.
    Edges: nothing changed gives NaN; no weight changed twice gives NaN for the any_ columns; one task gives mass 0.
    Paper: Resolving Interference When Merging Models, section 3.2 (elected sign); the statistic and nulls are ours.
    """
    live = deltas[:, :0] if context.unchanged else deltas
    votes = torch.zeros(live.shape[1], dtype=torch.int16, device=live.device)
    voters = torch.zeros_like(votes)
    total = torch.zeros(live.shape[1], dtype=torch.float64, device=live.device)
    null_total = torch.zeros_like(total)
    for task, row in zip(context.tasks, live, strict=True):
        sign = torch.sign(row).to(torch.int16)
        votes += sign
        voters += sign.abs()
        total += row
        null_total += row * _random_signs(row, context.generator(task))
    signs = torch.sign(live)
    changed, signed = row_sums(signs.abs()), row_sums(signs)
    voters_hist = torch.bincount(voters, minlength=live.shape[0] + 1)
    voters_hist[0] += deltas.shape[1] - live.shape[1]
    return {
        "mass": row_sums(live.abs()).sum(),
        "sum_mass": row_sums(total.abs()),
        "null_sum_mass": row_sums(null_total.abs()),
        "conflicts": (votes.abs() < voters).sum(),
        "voters": voters_hist,
        "plus": ((changed + signed) / 2).round().to(torch.int64),
        "minus": ((changed - signed) / 2).round().to(torch.int64),
    }


@minority_mass.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    mass, voters = float(total["mass"]), total["voters"]
    n_positions = int(voters[2:].sum())
    cancellation = ratio(max(mass - float(total["sum_mass"]), 0.0), mass)
    return [
        {
            "minority_mass": cancellation / 2,
            "null": ratio(max(mass - float(total["null_sum_mass"]), 0.0), mass) / 2,
            "any_conflict": ratio(float(total["conflicts"]), n_positions),
            "any_null": ratio(_expected_conflicts(voters, total["plus"], total["minus"]), n_positions),
            "cancellation": cancellation,
            "n_positions": n_positions,
            "n": int(voters.sum()),
        }
    ]


def _random_signs(row: Tensor, generator: torch.Generator) -> Tensor:
    """Independent fair signs ±1 like `row` [n]; eight per random byte, because single draws cost more."""
    drawn = torch.empty(-(-row.numel() // 8), dtype=torch.uint8).random_(0, 256, generator=generator)
    signs = _BYTE_SIGNS.index_select(0, drawn.to(torch.int32)).reshape(-1)[: row.numel()]
    return signs.to(device=row.device, dtype=row.dtype)


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
