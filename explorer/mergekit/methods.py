"""The methods of mergekit 0.1.5 as data: what each takes, and what it needs of its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHARED, PER_INPUT, PER_TASK = "shared", "per input", "per task"
REQUIRED, OPTIONAL, IGNORED = "required", "optional", "ignored"


@dataclass(frozen=True)
class Parameter:
    """One parameter. `scope`: one value, one per input, or one per input that is not the base."""

    name: str
    kind: type
    scope: str = SHARED
    default: Any = None
    required: bool = False

    def check(self, value: Any) -> Any:
        """The value in the parameter's type; texts such as "1e-5" are numbers too. Raises ValueError."""
        if self.kind is bool:
            return _truth(value)
        if isinstance(value, bool):
            value = float(value)
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("it must be finite")
        if self.kind is int:
            if number != int(number):
                raise ValueError("it must be a whole number")
            return int(number)
        return number


def _truth(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    word = str(int(value) if isinstance(value, float) and value in (0, 1) else value).lower()
    if word not in words:
        raise ValueError("it must be true or false")
    return words[word]


@dataclass(frozen=True)
class Method:
    """One method. `inputs` and `tasks` are (least, most) of all inputs and of those that are not the base.

    `family` says how it is computed here: "combination" (a sum with factors from lengths and angles), "task_vectors"
    (sparse task vectors, added or elected), or "own".
    """

    name: str
    title: str
    base: str
    family: str
    parameters: tuple[Parameter, ...] = ()
    inputs: tuple[int, int | None] = (1, None)
    tasks: tuple[int, int | None] = (0, None)
    sparsify: str | None = None
    elects: bool = False

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((p for p in self.parameters if p.name == name), None)


def _arithmetic(
    name: str, title: str, sparsify: str | None, *, elects: bool, normalize: bool = False, rescale: bool = False
) -> Method:
    """A method that adds sparse task vectors, with mergekit's defaults for it."""
    own = {
        "outliers": [Parameter("gamma", float, PER_TASK, 0.01)],
        "ranked": [Parameter("epsilon", float, PER_TASK, 0.15)],
    }
    parameters = (
        Parameter("weight", float, PER_TASK, required=True),
        Parameter("density", float, PER_TASK, 1.0),
        *own.get(sparsify or "", []),
        Parameter("lambda", float, SHARED, 1.0),
        Parameter("normalize", bool, SHARED, normalize),
        Parameter("rescale", bool, SHARED, rescale),
        Parameter("int8_mask", bool, SHARED, False),
    )
    return Method(name, title, REQUIRED, "task_vectors", parameters, sparsify=sparsify, elects=elects)


_WEIGHT = Parameter("weight", float, PER_TASK, required=True)
_TWO = (2, 2)
_ALL: Sequence[Method] = (
    Method(
        "linear",
        "Linear",
        IGNORED,
        "combination",
        (Parameter("weight", float, PER_INPUT, required=True), Parameter("normalize", bool, SHARED, True)),
    ),
    Method("slerp", "SLERP", REQUIRED, "combination", (Parameter("t", float, required=True),), _TWO),
    Method(
        "nuslerp",
        "NuSLERP",
        OPTIONAL,
        "combination",
        (
            _WEIGHT,
            Parameter("nuslerp_row_wise", bool, SHARED, False),
            Parameter("nuslerp_flatten", bool, SHARED, True),
        ),
        tasks=_TWO,
    ),
    Method(
        "multislerp",
        "Multi-SLERP",
        OPTIONAL,
        "combination",
        (_WEIGHT, Parameter("normalize_weights", bool, SHARED, True), Parameter("eps", float, SHARED, 1e-8)),
        tasks=(1, None),
    ),
    Method(
        "karcher",
        "Karcher mean",
        IGNORED,
        "combination",
        (Parameter("max_iter", int, SHARED, 10), Parameter("tol", float, SHARED, 1e-5)),
    ),
    _arithmetic("task_arithmetic", "Task arithmetic", None, elects=False),
    _arithmetic("ties", "TIES", "magnitude", elects=True, normalize=True),
    _arithmetic("dare_linear", "Linear DARE", "random", elects=False, rescale=True),
    _arithmetic("dare_ties", "DARE TIES", "random", elects=True, rescale=True),
    _arithmetic("breadcrumbs", "Model Breadcrumbs", "outliers", elects=False),
    _arithmetic("breadcrumbs_ties", "Model Breadcrumbs with TIES", "outliers", elects=True),
    _arithmetic("della", "DELLA", "ranked", elects=True, normalize=True, rescale=True),
    _arithmetic("della_linear", "Linear DELLA", "ranked", elects=False, rescale=True),
    Method(
        "sce",
        "SCE",
        REQUIRED,
        "own",
        (Parameter("select_topk", float, SHARED, 1.0), Parameter("int8_mask", bool, SHARED, False)),
    ),
    Method("ram", "RAM", REQUIRED, "own", (Parameter("epsilon", float, SHARED, 1e-5),)),
    Method(
        "ramplus_tl",
        "RAM+ by tensor",
        REQUIRED,
        "own",
        (
            Parameter("r", float, SHARED, 0.1),
            Parameter("alpha", float, SHARED, 0.2),
            Parameter("epsilon", float, SHARED, 1e-5),
        ),
    ),
    Method(
        "model_stock",
        "Model Stock",
        REQUIRED,
        "combination",
        (Parameter("filter_wise", bool, SHARED, False),),
        inputs=(3, None),
    ),
    Method("nearswap", "NearSwap", REQUIRED, "own", (Parameter("t", float, required=True),), _TWO),
    Method("arcee_fusion", "Arcee Fusion", REQUIRED, "own", (), _TWO),
    Method("passthrough", "Passthrough", IGNORED, "combination", (Parameter("scale", float, PER_INPUT),), (1, 1)),
)
METHODS = {method.name: method for method in _ALL}
