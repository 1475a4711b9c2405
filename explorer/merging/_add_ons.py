"""What an add-on is: a factor by which the merged task vector of *any* method is multiplied, place by place.

    @add_on(title="LiNeS", paper="LiNeS: Post-training Layer Scaling …", formula="…", when="…", when_not="…")
    def lines(merged, *, depth, alpha: Annotated[float, Range(0, 2), "factor of the first block"] = 0.2): ...

The function gets `merged`, the merged task vector of one chunk ([n], or [T, n] for one model per task), and returns
one number or a tensor that broadcasts to it. These keyword-only arguments come from the runner: `deltas` (τ_t [T, n]),
`depth` (where the tensor's block lies, 0 first … 1 last; None outside the blocks), `name`, `stats` (what `prepare`
returned). Multiplying keeps zeros: what no task changed stays the base's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explorer.blocks import block_value, require_matches
from explorer.checkpoints.groups import depths_of
from explorer.merging._api import Stat
from explorer.params import Spec, check_values, specs_of
from explorer.registry import Registry

if TYPE_CHECKING:
    from explorer.merging._statistics import Statistics

SUPPLIED = ("deltas", "depth", "name", "stats")
TEXTS = ("title", "paper", "formula", "when", "when_not")

MergedSum = Callable[[Callable[[Tensor], Tensor]], Tensor]
"""The sum over all chunks of a function of the merged task vector, before any add-on."""
Prepare = Callable[["Statistics", MergedSum, Mapping[str, Any]], Mapping[str, Stat]]


@dataclass(eq=False)
class AddOn:
    """One registered add-on. `name` is the function's name; `needs` lists what the runner passes in."""

    name: str
    title: str
    paper: str
    formula: str
    when: str
    when_not: str
    function: Callable[..., Tensor | float]
    specs: tuple[Spec, ...]
    needs: tuple[str, ...] = ()
    prepare_function: Prepare | None = field(default=None, repr=False)

    def __call__(self, merged: Tensor, **arguments: Any) -> Tensor | float:
        """The factor of one chunk."""
        return self.function(merged, **arguments)

    def prepare(self, function: Prepare) -> Prepare:
        """Decorator: `function(statistics, merged_sum, parameters)` returns what the add-on receives as `stats`."""
        self.prepare_function = function
        return function

    @property
    def summary(self) -> str:
        """The first line of the docstring: what the add-on does."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    def describe(self) -> dict[str, Any]:
        """The add-on as plain values, for `--json` and the docs."""
        plain = {key: getattr(self, key) for key in ("name", *TEXTS, "summary")}
        return {**plain, "parameters": [spec.describe() for spec in self.specs]}


ADD_ONS: Registry[AddOn] = Registry("add-on", "explorer.merging.add_ons")


def add_on(
    *, title: str, paper: str, formula: str, when: str, when_not: str, registry: Registry[AddOn] = ADD_ONS
) -> Callable[[Callable[..., Tensor | float]], AddOn]:
    """Register a function as an add-on; the name is the function's.

    Raises TypeError (a programming error) for an empty text or a first argument that is not `merged`.
    """

    def register(function: Callable[..., Tensor | float]) -> AddOn:
        keywords = inspect.signature(function).parameters
        needs = tuple(n for n in SUPPLIED if n in keywords)
        specs = specs_of(function, supplied=SUPPLIED)
        made = AddOn(function.__name__, title, paper, formula, when, when_not, function, specs, needs)
        empty = [t for t in TEXTS if not getattr(made, t).strip()] + ([] if inspect.getdoc(function) else ["docstring"])
        if empty:
            raise TypeError(f"add-on {made.name!r}: {', '.join(empty)} must not be empty")
        if next(iter(keywords), None) != "merged":
            raise TypeError(f"add-on {made.name!r}: the first argument must be merged")
        return registry.add(made)

    return register


@dataclass(frozen=True, eq=False)
class PreparedAddOn:
    """An add-on with checked values, and what it must know of the whole model."""

    add_on: AddOn
    values: Mapping[str, Any]
    stats: Mapping[str, Stat]
    depths: Mapping[str, float | None]

    def apply(self, merged: Tensor, deltas: Tensor, name: str) -> Tensor:
        """The merged task vector of one chunk, [n] or [T, n], multiplied by the factor; `deltas` are [T, n]."""
        arguments: dict[str, Any] = {
            s.name: block_value(self.values[s.name], name, s.default) for s in self.add_on.specs
        }
        stats = {k: v if isinstance(v, Tensor) else v[name] for k, v in self.stats.items()}
        supplied = {"deltas": deltas, "depth": self.depths.get(name), "name": name, "stats": stats}
        factor = self.add_on(merged, **arguments, **{n: supplied[n] for n in self.add_on.needs})
        return merged * torch.as_tensor(factor, dtype=merged.dtype, device=merged.device)


def check_add_ons(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[AddOn, dict[str, Any]]]:
    """The named add-ons with legal values. Raises UnknownNameError, or ParameterError naming every problem."""
    found = [(ADD_ONS.get(name), values) for name, values in entries]
    return [(one, check_values(one.specs, values, who=one.name)) for one, values in found]


def prepare_add_ons(
    entries: Sequence[tuple[str, Mapping[str, Any]]], statistics: Statistics, merged_sum: MergedSum
) -> tuple[PreparedAddOn, ...]:
    """Add-ons ready to be applied, in the order given. Raises as `check_add_ons`, and for patterns that fit nothing."""
    names = statistics.source.names
    depths = depths_of(names)
    made = []
    for one, values in check_add_ons(entries):
        require_matches(one.specs, values, names, who=one.name)
        stats = one.prepare_function(statistics, merged_sum, values) if one.prepare_function else {}
        made.append(PreparedAddOn(one, values, stats, depths))
    return tuple(made)
