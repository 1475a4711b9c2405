"""Parameters declared once, in a function's signature.

    def ties(deltas, *, density: Annotated[float, Range(0, 1, open_low=True), "fraction kept"] = 0.2): ...

`specs_of(ties)` reads the signature; from the `Spec`s come validation, CLI options, page controls, JSON schema,
docs rows and generated boundary tests.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from explorer.blocks import several_schema
from explorer.errors import ParameterError, all_problems, near, sentence


@dataclass(frozen=True)
class Range:
    """An interval of numbers, closed unless said otherwise; `step` is what a control moves by."""

    low: float
    high: float
    open_low: bool = field(default=False, kw_only=True)
    open_high: bool = field(default=False, kw_only=True)
    step: float | None = field(default=None, kw_only=True)

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class Choice:
    """One of several words; `labels` says each in plain language, in the same order."""

    options: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def __init__(self, *options: str, labels: Sequence[str] = ()) -> None:
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "labels", tuple(labels) or tuple(options))

    def __str__(self) -> str:
        return "one of " + ", ".join(self.options)


@dataclass(frozen=True)
class PerTask:
    """Marks a parameter that may differ per task: a number, or a mapping task name -> number."""


@dataclass(frozen=True)
class PerBlock:
    """Marks a parameter that may also differ per tensor: a mapping of name patterns to numbers (`explorer.blocks`)."""


@dataclass(frozen=True)
class Advanced:
    """Marks a parameter that controls keep behind "more settings"."""


@dataclass(frozen=True)
class Unit:
    """The unit printed beside a value."""

    text: str


@dataclass(frozen=True)
class Spec:
    """One declared parameter."""

    name: str
    type: type
    default: Any
    allowed: Range | Choice | None
    help: str
    unit: str = ""
    per_task: bool = False
    per_block: bool = False
    advanced: bool = False

    @property
    def label(self) -> str:
        """The name in words, for controls and tables."""
        return self.name.rpartition(".")[2].replace("_", " ")

    @property
    def must(self) -> str:
        """What must hold, in words: `density must be in (0, 1]`."""
        if isinstance(self.allowed, Range):
            whole = "a whole number " if self.type is int else ""
            return f"{self.name} must be {whole}in {self.allowed}"
        if isinstance(self.allowed, Choice):
            return f"{self.name} must be {self.allowed}"
        return f"{self.name} must be {'true or false' if self.type is bool else 'text'}"

    def message(self, who: str, value: Any) -> str:
        """The exact sentence for an illegal value."""
        return sentence(who, self.must, _shown(value), self._advice(value))

    def _advice(self, value: Any) -> str:
        if isinstance(self.allowed, Choice):
            return near(str(value), self.allowed.options)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(self.allowed, Range) and self.allowed.high == 1 and is_number and 1 < value <= 100:
            return f"Use {value / 100:g} for {value:g} %."
        return f"The default is {_shown(self.default)}."

    def check(self, value: Any, *, who: str, tasks: Sequence[str] = ()) -> Any:
        """The value in its declared type; a mapping for per-task values comes back ordered like `tasks`.

        Raises ParameterError with the exact sentence when the value is not allowed.
        """
        several = self.per_task and isinstance(value, Mapping)
        return self._check_per_task(value, who, tasks) if several else self._check_blocks(value, who)

    def _check_per_task(self, value: Mapping[str, Any], who: str, tasks: Sequence[str]) -> dict[str, Any]:
        problems = [
            sentence(who, f"{self.name} names only tasks of this merge", repr(t), near(t, tasks))
            for t in value
            if t not in tasks
        ]
        checked = {}
        for task in tasks:
            try:
                checked[task] = self._check_blocks(value.get(task, self.default), f"{who}, task {task}")
            except ParameterError as error:
                problems.append(str(error))
        if problems:
            raise ParameterError(all_problems(who, problems))
        return checked

    def _check_blocks(self, value: Any, who: str) -> Any:
        """One value, or for a per-block parameter a mapping pattern -> value in the order given."""
        if not isinstance(value, Mapping):
            return self._check_one(value, who)
        if not self.per_block:
            got = f"one per {'block' if self.per_task else 'task'}"
            raise ParameterError(sentence(who, f"{self.name} takes one value", got, "Give a single value."))
        return {str(pattern): self._check_one(one, f"{who}, {pattern}") for pattern, one in value.items()}

    def _check_one(self, value: Any, who: str) -> Any:
        if (converted := _convert(value, self.type)) is None or not self._legal(converted):
            raise ParameterError(self.message(who, value))
        return converted

    def _legal(self, value: Any) -> bool:
        if isinstance(self.allowed, Range):
            return math.isfinite(value) and value in self.allowed
        if isinstance(self.allowed, Choice):
            return value in self.allowed.options
        return True

    def edges(self) -> list[Any]:
        """Legal values at both ends of the range (or every choice), for generated tests."""
        if isinstance(self.allowed, Choice):
            return list(self.allowed.options)
        if isinstance(self.allowed, Range):
            step = self.allowed.step or (1 if self.type is int else 1e-3)
            low = self.allowed.low + (step if self.allowed.open_low else 0)
            high = self.allowed.high - (step if self.allowed.open_high else 0)
            return [self.type(low), self.type(high)]
        return [True, False] if self.type is bool else [self.default]

    def illegal(self) -> list[Any]:
        """Values that must be refused, for generated tests."""
        if isinstance(self.allowed, Choice):
            return [self.allowed.options[0] + "x", 3]
        if isinstance(self.allowed, Range):
            low, high = self.allowed.low, self.allowed.high
            outside = [low if self.allowed.open_low else low - 1, high if self.allowed.open_high else high + 1]
            return [*outside, float("nan"), "many"]
        return ["maybe"] if self.type is bool else []

    def json_schema(self) -> dict[str, Any]:
        """This parameter as a JSON schema fragment."""
        kinds = {float: "number", int: "integer", bool: "boolean", str: "string"}
        schema: dict[str, Any] = {"type": kinds[self.type], "description": self.help, "default": self.default}
        if isinstance(self.allowed, Choice):
            schema["enum"] = list(self.allowed.options)
        if isinstance(self.allowed, Range):
            schema["exclusiveMinimum" if self.allowed.open_low else "minimum"] = self.allowed.low
            schema["exclusiveMaximum" if self.allowed.open_high else "maximum"] = self.allowed.high
        return several_schema(self, schema) if self.per_task or self.per_block else schema

    def describe(self) -> dict[str, Any]:
        """This parameter as a plain row, for `--json` and the docs."""
        return {
            "name": self.name,
            "type": self.type.__name__,
            "default": self.default,
            "allowed": str(self.allowed) if self.allowed else ("true or false" if self.type is bool else "text"),
            "per_task": self.per_task,
            "per_block": self.per_block,
            "advanced": self.advanced,
            "unit": self.unit,
            "help": self.help,
        }


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _convert(value: Any, kind: type) -> Any:
    """`value` as `kind` where that loses nothing, else None."""
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if isinstance(value, bool):
        return None
    if kind is str:
        return value if isinstance(value, str) else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if kind is int:
        return int(number) if math.isfinite(number) and number == int(number) else None
    return number


def specs_of(function: Callable[..., Any], *, supplied: Sequence[str] = ()) -> tuple[Spec, ...]:
    """The parameters that a function's keyword-only signature declares, in order.

    `supplied` names keyword-only arguments that the runner passes in and no user sets.
    Raises TypeError (a programming error) for a number without a range, a parameter without help, or a default
    outside its own range.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    return tuple(
        _spec(function.__name__, name, hints.get(name), parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in supplied
    )


def _spec(owner: str, name: str, hint: Any, default: Any) -> Spec:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{owner}: parameter {name} needs Annotated[type, range or choice, help]")
    kind, *notes = get_args(hint)
    allowed = next((n for n in notes if isinstance(n, (Range, Choice))), None)
    if not (texts := [n for n in notes if isinstance(n, str)]):
        raise TypeError(f"{owner}: parameter {name} has no help text")
    if kind in (int, float) and not isinstance(allowed, Range):
        raise TypeError(f"{owner}: parameter {name} is a number without a Range")
    if default is inspect.Parameter.empty:
        raise TypeError(f"{owner}: parameter {name} has no default")
    spec = Spec(
        name=name,
        type=kind,
        default=default,
        allowed=allowed,
        help=texts[0],
        unit=next((n.text for n in notes if isinstance(n, Unit)), ""),
        per_task=any(isinstance(n, PerTask) for n in notes),
        per_block=any(isinstance(n, PerBlock) for n in notes),
        advanced=any(isinstance(n, Advanced) for n in notes),
    )
    try:
        spec.check(default, who=owner)
    except ParameterError as error:
        raise TypeError(f"{owner}: the default of {name} is illegal: {error}") from error
    return spec


def check_values(
    specs: Sequence[Spec], values: Mapping[str, Any], *, who: str, tasks: Sequence[str] = ()
) -> dict[str, Any]:
    """Every declared parameter with a legal value: the given one, or the default.

    Reports all problems at once: unknown names with near matches, and every illegal value.
    Raises ParameterError.
    """
    by_name = {s.name: s for s in specs}
    problems = [
        sentence(who, "takes only declared parameters", repr(name), near(name, by_name))
        for name in values
        if name not in by_name
    ]
    checked = {}
    for name, spec in by_name.items():
        try:
            checked[name] = spec.check(values.get(name, spec.default), who=who, tasks=tasks)
        except ParameterError as error:
            problems.append(str(error))
    if problems:
        raise ParameterError(all_problems(who, problems))
    return checked
