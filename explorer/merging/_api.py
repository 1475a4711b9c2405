"""What a merge method is: one function whose signature declares its parameters.

    @method(title="Task arithmetic", paper="Editing Models with Task Arithmetic", granularity="elementwise", …)
    def task_arithmetic(deltas, *, scale: Annotated[float, Range(-1, 2, step=.01), PerTask(), "…"] = 0.3): ...

The function gets `deltas` [T, n] of one chunk ([T, *shape] for granularity tensor and matrix) and returns the merged
task vector with the scale applied: [n], or [T, n] for output "per_task". Per-task parameters arrive as tensors [T] in
the dtype of `deltas`. These keyword-only arguments, where a function has them, come from the runner and not from a
person: `stats` (what `prepare` returned, for this tensor), `base` (θ_0 of the chunk), `seeds` (one per task),
`offset` (where the chunk begins in its flat tensor), `name` (of the tensor), `given` (for a method that declares
`needs_data`: each kind's statistics of this tensor for all tasks, [T, ...], or None where no task has any).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explorer.compute.source import GIVEN_KINDS
from explorer.params import Spec, specs_of
from explorer.registry import Registry

if TYPE_CHECKING:
    from explorer.merging._fused import Steps
    from explorer.merging._statistics import Statistics

GRANULARITIES = ("elementwise", "elementwise+threshold", "tensor", "matrix", "data")
OUTPUTS = ("single", "per_task")
SUPPLIED = ("stats", "base", "seeds", "offset", "name", "given")

Stat = Tensor | dict[str, Tensor]
"""One statistic: the same for the whole model, or one per tensor name."""

Shapes = Mapping[str, tuple[int, ...]]
Stored = Callable[[Shapes, int, Mapping[str, Any]], float]
Prepare = Callable[["Statistics", Mapping[str, Any]], Mapping[str, Stat]]
Fuse = Callable[..., "Steps | None"]


@dataclass(eq=False)
class Method:
    """One registered merge method. `name` is the function's name; `needs` lists what the runner passes in.

    `stochastic` methods take `seeds`, and see whole tensors or draw by position (`offset`); or they draw in `prepare`.
    `order_sensitive` methods get the tasks in the order given; all others in name order, so the order of a recipe
    cannot change a bit. `needs_data` names what must be measured on every task's data first: "fisher", "gram".
    """

    name: str
    title: str
    paper: str
    granularity: str
    output: str
    formula: str
    when: str
    when_not: str
    function: Callable[..., Tensor]
    specs: tuple[Spec, ...]
    stochastic: bool = False
    order_sensitive: bool = False
    needs_base: bool = False
    min_tasks: int = 1
    max_tasks: int | None = None
    other_tensors: str = ""
    needs: tuple[str, ...] = ()
    needs_data: tuple[str, ...] = ()
    prepare_function: Prepare | None = field(default=None, repr=False)
    stored_function: Stored | None = field(default=None, repr=False)
    fused_function: Fuse | None = field(default=None, repr=False)

    def __call__(self, deltas: Tensor, **parameters: Any) -> Tensor:
        """The merged task vector of one chunk."""
        return self.function(deltas, **parameters)

    def prepare(self, function: Prepare) -> Prepare:
        """Decorator: `function(statistics, parameters)` returns what the method receives as `stats`.

        `parameters` holds plain values, per-task ones as tuples of T floats. It may raise ParameterError for values
        that are legal one by one and impossible together.
        """
        if self.prepare_function is not None:
            raise TypeError(f"method {self.name!r} has two prepare functions")
        self.prepare_function = function
        return function

    def stored(self, function: Stored) -> Stored:
        """Decorator: `function(shapes, tasks, parameters)` says how much must be kept to rebuild every task's model.

        For methods with one model per task: the share of the T whole task vectors that their parts take, counted in
        numbers of 32 bits; the base comes on top of either. It may exceed 1.
        """
        self.stored_function = function
        return function

    def fused(self, function: Fuse) -> Fuse:
        """Decorator: `function(**parameters)` returns the method as steps of the compiled pass, or None.

        It gets what the method itself gets as keywords, but no `base`. None, which must depend on the values alone,
        leaves the work to the method; else both give the same bits.
        """
        if self.fused_function is not None:
            raise TypeError(f"method {self.name!r} has two fused functions")
        self.fused_function = function
        return function

    @property
    def whole_tensors(self) -> bool:
        """True when a tensor may not be cut into chunks."""
        return self.granularity in ("tensor", "matrix", "data")

    @property
    def summary(self) -> str:
        """The first line of the docstring: what the method computes."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    def describe(self) -> dict[str, Any]:
        """The method as plain values, for `--json` and the docs."""
        texts = ("name", "title", "paper", "summary", "granularity", "output", "formula", "when", "when_not")
        flags = ("stochastic", "order_sensitive", "needs_base", "needs_data", "min_tasks", "max_tasks", "other_tensors")
        plain = {key: getattr(self, key) for key in (*texts, *flags)}
        return {**plain, "parameters": [spec.describe() for spec in self.specs]}


def per_task(value: float | Tensor, deltas: Tensor) -> Tensor:
    """Per-task values as a tensor [T] in the dtype of `deltas`; one number stands for all tasks.

    The runner passes tensors already; this lets a method also be called by hand with plain numbers.
    """
    return torch.as_tensor(value, dtype=deltas.dtype, device=deltas.device).expand(deltas.shape[0])


METHODS: Registry[Method] = Registry("method", "explorer.merging")


def method(
    *,
    title: str,
    paper: str,
    granularity: str,
    formula: str,
    when: str,
    when_not: str,
    output: str = "single",
    stochastic: bool = False,
    order_sensitive: bool = False,
    min_tasks: int = 1,
    max_tasks: int | None = None,
    other_tensors: str = "",
    needs_data: tuple[str, ...] = (),
    registry: Registry[Method] = METHODS,
) -> Callable[[Callable[..., Tensor]], Method]:
    """Register a function as a merge method; the name is the function's.

    `stochastic` need only be said when the draws are made in `prepare`; a function that takes `seeds` is.
    Raises TypeError (a programming error) naming every fault of the declaration, or a name already taken.
    """

    def register(function: Callable[..., Tensor]) -> Method:
        made = _made(
            function,
            title=title,
            paper=paper,
            granularity=granularity,
            output=output,
            formula=formula,
            when=when,
            when_not=when_not,
            stochastic=stochastic,
            order_sensitive=order_sensitive,
            min_tasks=min_tasks,
            max_tasks=max_tasks,
            other_tensors=other_tensors,
            needs_data=needs_data,
        )
        faults = _faults(made)
        if faults:
            raise TypeError(f"method {made.name!r}: " + "; ".join(faults))
        return registry.add(made)

    return register


def _made(function: Callable[..., Tensor], *, stochastic: bool, **declared: Any) -> Method:
    """The method with what its signature says: name, parameters, and what the runner must pass in."""
    keywords = inspect.signature(function).parameters
    needs = tuple(n for n in SUPPLIED if n in keywords)
    return Method(
        name=function.__name__,
        function=function,
        specs=specs_of(function, supplied=SUPPLIED),
        stochastic=stochastic or "seeds" in needs,
        needs_base="base" in needs,
        needs=needs,
        **declared,
    )


def _faults(made: Method) -> list[str]:
    faults = []
    if made.granularity not in GRANULARITIES:
        faults.append(f"granularity must be one of {', '.join(GRANULARITIES)}; got {made.granularity!r}")
    if made.output not in OUTPUTS:
        faults.append(f"output must be one of {', '.join(OUTPUTS)}; got {made.output!r}")
    for text in ("title", "paper", "formula", "when", "when_not", "summary"):
        try:
            empty = not str(getattr(made, text)).strip()
        except IndexError:  # no docstring at all
            empty = True
        if empty:
            faults.append(f"{'the docstring' if text == 'summary' else text} must not be empty")
    if made.granularity == "elementwise+threshold" and "stats" not in made.needs:
        faults.append("a method with a threshold must take stats")
    if made.granularity == "matrix" and not made.other_tensors:
        faults.append("other_tensors must say what happens to tensors that are no matrices")
    if "seeds" in made.needs and "offset" not in made.needs and not made.whole_tensors:
        faults.append("draws must see whole tensors or take offset, or they would depend on the chunks")
    if not set(made.needs_data) <= set(GIVEN_KINDS):
        faults.append(f"needs_data must be of {', '.join(GIVEN_KINDS)}; got {', '.join(made.needs_data)}")
    if len({made.granularity == "data", bool(made.needs_data), "given" in made.needs}) > 1:
        faults.append("granularity data, needs_data and the argument given go together")
    if made.min_tasks < 1 or (made.max_tasks is not None and made.max_tasks < made.min_tasks):
        faults.append(f"min_tasks must be in 1 … max_tasks; got {made.min_tasks} and {made.max_tasks}")
    first = next(iter(inspect.signature(made.function).parameters), None)
    if first != "deltas":
        faults.append(f"the first argument must be deltas; got {first}")
    return faults
