"""Top-k overlap: whether two tasks made their largest changes at the same weights."""

from __future__ import annotations

from typing import Any

from explorer.interference._api import Totals, metric
from explorer.interference._sums import pairs, ratio
from explorer.interference.sign_conflict import sign_conflict
from explorer.results import count, fraction, number, text

top_k_overlap = metric(
    name="top_k_overlap",
    title="Top-k overlap",
    on="trimmed",
    higher_is_worse=None,
    paper="Resolving Interference When Merging Models",
    unit="share of the weights that either task kept (Jaccard)",
    how="Trim first: then it says whether the large changes of two tasks meet at the same weights. A lift of 1 is "
    "chance, 2 is twice as much. Shared weights are where tasks can clash or help; sign conflict tells which.",
    columns=(
        text("task_a", "first task of the pair"),
        text("task_b", "second task of the pair"),
        count("n_both", "weights that both tasks kept"),
        fraction("density_a", "share of the weights that the first task kept"),
        fraction("density_b", "share of the weights that the second task kept"),
        fraction("overlap", "weights both kept / weights either kept (Jaccard)"),
        fraction("null", "overlap expected if each task's places are permuted within every part of the model"),
        fraction("independent", "overlap of two sets of these densities placed anywhere in the scope"),
        number("lift", "overlap / null", 0.0),
    ),
)(sign_conflict.partial)


@top_k_overlap.finish
def _(total: Totals, tasks: tuple[str, ...], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Overlap of the weights that two trimmed task vectors kept, per pair.

    overlap = |S_a ∧ S_b| / |S_a ∨ S_b| with S_t = {i : τ_t,i ≠ 0} after trimming, in [0, 1]; untrimmed, S_t is all
    the task changed. Neither end alone means interference: at shared weights tasks may agree or clash.
    Null: x / (|S_a| + |S_b| − x) with x = Σ over chunks of |S_a| |S_b| / n, the mean size of the intersection when
    each set is permuted on its own within its chunk; so neither frozen tensors nor layers that all tasks change more
    count as overlap. independent = d_a d_b / (d_a + d_b − d_a d_b) with the densities d = |S| / n of the scope alone,
    k / (2 − k) for equal ones: what the field quotes. lift = overlap / null.
    Edges: two empty sets give NaN; a null of 0 gives a NaN lift; one task gives no rows.
    Paper: Resolving Interference When Merging Models, section 3 (trimmed supports; overlap and null are ours).
    """
    both, null_both, n = total["both"], total["null_both"], int(total["n"])
    kept = both.diagonal()
    rows = []
    for a, b in pairs(len(tasks)):
        density_a, density_b = ratio(kept[a], n), ratio(kept[b], n)
        either = kept[a] + kept[b]
        overlap, null = (ratio(x, either - x) for x in (both[a, b], null_both[a, b]))
        chance = density_a * density_b
        rows.append(
            {
                "task_a": tasks[a],
                "task_b": tasks[b],
                "n_both": int(both[a, b]),
                "density_a": density_a,
                "density_b": density_b,
                "overlap": overlap,
                "null": null,
                "independent": ratio(chance, density_a + density_b - chance),
                "lift": ratio(overlap, null),
            }
        )
    return rows
