"""From the sums of `_contributions` to a table: what every task contributes, loses and is left with, at every level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from explorer.checkpoints.groups import Group, group_of
from explorer.compute.source import Source, numel
from explorer.merging._contributions import DOT, DROPPED, OPPOSED, Reference, Sums
from explorer.results import SCOPE, SCOPE_COLUMNS, Result, count, fraction, number, text

AVERAGE = "the same for plain averaging of these fine-tunes, before it is rounded"

CONTRIBUTIONS = (
    *SCOPE,
    text("task", "task"),
    number("share", "part of the merged update's squared length that goes with this task vector; may be below 0"),
    number("share_average", AVERAGE),
    number("coefficient", "factor of this task vector in the mixture of task vectors nearest to the merged update"),
    fraction("dropped", "part of ‖τ‖² at weights that the merge leaves as they are in the base"),
    fraction("dropped_average", AVERAGE),
    fraction("outvoted", "part of ‖τ‖² at weights that the merge moves the other way"),
    fraction("outvoted_average", AVERAGE),
    fraction("kept", "1 − dropped − outvoted: part of ‖τ‖² at weights that the merge moves the task's way"),
    number("cosine", "cosine of the merged update and the task vector", -1.0, 1.0),
    number("cosine_average", AVERAGE, -1.0, 1.0),
    number("departure", "‖θ_merged − θ_task‖ / ‖τ‖: 0 is the fine-tune itself, 1 as far from it as the base is", 0.0),
    number("departure_average", AVERAGE, 0.0),
    number("norm", "‖τ‖ of the task vector", 0.0),
    number("update_norm", "‖m‖ of the merged update, as stored", 0.0),
    number("explained", "part of ‖m‖² that mixtures of the task vectors can give; the shares add up to it"),
    count("n", "weights"),
)


def contribution_table(source: Source, sums: Sums, reference: Reference, provenance: dict[str, Any]) -> Result:
    """Per task at model, layer and kind level, from sums over tensors; columns CONTRIBUTIONS.

    With m the merged update θ_m − θ_0 and τ_t the task vectors, all restricted to the scope of a row:
    dropped = Σ[m = 0] τ_t² / ‖τ_t‖² (trimmed, masked, or rounded away by the stored dtype); outvoted = Σ[m τ_t < 0]
    τ_t² / ‖τ_t‖²; kept is the rest. cosine = ⟨m, τ_t⟩ / ‖m‖‖τ_t‖. departure = ‖m − τ_t‖ / ‖τ_t‖.
    share = c_t ⟨m, τ_t⟩ / ⟨m, m⟩ with c = argmin ‖m − Σ c_s τ_s‖ over the scope (the shortest c where task vectors
    depend on each other, in units of their lengths): for a plain sum c_t is the scale and the shares add up to 1;
    otherwise they add up to `explained`, and what is missing is no mixture of task vectors at all.
    A merge with one model per task is compared with that task alone: then share = explained = cosine².
    `…_average` is the same of m = Σ τ_t / T, unrounded. Edges: a task vector of zeros gives NaN throughout; a merged
    update of zeros gives NaN share and cosine, dropped 1 and departure 1.
    The decomposition is Pratt's of a regression without intercept; its use here is ours.
    """
    groups = [group_of(n) for n in source.names]
    sizes = np.array([numel(source, n) for n in source.names])
    tasks = len(source.tasks)
    columns: dict[str, list[Any]] = {c.name: [] for c in CONTRIBUTIONS}
    for scope, inside in _scopes(groups):
        numbers = _finished(sums.squares[inside].sum(0), sums.found[inside].sum(0), *_pooled(reference, inside))
        same = {**scope, "n": int(sizes[inside].sum())}
        repeated = {name: [value] * tasks for name, value in same.items()}
        filled: dict[str, Any] = {**numbers, "task": source.tasks, **repeated}
        for name, values in filled.items():
            columns[name].extend(values)
    return Result("contributions", tuple(source.tasks), pd.DataFrame(columns), CONTRIBUTIONS, provenance)


def _pooled(reference: Reference, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return reference.gram[inside].sum(0), reference.lost[inside].sum(0)


def _scopes(groups: Sequence[Group]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """The model, its layers by depth, and its kinds of modules as first met, each with the tensors inside."""
    blank = dict(zip(SCOPE_COLUMNS, ("model", "", -1, "", ""), strict=True))
    yield blank, np.arange(len(groups))
    for index, layer in sorted({(g.layer_index, g.layer) for g in groups}):
        inside = [i for i, g in enumerate(groups) if (g.layer_index, g.layer) == (index, layer)]
        yield {**blank, "level": "layer", "layer": layer, "layer_index": index}, np.array(inside)
    for kind in dict.fromkeys(g.kind for g in groups):
        inside = [i for i, g in enumerate(groups) if g.kind == kind]
        yield {**blank, "level": "kind", "kind": kind}, np.array(inside)


def _finished(squares: np.ndarray, found: np.ndarray, gram: np.ndarray, lost: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of one scope, [T] each: squares [R], found [T, 3], gram [T, T], lost [T, 2]."""
    tasks = len(gram)
    norms, alone = np.diagonal(gram), len(squares) == tasks and tasks != 1
    update, dots = np.broadcast_to(squares, tasks), found[:, DOT]
    average, mean_dots = np.full(tasks, gram.sum() / tasks**2), gram.sum(1) / tasks
    coefficients = _ratio(dots, norms) if alone else _mixture(gram, dots)
    share = _ratio(coefficients * dots, update)
    even = _ratio(mean_dots**2, norms * average) if alone else _ratio(mean_dots / tasks, average)
    dropped, outvoted = _ratio(found[:, DROPPED], norms), _ratio(found[:, OPPOSED], norms)
    return {
        "share": share,
        "share_average": np.where(norms > 0, even, np.nan),
        "coefficient": coefficients,
        "dropped": dropped,
        "dropped_average": _ratio(lost[:, 0], norms),
        "outvoted": outvoted,
        "outvoted_average": _ratio(lost[:, 1], norms),
        "kept": np.clip(1 - dropped - outvoted, 0, 1),
        "cosine": _cosine(dots, norms, update),
        "cosine_average": _cosine(mean_dots, norms, average),
        "departure": _departure(dots, norms, update),
        "departure_average": _departure(mean_dots, norms, average),
        "norm": np.sqrt(norms),
        "update_norm": np.sqrt(update),
        "explained": share if alone else np.full(tasks, _total(share)),
    }


def _total(share: np.ndarray) -> float:
    return float(np.nansum(share)) if np.isfinite(share).any() else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _cosine(dots: np.ndarray, norms: np.ndarray, update: np.ndarray) -> np.ndarray:
    return np.clip(_ratio(dots, np.sqrt(norms * update)), -1, 1)


def _departure(dots: np.ndarray, norms: np.ndarray, update: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(_ratio(update - 2 * dots + norms, norms), 0))


def _mixture(gram: np.ndarray, dots: np.ndarray) -> np.ndarray:
    """c = argmin ‖m − Σ c_t τ_t‖ from ⟨τ_s, τ_t⟩ and ⟨m, τ_t⟩: the shortest one in units of the tasks' lengths."""
    lengths = np.sqrt(np.diagonal(gram))
    inverse = _ratio(np.ones(len(gram)), lengths)
    scale = np.nan_to_num(inverse)
    cosines = gram * scale[:, None] * scale[None, :]
    return np.linalg.pinv(cosines, rcond=1e-10, hermitian=True) @ (dots * scale) * inverse
