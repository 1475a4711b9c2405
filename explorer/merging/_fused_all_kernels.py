"""The compiled loop over the tensors of a resident model: `_fused_kernels.merge` of each, from addresses alone."""

# mypy: ignore-errors
# numba finds the types of these functions itself, from the first call.

from __future__ import annotations

import numpy as np

from explorer.compute.compiled import F32, compiled
from explorer.merging._fused_kernels import merge


@compiled
def _width(kind):
    return 4 if kind == F32 else 2


@compiled
def merge_all(
    first, last, segments, places, kinds, order, outs, out_kinds, which, options, numbers, scalars, limits, seeds, found
):
    """`merge` of the segments first … last − 1, each a piece [name, start, count] of a tensor at known addresses.

    places, kinds [N, 1 + T] of base and tasks, `order` [T] the tasks' columns less one, outs [N, O], out_kinds [N];
    `which` [N] says which row of options, numbers, scalars and limits serves a tensor; seeds [N, T, 2]. The bits of the
    largest |task vector| and |merged weight| of each segment go to `found` [S, 2].
    """
    n_tasks, width = len(order), numbers.shape[2]
    tasks, task_kinds = np.empty(width, np.int64), np.empty(n_tasks, np.int64)
    targets = np.empty(outs.shape[1], np.int64)
    for s in range(first, last):
        name, start, count = segments[s, 0], segments[s, 1], segments[s, 2]
        row = which[name]
        base = places[name, 0] + start * _width(kinds[name, 0])
        tasks[:] = base
        for t in range(n_tasks):
            kind = kinds[name, 1 + order[t]]
            tasks[t] = places[name, 1 + order[t]] + start * _width(kind)
            task_kinds[t] = kind
        for o in range(len(targets)):
            targets[o] = outs[name, o] + start * _width(out_kinds[name])
        change, size, _ = merge(
            base,
            kinds[name, 0],
            tasks,
            task_kinds,
            targets,
            out_kinds[name],
            count,
            start,
            options[row],
            numbers[row],
            scalars[row],
            limits[row],
            seeds[name],
        )
        found[s, 0], found[s, 1] = change, size
