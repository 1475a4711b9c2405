"""Cosine similarity: whether two tasks changed the weights in the same direction."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._sums import gram, pairs, ratio
from explorer.results import number, text


@metric(
    title="Cosine similarity",
    on="raw",
    higher_is_worse=None,
    paper="Editing Models with Task Arithmetic",
    unit="cosine, -1 to 1",
    how="0: the tasks changed unrelated directions and add up with little interference. Above 0: shared direction. "
    "Below 0: they undo each other. Values within about two null deviations of 0 are chance.",
    columns=(
        text("task_a", "first task of the pair"),
        text("task_b", "second task of the pair"),
        number("cosine", "cosine of the angle between the task vectors", -1.0, 1.0),
        number("dot", "dot product of the task vectors"),
        number("norm_a", "Euclidean norm of the first task vector", 0.0),
        number("norm_b", "Euclidean norm of the second task vector", 0.0),
        number("null", "cosine expected of unrelated task vectors"),
        number("null_sd", "standard deviation of the cosine when every change gets a random sign", 0.0),
    ),
)
def cosine(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
    """Cosine of the angle between two task vectors, per pair.

    cosine = ⟨τ_a, τ_b⟩ / (‖τ_a‖ ‖τ_b‖), in [-1, 1]. Neither end alone means interference: below 0 two tasks undo each
    other, above 0 they share (and add up twice). Layers and the model come from pooled dot products, never from
    averages of cosines.
    Null: 0, with standard deviation (Σ_i a_i² b_i²)^½ / (‖a‖ ‖b‖) under independent random signs.
    Partial sums of deltas [T, n]: Gram matrices of τ and of τ², [T, T] float64.
    Edges: a zero task vector gives NaN; one task gives no rows. Paper: Editing Models with Task Arithmetic, figure 5.
    """
    rows = (deltas[:, :0] if context.unchanged else deltas).to(torch.float64)
    return {"dots": gram(rows), "square_dots": gram(rows * rows)}


@cosine.fused("gram")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"dots": found.gram[0], "square_dots": found.gram[1]}


@cosine.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    dots, square_dots = total["dots"], total["square_dots"]
    rows = []
    for a, b in pairs(len(tasks)):
        norm_a, norm_b = sqrt(dots[a, a]), sqrt(dots[b, b])
        value = ratio(dots[a, b], norm_a * norm_b)
        rows.append(
            {
                "task_a": tasks[a],
                "task_b": tasks[b],
                # rounding may leave the interval by one unit in the last place; NaN passes through
                "cosine": 1.0 if value > 1 else -1.0 if value < -1 else value,
                "dot": float(dots[a, b]),
                "norm_a": norm_a,
                "norm_b": norm_b,
                "null": 0.0,
                "null_sd": ratio(sqrt(square_dots[a, b]), norm_a * norm_b),
            }
        )
    return rows
