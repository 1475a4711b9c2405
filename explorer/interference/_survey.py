"""The sums of one pass over the weights, and the tables made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from explorer.checkpoints.groups import Group
from explorer.errors import ParameterError, UnknownNameError, near, sentence
from explorer.interference._api import Metric, Rows, Totals
from explorer.results import SCOPE, Result

Sums = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scope:
    """What a row sums over, and the tensors in it."""

    level: str
    layer: str
    layer_index: int
    kind: str
    tensor: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """One metric of a survey: the number of the partial function it reads, and its checked parameters."""

    metric: Metric
    job: int
    partial: Mapping[str, Any]
    finish: Mapping[str, Any]


@dataclass(frozen=True)
class Held:
    """One trim density: which job stands there for each first one, and the magnitudes from which entries are kept."""

    jobs: Mapping[int, int]
    thresholds: Mapping[str, float] | None


@dataclass(frozen=True, eq=False)
class Survey:
    """Everything one pass found: per tensor and partial function, additive sums in float64 and int64.

    `finish` makes a metric's table from them without reading a weight, so that parameters which only choose what is
    shown (such as `mask_threshold`) are free to change; so is the trim density among those `held`.
    """

    tasks: tuple[str, ...]
    groups: Mapping[str, Group]
    planned: Mapping[str, Planned]
    sums: Mapping[str, tuple[Sums, ...]]
    nothing: tuple[Sums, ...]
    provenance: Mapping[str, Any]
    held: Mapping[float, Held] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Memory held by the sums."""
        return sum(a.nbytes for jobs in self.sums.values() for job in jobs for a in job.values())

    def finish(self, metric: str, *, trim_density: float | None = None, **parameters: Any) -> Result:
        """The table of one metric at every level: model, layers by depth, kinds, cells, tensors.

        `parameters` replace the survey's, for those that the metric's finish function declares; `trim_density` is one
        of those the survey holds (None: its own), and exact like it. Metrics of untrimmed vectors do not depend on it.
        Raises UnknownNameError for a metric that was not surveyed, ParameterError for an illegal value, for a density
        that is not held, or for a parameter that needs a new pass over the weights.
        """
        plan = self._plan(metric)
        needs_pass = [s.name for s in plan.metric.partial_specs if parameters.get(s.name, ...) is not ...]
        if needs_pass:
            must = "finish takes parameters that need no new pass over the weights"
            raise ParameterError(sentence(metric, must, ", ".join(needs_pass), "Run the survey again with them."))
        _, chosen = plan.metric.check({**plan.partial, **plan.finish, **parameters}, tasks=self.tasks)
        scopes = scopes_of(self.groups)
        job, origin = self._at(plan, trim_density)
        model = self._total(job, scopes[0])
        blocks = []
        for scope in scopes:
            total = Totals(self._total(job, scope), level=scope.level, model=model)
            blocks.append((scope, plan.metric.rows(total, self.tasks, dict(plan.partial), chosen)))
        values = {**plan.partial, **chosen}
        provenance = {**self.provenance, **origin, "metric": metric, "parameters": values}
        columns = (*SCOPE, *plan.metric.columns)
        return Result(metric, self.tasks, _table(blocks, [c.name for c in columns]), columns, provenance)

    def _at(self, plan: Planned, density: float | None) -> tuple[int, dict[str, Any]]:
        """The job that stands for a metric at a trim density, and what its provenance says of that density."""
        if density is None or plan.metric.on != "trimmed":
            return plan.job, {}
        held = {d: at for d, at in self.held.items() if plan.job in at.jobs}
        if density not in held:
            must = f"trim_density must be one that this survey holds ({', '.join(f'{d:g}' for d in sorted(held))})"
            raise ParameterError(sentence(plan.metric.name, must, f"{density:g}", "Run the survey again with it."))
        found = held[density]
        return found.jobs[plan.job], {"trim_density": density, "trim_thresholds": found.thresholds}

    def _plan(self, metric: str) -> Planned:
        if metric not in self.planned:
            must = "must be a metric of this survey"
            raise UnknownNameError(sentence("survey", must, repr(metric), near(metric, self.planned)))
        return self.planned[metric]

    def _total(self, job: int, scope: Scope) -> Sums:
        """Sums of the scope's tensors, added in name order."""
        total = {key: value.copy() for key, value in self.nothing[job].items()}
        for name in scope.members:
            for key, value in self.sums[name][job].items():
                total[key] += value
        return total


def scopes_of(groups: Mapping[str, Group]) -> list[Scope]:
    """Every scope of a model, from tensor names (ascending) and their groups; the whole model comes first."""
    names = tuple(sorted(groups))
    layers = sorted({(groups[n].layer_index, groups[n].layer) for n in names})
    kinds = sorted({groups[n].kind for n in names})

    def members(**where: object) -> tuple[str, ...]:
        return tuple(n for n in names if all(getattr(groups[n], k) == v for k, v in where.items()))

    scopes = [Scope("model", "", -1, "", "", names)]
    scopes += [Scope("layer", la, i, "", "", members(layer=la, layer_index=i)) for i, la in layers]
    scopes += [Scope("kind", "", -1, kind, "", members(kind=kind)) for kind in kinds]
    cells = [Scope("cell", la, i, k, "", members(layer=la, layer_index=i, kind=k)) for i, la in layers for k in kinds]
    scopes += [cell for cell in cells if cell.members]
    scopes += [Scope("tensor", g.layer, g.layer_index, g.kind, n, (n,)) for n in names for g in [groups[n]]]
    return scopes


def _table(blocks: list[tuple[Scope, Rows]], names: list[str]) -> pd.DataFrame:
    """One table from the rows of every scope, scope columns first, columns in the promised order."""
    parts: dict[str, list[np.ndarray]] = {}
    lengths = []
    for _, rows in blocks:
        columns = rows if isinstance(rows, dict) else {k: [r[k] for r in rows] for k in (rows[0] if rows else {})}
        lengths.append(len(next(iter(columns.values()), [])))
        if lengths[-1]:
            for key, values in columns.items():
                parts.setdefault(key, []).append(np.asarray(values))
    table: dict[str, Any] = {}
    for key in ("level", "layer", "layer_index", "kind", "tensor"):
        table[key] = np.repeat(np.array([getattr(s, key) for s, _ in blocks], dtype=_kind(key)), lengths)
    table.update({key: np.concatenate(arrays) for key, arrays in parts.items()})
    if not sum(lengths):
        table = {name: [] for name in names}
    frame = pd.DataFrame(table)
    return frame[[n for n in names if n in frame.columns]]


def _kind(key: str) -> type:
    return int if key == "layer_index" else object
