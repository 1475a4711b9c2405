"""Weights and task vectors: two types, so that they cannot be mixed up.

    tau = Weights(finetuned) - Weights(base)         TaskVector
    merged = Weights(base) + 0.3 * (tau_a + tau_b)   Weights
    merged.cast(torch.float16)["encoder.weight"]     computed now, cast once

Both are lazy mappings name -> Tensor: nothing is computed until a tensor is asked for, and nothing is kept.
Arithmetic is float32, float64 where any input is float64.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, overload

import torch
from torch import Tensor

from explorer.errors import AlignmentError, all_problems, near, sentence

Kind = TypeVar("Kind", bound="_LazyTensors")
_SHOWN_PROBLEMS = 10


class _LazyTensors(Mapping[str, Tensor]):
    """Names in ascending order, and a function that makes the tensor of a name."""

    # An ndarray or a Tensor on the left would otherwise try to broadcast over the mapping.
    __array_ufunc__ = None

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._names: Mapping[str, None] = dict.fromkeys(sorted(tensors))
        self._make: Callable[[str], Tensor] = tensors.__getitem__

    @classmethod
    def lazy(cls: type[Kind], names: Iterable[str], make: Callable[[str], Tensor]) -> Kind:
        """From names and a function, such as `Weights.lazy(checkpoint.tensors, checkpoint.read)`."""
        new = cls({})
        new._names, new._make = dict.fromkeys(sorted(names)), make
        return new

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(f"{name}. {near(name, self._names)}")
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tensors)"

    # Comparing two lazy mappings would read both models; identity is what a caller can afford.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def cast(self: Kind, dtype: torch.dtype) -> Kind:
        """The same values in another dtype, cast when read: the one rounding at the end."""
        return type(self).lazy(self, lambda name: self[name].to(dtype))


class Weights(_LazyTensors):
    """The weights of a model. Differences of two are a TaskVector; adding two is a TypeError."""

    @overload
    def __sub__(self, other: Weights) -> TaskVector: ...
    @overload
    def __sub__(self, other: TaskVector) -> Weights: ...
    def __sub__(self, other: Any) -> TaskVector | Weights:
        """Weights − Weights -> TaskVector, over equal names; Weights − TaskVector -> Weights."""
        if isinstance(other, TaskVector):
            return self + (-other)
        if not isinstance(other, Weights):
            return NotImplemented
        _same_names("Weights - Weights", self, other)
        return TaskVector.lazy(self, lambda name: _combine(name, self[name], other[name], -1.0))

    def __add__(self, other: TaskVector) -> Weights:
        """Weights + TaskVector -> Weights; tensors that the task vector does not name keep their values.

        Raises AlignmentError when the task vector names a tensor that is not there, and, on access, for another
        shape; TypeError for two Weights.
        """
        if isinstance(other, Weights):
            raise TypeError(
                "Weights + Weights: adding two models has no meaning; got two Weights. "
                "Add a task vector: base + (finetuned - base)."
            )
        if not isinstance(other, TaskVector):
            return NotImplemented
        unknown = [n for n in other if n not in self]
        if unknown:
            _refuse("Weights + TaskVector", [(n, "only in the task vector") for n in unknown])
        return Weights.lazy(
            self, lambda name: _combine(name, self[name], other[name], 1.0) if name in other else self[name]
        )

    def _refuse_scaling(self, other: object = None) -> NoReturn:
        raise TypeError(
            "Weights * number: scaling a model has no meaning; got Weights. "
            "Scale the task vector: base + 0.3 * (finetuned - base)."
        )

    __mul__ = __rmul__ = __truediv__ = __neg__ = _refuse_scaling


class TaskVector(_LazyTensors):
    """The difference of two models, τ_t = θ_t − θ_0. Adds to others, scales, and adds to Weights."""

    @overload
    def __add__(self, other: Weights) -> Weights: ...
    @overload
    def __add__(self, other: TaskVector) -> TaskVector: ...
    def __add__(self, other: Any) -> TaskVector | Weights:
        """TaskVector + TaskVector -> TaskVector, over equal names; TaskVector + Weights -> Weights."""
        if isinstance(other, Weights):
            return other + self
        if not isinstance(other, TaskVector):
            return NotImplemented
        _same_names("TaskVector + TaskVector", self, other)
        return TaskVector.lazy(self, lambda name: _combine(name, self[name], other[name], 1.0))

    def __radd__(self, other: object) -> TaskVector:
        """0 + TaskVector, so that `sum(task_vectors)` works."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: TaskVector) -> TaskVector:
        """TaskVector − TaskVector -> TaskVector, over equal names."""
        if not isinstance(other, TaskVector):
            return NotImplemented
        return self + (-other)

    def __neg__(self) -> TaskVector:
        """−τ: forgetting instead of learning."""
        return TaskVector.lazy(self, lambda name: -_arithmetic(self[name]))

    def __mul__(self, scale: object) -> TaskVector:
        """scale · τ, for a real number."""
        if not isinstance(scale, numbers.Real) or isinstance(scale, bool):
            return NotImplemented
        factor = float(scale)
        return TaskVector.lazy(self, lambda name: _arithmetic(self[name]) * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> TaskVector:
        """τ / divisor, for a real number other than 0."""
        if not isinstance(divisor, numbers.Real) or isinstance(divisor, bool):
            return NotImplemented
        number = float(divisor)
        if number == 0:
            raise ZeroDivisionError("TaskVector / number: the divisor must not be 0")
        return TaskVector.lazy(self, lambda name: _arithmetic(self[name]) / number)


def _arithmetic(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.to(torch.float32)


def _combine(name: str, left: Tensor, right: Tensor, sign: float) -> Tensor:
    """left ± right in arithmetic precision. Raises AlignmentError for tensors of different shapes."""
    if left.shape != right.shape:
        must = "must have one shape on both sides"
        got = f"{list(left.shape)} and {list(right.shape)}"
        raise AlignmentError(
            sentence(f"tensor {name}", must, got, "Leave the tensor out, or use a fine-tune of this base.")
        )
    dtype = torch.float64 if torch.float64 in (left.dtype, right.dtype) else torch.float32
    return left.to(dtype) + right.to(dtype) if sign > 0 else left.to(dtype) - right.to(dtype)


def _same_names(who: str, left: _LazyTensors, right: _LazyTensors) -> None:
    odd = [(n, "only on the left") for n in left if n not in right]
    odd += [(n, "only on the right") for n in right if n not in left]
    if odd:
        _refuse(who, odd)


def _refuse(who: str, odd: list[tuple[str, str]]) -> NoReturn:
    advice = "Leave it out on one side, or use a fine-tune of this base."
    problems = [sentence(who, f"tensor {n} must be on both sides", where, advice) for n, where in odd[:_SHOWN_PROBLEMS]]
    if len(odd) > _SHOWN_PROBLEMS:
        problems.append(f"and {len(odd) - _SHOWN_PROBLEMS} more")
    raise AlignmentError(all_problems(who, problems))
