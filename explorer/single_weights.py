"""Single weights: what every task wants of one, what the vote makes of it, what the merge writes; the most disputed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from explorer.compute.matrix_view import Grid, MatrixView, Span
from explorer.compute.source import Source
from explorer.errors import CheckpointError, ExplorerError, ParameterError, sentence
from explorer.executor import CancelToken, Executor, ThreadExecutor
from explorer.live import weights_key
from explorer.merging import METHODS, cast, merge_chunk, plan, prepare
from explorer.recipe import Recipe
from explorer.results import Result, count, number, text
from explorer.store import Store
from explorer.tiles import rectangles

STRONGEST = 20
"""How many of the most disputed weights are listed."""

_WEIGHT = (
    text("task", "task"),
    number("delta", "τ_t: what the task changed here, before trimming"),
    number("fine_tuned", "the task's own weight θ_t, as stored; θ_0 + τ_t for an adapter"),
    count("kept", "1 where trimming keeps the change, 0 where it counts as 0"),
    text("wants", "up, down or no change, after trimming"),
    text("vote", "with or against the elected sign; empty where the task has no vote or nothing was elected"),
    number("merged", "what the merge writes here, rounded to the dtype that is stored; NaN where it cannot be merged"),
)
_STRONGEST = (
    count("rank", "1 is the most disputed"),
    count("row", "row of the matrix, from 0"),
    count("col", "column of the matrix, from 0"),
    count("flat", "position in the stored tensor, in reading order"),
    number("minority", "size of the changes on the losing side", 0.0),
    number("up", "size of the changes upwards", 0.0),
    number("down", "size of the changes downwards", 0.0),
    text("tasks_up", "tasks that want it larger, the strongest first"),
    text("tasks_down", "tasks that want it smaller, the strongest first"),
)


def weight_at(view: MatrixView, row: int, col: int, *, recipe: Recipe, cache: Store | None = None) -> Result:
    """One weight of the tensor's own grid: every task's change, the elected sign, and the merged value.

    The elected sign is the sign of Σ_t τ_t over the view's tasks after trimming, each with the same say; an exact tie
    elects none. The merged value is computed by the recipe's own method over all its tasks, bit for bit what an export
    writes; where the method cannot run, the provenance says why under `why_not`. Merged pieces are kept in `cache`.
    Raises ParameterError for a place that holds no weight, CheckpointError for a change that is not finite.
    """
    source, name, grid = view.source, view.name, view.grid
    flat = row * grid.cols + col
    if not (0 <= row < grid.rows and 0 <= col < grid.cols and flat < grid.total):
        must = f"a place in {name} must have a row below {grid.rows} and a column below {grid.cols}, and hold a weight"
        raise ParameterError(sentence("weight", must, f"row {row}, column {col}", "Choose a weight of the picture."))
    here: tuple[Span, Span] = (row, row + 1), (col, col + 1)
    plain = MatrixView(source, name, view.tasks)
    raw = plain.deltas(*here)[:, 0, 0]
    if not bool(torch.isfinite(raw).all()):
        must = f"tensor {name} must differ from the base by finite numbers"
        raise CheckpointError(sentence("weight", must, raw.tolist(), "Check the checkpoints for NaN and Inf."))
    trimmed = MatrixView(source, name, view.tasks, view.thresholds).deltas(*here)[:, 0, 0].tolist()
    base, total = float(plain.base(*here)), sum(trimmed)
    merged, why_not = _merged(recipe, source, name, flat, cache)
    rows = [
        {
            "task": source.tasks[task],
            "delta": delta,
            "fine_tuned": _own(source, task, name, flat, base, delta),
            "kept": int(view.thresholds is None or abs(delta) >= view.thresholds[at]),
            "wants": _direction(kept) or "no change",
            "vote": "" if not kept or not total else "with" if (kept > 0) == (total > 0) else "against",
            "merged": merged[task] if merged else float("nan"),
        }
        for at, (task, delta, kept) in enumerate(zip(view.tasks, raw.tolist(), trimmed, strict=True))
    ]
    where = {"tensor": name, "row": row, "col": col, "flat": flat, "index": _index(source.shape(name), flat)}
    votes = {"elected": _direction(total) or ("tie" if any(trimmed) else "none"), "base": base}
    how = {"method": recipe.method, "one_model": METHODS.get(recipe.method).output == "single", "why_not": why_not}
    tasks = tuple(source.tasks[t] for t in view.tasks)
    return Result("weight", tasks, pd.DataFrame(rows), _WEIGHT, {**where, **votes, **how})


def _own(source: Source, task: int, name: str, flat: int, base: float, delta: float) -> float:
    """The task's own weight: as stored, or the base plus an adapter's change."""
    if source.holds_delta(task, name) or source.unchanged(task, name):
        return base + delta
    return float(source.task(task, name, flat, flat + 1))


def _direction(value: float) -> str:
    return "up" if value > 0 else "down" if value < 0 else ""


def _index(shape: Sequence[int], flat: int) -> list[int]:
    return [int(i) for i in np.unravel_index(flat, shape)] if len(shape) else []


def _merged(recipe: Recipe, source: Source, name: str, flat: int, cache: Store | None) -> tuple[list[float], str]:
    """The merged weight for each task of the source, as stored; or nothing, and the sentence that says why."""
    keep = cache or Store(0)
    try:
        prepared = prepare(
            METHODS.get(recipe.method), source, recipe.values(), cache=keep, seed=recipe.seed, add_ons=recipe.add_ons
        )
        chunk = next(c for c in plan(prepared, source, [name]) if c.start <= flat < c.stop)
        stored = getattr(torch, recipe.dtype) if recipe.dtype else source.dtype(name)
        key = f"merged/{weights_key(recipe, source.digest)}/{name}/{chunk.start}/{chunk.stop}"
        piece = keep.get_or_make(key, lambda: cast(merge_chunk(prepared, source, chunk), stored), lambda t: t.nbytes)
    except ExplorerError as error:
        return [], str(error)
    found = piece[..., flat - chunk.start].double().reshape(-1).tolist()
    return found if len(found) > 1 else found * len(source.tasks), ""


def strongest(
    view: MatrixView,
    most: int = STRONGEST,
    *,
    executor: Executor | None = None,
    cancel: CancelToken | None = None,
) -> Result:
    """The weights of the tensor with the largest minority mass min(Σ max(τ_t, 0), Σ max(−τ_t, 0)), after trimming.

    Exact, from one streaming pass; of equal ones the earlier in reading order comes first. Weights without opposite
    signs are not listed, so there may be fewer than `most`. Rows and columns are the tensor's own.
    """
    plain = MatrixView(view.source, view.name, view.tasks, view.thresholds)
    grid = plain.grid
    pool = executor or ThreadExecutor(min(4, os.cpu_count() or 1))
    steps = list(rectangles((0, grid.rows), (0, grid.cols)))
    sizes, places = np.zeros(0), np.zeros(0, dtype=np.int64)
    work = partial(_strongest_of, plain, most)
    for found in pool.map(work, steps, total=len(steps), label="strongest", cancel=cancel):
        sizes, places = np.concatenate([sizes, found[0]]), np.concatenate([places, found[1]])
        first = np.lexsort((places, -sizes))[:most]
        sizes, places = sizes[first], places[first]
    rows = [_row(plain, grid, rank, int(flat)) for rank, flat in enumerate(places, 1)]
    table = pd.DataFrame(rows, columns=[c.name for c in _STRONGEST])
    tasks = tuple(plain.source.tasks[t] for t in plain.tasks)
    return Result("conflicting_weights", tasks, table, _STRONGEST, {"tensor": plain.name, "n": grid.total})


def _strongest_of(view: MatrixView, most: int, rectangle: tuple[Span, Span]) -> tuple[np.ndarray, np.ndarray]:
    """The largest positive minority masses of a rectangle and their flat positions, the earliest of equal ones."""
    (top, _), (left, right) = rectangle
    deltas = view.deltas(*rectangle)
    minority = torch.minimum(deltas.clamp_min(0).sum(0), deltas.clamp_max(0).sum(0).neg_()).reshape(-1)
    kept = min(most, minority.numel())
    limit = float(torch.topk(minority, kept).values[-1]) if kept else 0.0
    above = (minority > limit).nonzero().flatten()
    equal = (minority == limit).nonzero().flatten()[: most - len(above)] if limit > 0 else above[:0]
    chosen = torch.cat([above, equal])
    local, width = chosen.cpu().numpy(), right - left
    flat = (top + local // width) * view.grid.cols + left + local % width
    return minority[chosen].double().cpu().numpy(), flat


def _row(view: MatrixView, grid: Grid, rank: int, flat: int) -> dict[str, Any]:
    row, col = divmod(flat, grid.cols)
    wants = view.deltas((row, row + 1), (col, col + 1))[:, 0, 0].double().tolist()
    order = sorted(range(len(wants)), key=lambda t: -abs(wants[t]))
    up, down = sum(w for w in wants if w > 0), -sum(w for w in wants if w < 0)
    names = [view.source.tasks[t] for t in view.tasks]
    place = {"rank": rank, "row": row, "col": col, "flat": flat, "minority": min(up, down), "up": up, "down": down}
    sides = {"tasks_up": [t for t in order if wants[t] > 0], "tasks_down": [t for t in order if wants[t] < 0]}
    return {**place, **{side: ", ".join(names[t] for t in several) for side, several in sides.items()}}
