"""Redundancy of a task vector: how much of its length lies in its largest entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from explorer.compute import select
from explorer.compute.source import Chunk, Source, chunks, deltas
from explorer.errors import ParameterError, all_problems, sentence
from explorer.executor import CancelToken, Executor, SerialExecutor
from explorer.interference._sums import row_sums


def norm_at_density(
    source: Source,
    densities: Sequence[float],
    *,
    executor: Executor | None = None,
    cancel: CancelToken | None = None,
) -> Tensor:
    """‖the largest entries of τ_t‖ / ‖τ_t‖ for each density, float64 [T, D], in [0, 1].

    The entries are those that TIES keeps of the whole model: |τ_t| ≥ its int(density·n) + 1-th largest value, with
    all ties, so density 1 gives 1. √density would be a vector of equal entries; the nearer to 1, the more of the
    vector can be trimmed away. A task that changed nothing gives NaN; no density gives [T, 0].
    Three streaming passes per task at most; memory is bounded by a chunk. Raises ParameterError with every density
    outside (0, 1]; Cancelled. Paper: Resolving Interference When Merging Models, figure on redundant parameters.
    """
    wrong = [
        sentence("norm_at_density", "densities must be in (0, 1]", f"{d:g}", "Use 0.2 for 20 %.")
        for d in densities
        if not 0 < d <= 1
    ]
    if wrong:
        raise ParameterError(all_problems("norm_at_density", wrong))
    pool = executor or SerialExecutor()
    scans = [select.scan(source, t, executor=pool, cancel=cancel) for t in range(len(source.tasks))]
    borders = torch.stack([_borders(scan, (*densities, 1.0)) for scan in scans])
    pieces = list(chunks(source))

    def partial(chunk: Chunk) -> Tensor:
        rows = deltas(source, chunk)
        size, squares = rows.abs(), rows.double().square()
        edges = borders.to(rows.dtype).T
        return torch.stack([row_sums(torch.where(size >= edge[:, None], squares, 0)) for edge in edges], 1)

    total = torch.zeros(borders.shape, dtype=torch.float64, device=source.device)
    for sums in pool.map(partial, pieces, total=len(pieces), label="norms", cancel=cancel):
        total += sums
    return (total[:, : len(densities)] / total[:, -1:]).sqrt()


def _borders(scan: select.Scan, densities: Sequence[float]) -> Tensor:
    """Magnitude from which on entries are kept, for each density, [D]; the first pass is shared."""
    first = select.magnitude_histogram(scan)
    return torch.stack([select.magnitude_threshold(scan, d, histogram=first) for d in densities])
