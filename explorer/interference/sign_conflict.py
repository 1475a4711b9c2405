"""Sign conflict: how often two tasks push the same weight in opposite directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.interference._api import Context, Totals, metric
from explorer.interference._fused import Found
from explorer.interference._sums import pairs, ratio, row_sums
from explorer.results import count, fraction, text


@metric(
    title="Sign conflict",
    on="trimmed",
    higher_is_worse=True,
    paper="Resolving Interference When Merging Models",
    unit="share of the weights that both tasks changed",
    how="0.5 is what unrelated tasks show by chance. Above it, the pair pulls weights apart more than chance; below "
    "it, the two agree. Trim small changes away: they carry most of the chance conflict.",
    columns=(
        text("task_a", "first task of the pair"),
        text("task_b", "second task of the pair"),
        count("n_both", "weights that both tasks changed"),
        fraction("conflict", "share of those that the tasks moved in opposite directions"),
        fraction("null", "conflict expected if the signs were independent, with the same number of each sign"),
        fraction("overlap", "weights both changed / weights either changed (Jaccard)"),
        fraction("one_sided", "share of the weights either changed that only one changed"),
        fraction("kept_a", "share of all weights kept of the first task: its effective density"),
        fraction("kept_b", "share of all weights kept of the second task: its effective density"),
    ),
)
def sign_conflict(deltas: Tensor, *, context: Context) -> dict[str, Tensor]:
    """Share of the weights changed by both tasks that they moved in opposite directions, per pair.

    conflict = #{i : τ_a,i τ_b,i < 0} / #{i : τ_a,i ≠ 0 and τ_b,i ≠ 0}, in [0, 1]; higher means more interference.
    Null: (n⁺_a n⁻_b + n⁻_a n⁺_b) / (n_a n_b) with the counts of the same scope; 0.5 for balanced signs.
    kept_a, kept_b: weights kept / all weights, in [0, 1]; below the density asked for where fewer weights changed, and
    above it by ties.
    Partial sums of deltas [T, n]: both-changed counts and sign products [T, T], signed counts [T], n, and for
    `top_k_overlap` the counts that both would change if each task's places in the chunk were permuted. Products of
    entries 0 and ±1 in float32 are exact up to 2^24 positions per chunk.
    Edges: n_both = 0 gives NaN; a task without changes gives a NaN null; one task gives no rows.
    Paper: Resolving Interference When Merging Models, section 3 (the null is ours).
    """
    signs = torch.sign(deltas[:, :0] if context.unchanged else deltas).to(torch.float32)
    changed = signs.abs()
    both = (changed @ changed.T).round().to(torch.int64)
    counts = both.diagonal().double()
    return {
        "both": both,
        "null_both": torch.outer(counts, counts) / max(deltas.shape[1], 1),
        "agreement": (signs @ signs.T).round().to(torch.int64),
        "signed": row_sums(signs).round().to(torch.int64),
        "n": torch.tensor(deltas.shape[1]),
    }


@sign_conflict.fused("signs")
def _(found: Found, level: int, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    both, signs = found.both[level], found.signs[level]
    signed, agreement = signs[:, 0] - signs[:, 1], both - 2 * found.opposite[level]
    counts = both.diagonal().astype(np.float64)
    null_both = np.outer(counts, counts) / max(found.n, 1)
    return {"both": both, "null_both": null_both, "agreement": agreement, "signed": signed, "n": np.array(found.n)}


@sign_conflict.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    both, agreement, signed = total["both"], total["agreement"], total["signed"]
    changed, n = both.diagonal(), int(total["n"])
    plus, minus = (changed + signed) / 2, (changed - signed) / 2
    rows = []
    for a, b in pairs(len(tasks)):
        union = changed[a] + changed[b] - both[a, b]
        opposite = plus[a] * minus[b] + minus[a] * plus[b]
        rows.append(
            {
                "task_a": tasks[a],
                "task_b": tasks[b],
                "n_both": int(both[a, b]),
                "conflict": ratio((both[a, b] - agreement[a, b]) / 2, both[a, b]),
                "null": ratio(opposite, float(changed[a]) * float(changed[b])),
                "overlap": ratio(both[a, b], union),
                "one_sided": ratio(union - both[a, b], union),
                "kept_a": ratio(changed[a], n),
                "kept_b": ratio(changed[b], n),
            }
        )
    return rows
