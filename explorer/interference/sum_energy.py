"""Energy of the sum: whether task vectors that are added up cancel, pass each other by, or reinforce."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from explorer.interference._api import Totals, metric
from explorer.interference._sums import ratio
from explorer.interference.cosine import cosine
from explorer.results import number

sum_energy = metric(
    name="sum_energy",
    title="Energy of the sum",
    on="raw",
    higher_is_worse=None,
    paper="Editing Models with Task Arithmetic",
    unit="squared norm of the sum / sum of the squared norms",
    how="1: the tasks are orthogonal and add up untouched. Below 1: they cancel, and a merge falls short. Above 1, up "
    "to the number of tasks: they share a direction, and a merge with full scales overshoots there.",
    columns=(
        number("energy", "squared norm of the summed task vectors / sum of their squared norms", 0.0),
        number("null", "energy expected of unrelated task vectors", 0.0),
        number("null_sd", "standard deviation of the energy when every change gets a random sign", 0.0),
        number("norm_sum", "Euclidean norm of the summed task vectors", 0.0),
    ),
)(cosine.partial)


@sum_energy.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Squared length of the sum of all task vectors, beside what orthogonal ones would give.

    energy = ‖Σ_t τ_t‖² / Σ_t ‖τ_t‖², in [0, T]: the L2 partner of `cancellation`. Neither end alone means
    interference: below 1 tasks undo each other, above 1 they add up more than once.
    Null: 1, with standard deviation 2 (Σ_{a<b} Σ_i a_i² b_i²)^½ / Σ_t ‖τ_t‖² under independent random signs.
    Edges: nothing changed gives NaN; one task gives 1 with deviation 0; T equal tasks give T.
    Paper: Editing Models with Task Arithmetic (sums of task vectors; the ratio and null are ours).
    """
    dots, square_dots = total["dots"], total["square_dots"]
    squared, crossed = float(np.trace(dots)), float(np.triu(square_dots, 1).sum())
    # rounding may leave [0, T] by a unit in the last place
    together = min(max(float(dots.sum()), 0.0), len(tasks) * squared)
    return [
        {
            "energy": ratio(together, squared),
            "null": ratio(squared, squared),
            "null_sd": ratio(2 * sqrt(crossed), squared),
            "norm_sum": sqrt(together),
        }
    ]
