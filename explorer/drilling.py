"""From a cell of the sign conflict map down to single weights: what the page asks for, kept so that it answers at once.

drilling = Drilling(bench)
drilling.tensors(recipe, "layer 3", "mlp up")          the tensors behind a cell, the largest first
drilling.pyramid(recipe, Asked("…weight", pair, 0.2))  block sums at every zoom, and the order of its rows
drilling.strongest(recipe, asked), drilling.weight(recipe, asked, row, col), drilling.profile(recipe, asked)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd

from explorer.checkpoints.groups import group_of
from explorer.compute.matrix_view import Grid, MatrixView
from explorer.compute.source import Source
from explorer.errors import InputError, UnknownNameError, near, sentence
from explorer.recipe import Recipe
from explorer.results import Result, count, fraction, number, text
from explorer.seeds import digest_of
from explorer.single_weights import strongest, weight_at
from explorer.store import Store
from explorer.tiles import Pyramid
from explorer.workbench import Workbench

KEPT_BYTES = 256 << 20
"""Memory for pyramids: some twenty large matrices of four tasks."""

ORDERS = {
    "stored": "as stored",
    "rows": "rows by conflict",
    "columns": "columns by conflict",
    "both": "rows and columns by conflict",
}
"""In which order rows and columns may be shown."""

_SIGNS = ("minority_mass", "sign_conflict")
_SHAPES = ("cosine", "norm_profile")
_PROFILE = (
    text("what", "task, or pair of tasks"),
    text("task", "task, or first task of the pair"),
    text("other", "second task of the pair; empty for a task"),
    number("norm", "Euclidean norm of the task vector in this tensor", 0.0),
    number("relative_norm", "relative drift: norm / norm of the base's tensor", 0.0),
    fraction("changed", "share of the tensor's weights that the task changed"),
    fraction("conflict", "share of the weights both changed (after trimming) that they moved in opposite directions"),
    fraction("null", "conflict expected if the signs were independent"),
    count("n", "weights of the tensor; for a pair the weights that both changed"),
)


@dataclass(frozen=True)
class Asked:
    """What is looked at: a tensor, a pair of tasks (None: all), the density trimmed to first, the order of lines."""

    tensor: str
    pair: tuple[str, str] | None = None
    trim: float = 1.0
    order: str = "stored"


class _Lent:
    """The resident models without keeping them: what the workbench let go of meanwhile is asked for again.

    So a kept pyramid, which reads single weights when it is zoomed, holds no model in memory.
    """

    def __init__(self, find: Callable[[], Source]) -> None:
        self._find, self._held = find, weakref.ref(find())

    def __getattr__(self, name: str) -> Any:
        source = self._held()
        if source is None:
            source = self._find()
            self._held = weakref.ref(source)
        return getattr(source, name)


class Drilling:
    """Answers about single tensors of a workbench's models; at most `budget_bytes` of pyramids are kept."""

    def __init__(self, bench: Workbench, budget_bytes: int = KEPT_BYTES) -> None:
        self.bench = bench
        self.store = Store(budget_bytes)

    def tensors(self, recipe: Recipe, layer: str, kind: str) -> tuple[str, ...]:
        """The tensors of one layer and kind of module, the largest first. Raises UnknownNameError for an empty cell."""
        source = self._source(recipe)
        found = [n for n in source.names if (group_of(n).layer, group_of(n).kind) == (layer, kind)]
        if not found:
            known = [f"{g.layer} · {g.kind}" for g in map(group_of, source.names)]
            hint = near(f"{layer} · {kind}", dict.fromkeys(known))
            raise UnknownNameError(sentence("map", "must name a cell with weights", f"{layer} · {kind}", hint))
        return tuple(sorted(found, key=lambda n: (-Grid.of(source.shape(n)).total, n)))

    def shape(self, recipe: Recipe, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._source(recipe).shape(tensor)

    def pyramid(self, recipe: Recipe, asked: Asked) -> Pyramid:
        """Block sums of a tensor. Rows and columns are reordered by minority mass, the largest first.

        A tensor that is no full matrix is shown as stored whatever the order says.
        """
        if asked.order not in ORDERS:
            raise UnknownNameError(sentence("tiles", "must be a known order", asked.order, near(asked.order, ORDERS)))
        view = self.view(recipe, asked)
        if asked.order != "stored" and len(view.source.shape(asked.tensor)) >= 2:
            stored = self.pyramid(recipe, replace(asked, order="stored"))
            rows, cols = (np.argsort(-c, kind="stable") for c in (stored.row_conflict, stored.col_conflict))
            view = replace(
                view,
                row_order=rows if asked.order in ("rows", "both") else None,
                col_order=cols if asked.order in ("columns", "both") else None,
            )
        key = f"tiles/{view.source.digest}/" + digest_of(asked, view.thresholds)
        return self.store.get_or_make(key, lambda: Pyramid(view), lambda made: made.size_bytes)

    def strongest(self, recipe: Recipe, asked: Asked) -> Result:
        """The most disputed weights of a tensor; see `strongest`."""
        view = self.view(recipe, asked)
        key = f"strongest/{view.source.digest}/" + digest_of(replace(asked, order="stored"), view.thresholds)
        return self.store.get_or_make(key, lambda: strongest(view), 1 << 14)

    def weight(self, recipe: Recipe, view: MatrixView, row: int, col: int) -> Result:
        """One weight at a place of the tensor's own grid, merged as the recipe says; see `weight_at`."""
        return weight_at(view, row, col, recipe=recipe, cache=self.bench.store)

    def view(self, recipe: Recipe, asked: Asked) -> MatrixView:
        """The tensor in stored order, its tasks and their trimming thresholds. Raises UnknownNameError."""
        source = self._source(recipe)
        if asked.tensor not in source.names:
            hint = near(asked.tensor, source.names)
            raise UnknownNameError(sentence("tiles", "must name a tensor of the models", repr(asked.tensor), hint))
        chosen = tuple(asked.pair or source.tasks)
        strange = [t for t in chosen if t not in source.tasks]
        if strange:
            hint = near(strange[0], source.tasks)
            raise UnknownNameError(sentence("tiles", "must name tasks of the recipe", repr(strange[0]), hint))
        found = self._thresholds(recipe, asked.trim)
        thresholds = tuple(found[t] for t in chosen) if found else None
        return MatrixView(source, asked.tensor, tuple(source.tasks.index(t) for t in chosen), thresholds)

    def profile(self, recipe: Recipe, asked: Asked) -> Result:
        """The tensor's own rows of the surveys that the page's figures show; nothing is computed for it alone."""
        shapes = self.bench.survey(recipe, metrics=_SHAPES, trim_density=1.0)
        signs = self.bench.survey(recipe, metrics=_SIGNS, trim_density=asked.trim)
        return tensor_profile(shapes["norm_profile"], signs["sign_conflict"], asked.tensor)

    def _source(self, recipe: Recipe) -> Source:
        """The resident models where they fit, else the files: the same bits."""
        try:
            return cast(Source, _Lent(lambda: self.bench.resident(recipe).arena))
        except InputError:
            return self.bench.models(recipe).source

    def _thresholds(self, recipe: Recipe, trim: float) -> Mapping[str, float] | None:
        """Per task, the size from which on changes count: the survey's own, so that map and tiles agree."""
        if trim >= 1:
            return None
        found = self.bench.survey(recipe, metrics=_SIGNS, trim_density=trim)["sign_conflict"]
        return found.provenance["trim_thresholds"]


def tensor_profile(norms: Result, conflicts: Result, tensor: str) -> Result:
    """One tensor's norm, relative drift and changed share per task, and conflict against its null per pair.

    Taken from rows of `norm_profile` and `sign_conflict` at level "tensor". Raises UnknownNameError for a tensor that
    was not surveyed.
    """
    own, between = (r.at("tensor", tensor=tensor) for r in (norms, conflicts))
    if own.empty:
        hint = near(tensor, norms.at("tensor")["tensor"].unique())
        raise UnknownNameError(sentence("profile", "must name a surveyed tensor", repr(tensor), hint))
    tasks = own[["task", "norm", "relative_norm", "changed", "n"]].assign(what="task", other="")
    parts = [tasks]
    if len(between):
        pairs = between.rename(columns={"task_a": "task", "task_b": "other", "n_both": "n"}).assign(what="pair")
        parts.append(pairs[["what", "task", "other", "conflict", "null", "n"]])
    table = pd.concat(parts, ignore_index=True).reindex(columns=[c.name for c in _PROFILE])
    numbers = [c.name for c in _PROFILE if c.type == "number"]
    table[numbers] = table[numbers].astype(float)
    provenance = {"tensor": tensor, "parameters": conflicts.provenance.get("parameters", {})}
    return Result("tensor_profile", norms.tasks, table, _PROFILE, provenance)
