"""Norm profile: how far, and where, each task moved the weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._sums import ratio, row_sums
from explorer.results import count, fraction, number, text


@metric(
    title="Norm profile",
    on="raw",
    higher_is_worse=None,
    paper="Editing Models with Task Arithmetic",
    unit="Euclidean norm; share of the model's squared norm",
    how="Where a task put its change. A share above its null: that part moved more than its size explains. A task "
    "whose norm dwarfs the others' will dominate a merge with equal scales.",
    columns=(
        text("task", "task"),
        number("norm", "Euclidean norm of the task vector", 0.0),
        number("relative_norm", "norm of the task vector / norm of the base weights", 0.0),
        count("n", "weights"),
        count("n_changed", "weights that the task changed"),
        fraction("changed", "n_changed / n"),
        fraction("share", "part of the task's squared norm in the whole model that lies here"),
        fraction("null", "share if the change were spread evenly over the weights the task changed"),
    ),
)
def norm_profile(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
    """Euclidean norm of each task vector, alone and relative to the base, and how many weights it changed.

    norm = ‖τ_t‖ ≥ 0; relative_norm = ‖τ_t‖ / ‖θ_0‖; share = ‖τ_t‖² here / ‖τ_t‖² in the model, in [0, 1]. Not a
    measure of interference by itself.
    Null of the share: n_changed here / n_changed in the model. Partial sums of deltas [T, n]: squared norms [T],
    squared base norm, counts.
    Edges: a zero base gives a NaN relative_norm; a task that changed nothing in the model gives NaN share and null;
    n = 0 gives a NaN changed. Paper: Editing Models with Task Arithmetic (task vectors); the profile is ours.
    """
    rows = (deltas[:, :0] if context.unchanged else deltas).to(torch.float64)
    base = context.base.to(torch.float64)
    return {
        "squared": row_sums(rows * rows),
        "base_squared": row_sums(base * base),
        "n_changed": (rows != 0).sum(1),
        "n": torch.tensor(deltas.shape[1]),
    }


@norm_profile.fused("norms")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        "squared": found.gram[0].diagonal().copy(),
        "base_squared": np.array(found.base_squared),
        "n_changed": found.changed,
        "n": np.array(found.n),
    }


@norm_profile.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    n, base_norm = int(total["n"]), sqrt(total["base_squared"])
    return [
        {
            "task": task,
            "norm": sqrt(squared),
            "relative_norm": ratio(sqrt(squared), base_norm),
            "n": n,
            "n_changed": int(changed),
            "changed": ratio(changed, n),
            "share": ratio(squared, model_squared),
            "null": ratio(changed, model_changed),
        }
        for task, squared, changed, model_squared, model_changed in zip(
            tasks, total["squared"], total["n_changed"], total.model["squared"], total.model["n_changed"], strict=True
        )
    ]
