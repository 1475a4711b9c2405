"""WUDI loss: how much the other tasks' updates disturb what a task's own update reacts to."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from explorer.compute.singular import EXACT_SIDE
from explorer.interference._api import Totals, metric
from explorer.interference._matrices import MatrixContext
from explorer.interference._sums import ratio
from explorer.params import Range
from explorer.results import count, number, text

PROBES = 128
"""Random mixtures of what is left of a large matrix beside its strongest directions."""


@metric(
    title="WUDI layer loss",
    on="matrix",
    higher_is_worse=True,
    paper="Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors",
    unit="share of the squared output that the task's own update gives",
    how="A task's own update stands for the inputs it has learned from. 0: on these inputs the merged model does just "
    "what the task wants. 1: the error is as large as the whole effect of its update. Unrelated tasks disturb each "
    "other too, and more so the larger they are: compare with the null.",
    columns=(
        text("task", "task that is disturbed"),
        number("disturbance", "loss / the loss of leaving the task's update out altogether", 0.0),
        number("null", "disturbance when every other task reads random input directions", 0.0),
        number("loss", "Σ ‖(M − τ_t) τ_tᵀ‖² / ‖τ_t‖² over the matrices", 0.0),
        count("n_matrices", "matrices that the task changed"),
        count("n_sketched", "matrices whose products are estimated"),
    ),
)
def wudi_loss(deltas: Tensor, *, context: MatrixContext) -> dict[str, Tensor]:
    """Squared disturbance of each task's own inputs by the merged update M = λ Σ τ_t.

    loss_t = Σ over matrices of ‖(M − τ_t) τ_tᵀ‖² / ‖τ_t‖², with matrices as stored, outputs x inputs; the rows of τ_t
    stand for the task's inputs. disturbance = loss_t / Σ ‖τ_t τ_tᵀ‖² / ‖τ_t‖², the same with M = 0; ≥ 0, higher means
    more interference. `scale` λ needs no new pass: the loss is λ² C − 2 λ (1 − λ) D + (1 − λ)² O with additive
    C = ‖R τᵀ‖²/‖τ‖², D = ⟨R τᵀ, τ τᵀ⟩/‖τ‖², O = ‖τ τᵀ‖²/‖τ‖² and R the sum of the other tasks.
    Null: every other task's input directions turned at random, in expectation λ² Σ_{s ≠ t} ‖τ_s‖² / n + (1 − λ)² O
    for a matrix with n columns; exact, no draw.
    Partial sums of deltas [T, m, n]: [T] each. A matrix that the task did not change has no part in its loss.
    Where the smaller side of a matrix is above 2048 the products are estimated: with the task's strongest directions as
    they are and the rest of its rows in `PROBES` random mixtures, without bias. The standard error of that rest is at
    most √(2 / PROBES) of it, an eighth, where it lies in one direction, and falls with the number of directions.
    Edges: rows orthogonal to all others give 0 at λ = 1, and so does one task; two equal tasks give 1; a task that
    changed nothing gives NaN.
    Paper: Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors, equation 7;
    normalisation and null are ours.
    """
    everything = deltas.sum(0, dtype=torch.float64)
    squares = [float(task.double().square().sum()) for task in deltas]
    found = []
    for index, square in enumerate(squares):
        if not square:
            found.append([0.0] * 5)
            continue
        own, rest = _products(context, index, everything - deltas[index])
        chance = (sum(squares) - square) / deltas.shape[2]
        found.append([*(v / square for v in (rest[0], rest[1], own)), chance, 1])
    table = torch.tensor(found, dtype=torch.float64).reshape(-1, 5)
    sums = {key: table[:, i] for i, key in enumerate(("crossed", "mixed", "own", "chance", "used"))}
    return {**sums, "sketched": torch.tensor(int(context.side > EXACT_SIDE))}


@wudi_loss.finish
def _(
    total: Totals,
    tasks: tuple[str, ...],
    parameters: dict[str, Any],
    *,
    scale: Annotated[float, Range(0, 2, step=0.05), "λ: the merged update is λ times the sum of all tasks'"] = 1.0,
) -> list[dict[str, Any]]:
    missing = 1 - scale
    rows = []
    for t, task in enumerate(tasks):
        crossed, mixed, own, chance = (float(total[key][t]) for key in ("crossed", "mixed", "own", "chance"))
        used = int(total["used"][t])
        loss = max(scale**2 * crossed - 2 * scale * missing * mixed + missing**2 * own, 0.0)
        rows.append(
            {
                "task": task,
                "disturbance": ratio(loss, own),
                "null": ratio(scale**2 * chance + missing**2 * own, own),
                "loss": loss if used else float("nan"),
                "n_matrices": used,
                "n_sketched": int(total["sketched"]),
            }
        )
    return rows


def _products(context: MatrixContext, index: int, rest: Tensor) -> tuple[float, tuple[float, float]]:
    """‖τ τᵀ‖², and ‖R τᵀ‖² with ⟨R τᵀ, τ τᵀ⟩, over the smaller side of the matrices."""
    task = context.deltas[index].double()
    if context.side > EXACT_SIDE or task.shape[0] <= task.shape[1]:
        readers = _readers(context, index, task) if context.side > EXACT_SIDE else task.T
        own, crossed = task @ readers, rest @ readers
        return float(own.square().sum()), (float(crossed.square().sum()), float((crossed * own).sum()))
    gram, other = task.T @ task, rest.T @ rest
    return float(gram.square().sum()), (float((gram * other).sum()), float((gram * (task.T @ rest)).sum()))


def _readers(context: MatrixContext, index: int, task: Tensor) -> Tensor:
    """Columns C [n, few] that stand for the rows of τ: C Cᵀ is τᵀτ on average, and exactly so on what is strongest."""
    found = context.singular(index)
    kept = len(found.values)
    strong = found.right(kept) * found.values
    if found.exact:
        return strong
    drawn = torch.randint(0, 2, (task.shape[0], PROBES), generator=context.generator(context.tasks[index]))
    mixed = (drawn.to(task) * 2 - 1) / PROBES**0.5
    left = found.left(kept)
    return torch.cat([strong, task.T @ (mixed - left @ (left.T @ mixed))], 1)
