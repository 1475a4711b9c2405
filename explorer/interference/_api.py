"""What an interference metric is: additive partial sums over weights, and rows made from the total.

    @metric(title="…", columns=(…), on="raw", higher_is_worse=True, paper="…", unit="…", how="…")
    def my_metric(deltas, *, strength: Annotated[float, Range(0, 1), "…"] = 0.5, context) -> dict[str, Tensor]: ...

    @my_metric.finish
    def _(total, tasks, parameters) -> list[dict]: ...

    @my_metric.fused("signs")                          # optional: the same sums from the numbers of the fused pass
    def _(found, level, values) -> dict[str, ndarray]: ...

Parameters declared by the partial function need a new pass when they change; keyword-only parameters declared by the
finish function do not. Keys of partial sums that start with `null_` may depend on the seed and on where chunks are
cut; every other key must be the same however the weights are cut.

A metric on="matrix" sees one whole matrix of every task instead, deltas [T, m, n], and its context is a
`_matrices.MatrixContext`, which shares one decomposition per task among all such metrics. Its sums add up over
matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from explorer.params import Spec, check_values, specs_of
from explorer.registry import Registry
from explorer.results import Column
from explorer.seeds import stable_seed

if TYPE_CHECKING:
    from explorer.interference._fused import Found

Partial = Callable[..., dict[str, Tensor]]
FromPass = Callable[["Found", int, Mapping[str, Any]], dict[str, np.ndarray]]
Rows = list[dict[str, Any]] | dict[str, Any]
SEES = ("raw", "trimmed", "matrix")


class Totals(dict[str, np.ndarray]):
    """Partial sums of one scope (float64 or int64), its `level`, and the sums of the whole `model`."""

    def __init__(self, sums: Mapping[str, np.ndarray], *, level: str, model: Mapping[str, np.ndarray]) -> None:
        super().__init__(sums)
        self.level = level
        self.model = model


@dataclass(frozen=True)
class Context:
    """What a partial function may know besides the deltas [T, n]: where they lie, and how to draw a null.

    `unchanged` is True when every delta of the chunk is 0, so that a metric may skip the work (counts must still be
    right); `trimmed` is True when entries below a task's magnitude threshold were set to 0. One weight in `null_every`
    is to carry a null that is drawn (see `_nulls`).
    """

    tensor: str
    start: int
    tasks: tuple[str, ...]
    read_base: Callable[[], Tensor] = field(repr=False, compare=False)
    unchanged: bool = False
    trimmed: bool = False
    null_every: int = 1

    @property
    def base(self) -> Tensor:
        """θ_0 of the chunk [n], float32 (float64 where the base holds that); read when asked for."""
        return self.read_base()

    def generator(self, task: str) -> torch.Generator:
        """A fresh CPU generator for the null of one task: the same for the same tensor, chunk start and task name."""
        return torch.Generator().manual_seed(stable_seed("null", self.tensor, self.start, task))


@dataclass(eq=False)
class Metric:
    """One registered metric: its declaration, its partial function, and how totals become rows."""

    name: str
    title: str
    columns: tuple[Column, ...]
    on: str
    higher_is_worse: bool | None
    paper: str
    unit: str
    how: str
    partial: Partial
    partial_specs: tuple[Spec, ...]
    finish_specs: tuple[Spec, ...] = ()
    finisher: Callable[..., Rows] | None = None

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Every parameter: those that need a pass over the weights first, then those that do not."""
        return self.partial_specs + self.finish_specs

    @property
    def doc(self) -> str:
        """The metric's full text: the docstring of the finish function, or else of the partial function."""
        return (self.finisher and self.finisher.__doc__) or self.partial.__doc__ or ""

    @property
    def help(self) -> str:
        """What is computed, in one line."""
        return self.doc.strip().split("\n")[0]

    def finish(self, function: Callable[..., Rows]) -> Callable[..., Rows]:
        """Decorate `(total, tasks, parameters, *, declared) -> rows`: a list of dicts, or equally long columns.

        Raises TypeError (a programming error) when the metric has one already or a parameter is declared twice.
        """
        if self.finisher is not None:
            raise TypeError(f"metric {self.name}: has a finish function already")
        specs = specs_of(function)
        twice = {s.name for s in specs} & {s.name for s in self.partial_specs}
        if twice:
            raise TypeError(f"metric {self.name}: parameters declared twice: {', '.join(sorted(twice))}")
        self.finisher, self.finish_specs = function, specs
        return function

    def fused(self, *needs: str) -> Callable[[FromPass], FromPass]:
        """Decorate `(found, level, values) -> sums`: the partial function's sums from the numbers of the fused pass.

        `needs` are the numbers used (`_fused.NEEDS`); `level` is the density among those of the pass to answer for.
        """
        return lambda function: FUSED.setdefault(self.partial, Fused(needs, function)).function

    def check(self, values: Mapping[str, Any], *, tasks: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
        """Legal values of every parameter, split into those of the partial function and those of the finish.

        Raises ParameterError naming every problem at once.
        """
        checked = check_values(self.specs, values, who=self.name, tasks=tasks)
        finish_names = {s.name for s in self.finish_specs}
        partial = {k: v for k, v in checked.items() if k not in finish_names}
        return partial, {k: v for k, v in checked.items() if k in finish_names}

    def rows(self, total: Totals, tasks: tuple[str, ...], partial: dict[str, Any], finish: dict[str, Any]) -> Rows:
        """Rows of one scope, without scope columns."""
        if self.finisher is None:
            raise TypeError(f"metric {self.name}: has no finish function")
        return self.finisher(total, tasks, {**partial, **finish}, **finish)


@dataclass(frozen=True)
class Fused:
    """How a partial function's sums come from the fused pass, and which of its numbers are needed for that."""

    needs: tuple[str, ...]
    function: FromPass


FUSED: dict[Partial, Fused] = {}
"""By partial function; metrics that share one share this too."""

METRICS: Registry[Metric] = Registry("metric", "explorer.interference")


def chosen_names(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the metrics asked for, each once, those on="matrix" last; None: all others; ["all"]: every one."""
    every = METRICS.names()
    asked = every if metrics is None or list(metrics) == ["all"] else tuple(dict.fromkeys(metrics))
    sees_matrices = [n for n in asked if n in METRICS and METRICS.get(n).on == "matrix"]
    others = tuple(n for n in asked if n not in sees_matrices)
    return others if metrics is None else (*others, *sees_matrices)


def metric(
    *,
    title: str,
    columns: tuple[Column, ...],
    on: str,
    higher_is_worse: bool | None,
    paper: str,
    unit: str,
    how: str,
    name: str = "",
) -> Callable[[Partial], Metric]:
    """Decorate a partial function and register the metric under the function's name, or under `name`.

    Two metrics may decorate one partial function; a survey then calls it once. `how` is the "How to read this" text.
    Raises TypeError (a programming error) for a declaration that is not complete.
    """

    def register(function: Partial) -> Metric:
        called = name or getattr(function, "__name__", "")
        if on not in SEES:
            raise TypeError(f"metric {called}: on must be raw, trimmed or matrix; got {on!r}")
        if "null" not in {c.name for c in columns}:
            raise TypeError(f"metric {called}: needs a column `null`: a number without its null is not evidence")
        empty = [k for k, v in {"title": title, "paper": paper, "unit": unit, "how": how}.items() if not v]
        if empty or not function.__doc__:
            raise TypeError(f"metric {called}: lacks {', '.join(empty or ['a docstring'])}")
        specs = specs_of(function, supplied=("context",))
        return METRICS.add(Metric(called, title, columns, on, higher_is_worse, paper, unit, how, function, specs))

    return register
