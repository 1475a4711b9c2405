"""Where the tensors of a resident source lie in memory, so that one compiled call can read many of them.

Looked up once per source and kept with it: a model of many small tensors then costs what its bytes cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from explorer.compute.source import Source, numel

KINDS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
"""Dtypes that compiled loops read, by the number they know them by."""
UNREADABLE = -1


@dataclass(frozen=True, eq=False)
class Addresses:
    """Per tensor of `names`: its size [N], and addresses and kinds [N, 1 + T] of base and tasks.

    A kind is UNREADABLE where the loops cannot read the tensor: another dtype, a difference instead of weights, or
    values that do not lie in memory side by side for as long as the source lives.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    places: np.ndarray
    kinds: np.ndarray


_known: WeakKeyDictionary[Source, Addresses] = WeakKeyDictionary()
_lock = Lock()


def addresses_of(source: Source) -> Addresses | None:
    """The addresses of a source on the processor that says it is `resident`; None for any other source."""
    if source.device.type != "cpu" or not getattr(source, "resident", False):
        return None
    with _lock:
        found = _known.get(source)
    if found is None:
        found = _look_up(source)
        with _lock:
            _known[source] = found
    return found


def _look_up(source: Source) -> Addresses:
    names, columns = tuple(source.names), 1 + len(source.tasks)
    sizes = np.array([numel(source, n) for n in names], np.int64)
    places = np.zeros((len(names), columns), np.int64)
    kinds = np.full((len(names), columns), UNREADABLE, np.int64)
    for row, (name, size) in enumerate(zip(names, sizes.tolist(), strict=True)):
        for column in range(columns):
            if column and source.holds_delta(column - 1, name):
                continue
            once, again = (_flat(source, column - 1, name, size) for _ in range(2))
            # Both are alive here, so a source that makes its values anew gives two addresses.
            if once.is_contiguous() and once.data_ptr() == again.data_ptr():
                places[row, column] = once.data_ptr()
                kinds[row, column] = KINDS.get(once.dtype, UNREADABLE)
    return Addresses(names, sizes, places, kinds)


def _flat(source: Source, task: int, name: str, size: int) -> Tensor:
    return source.base(name, 0, size) if task < 0 else source.task(task, name, 0, size)
