"""Reads the `parameters` of a recipe against what its method declares."""

from __future__ import annotations

from explorer.errors import near
from explorer.mergekit.located import Located
from explorer.mergekit.methods import Method, Parameter
from explorer.mergekit.settings import Conditional, Scalar, Setting
from explorer.mergekit.trouble import Trouble

Scalars = Scalar | tuple[Scalar, ...]


class ParameterReader:
    """Settings of one method; without a known method every name is taken."""

    def __init__(self, trouble: Trouble, method: Method | None) -> None:
        self.trouble = trouble
        self.method = method

    def read(self, given: Located) -> dict[str, Setting] | None:
        """The settings by name; unknown ones are kept, and warned about with near names."""
        if given.entries is None:
            advice = "Write {weight: 0.5}."
            self.trouble.say(given.line, "parameters", "must be a mapping", given.kind, advice)
            return None
        made: dict[str, Setting] = {}
        for name, entry in given.entries.items():
            parameter = self.method.parameter(name) if self.method else None
            if self.method and parameter is None:
                hint = near(name, [p.name for p in self.method.parameters])
                who = f"parameter {name!r} is unknown to {self.method.name} and changes nothing."
                self.trouble.warn(entry.line, f"{who} {hint}")
            setting = self._setting(name, entry, parameter)
            if setting is not None:
                made[name] = setting
        return made

    def _setting(self, name: str, given: Located, parameter: Parameter | None) -> Setting | None:
        if given.entries is not None:
            return self._condition(name, given, parameter)
        if given.items is None:
            return self._scalar(name, given, parameter)
        if not given.items:
            self.trouble.say(given.line, name, "must hold a value", "an empty list", "Write a number.")
            return None
        mappings = [i.entries is not None for i in given.items]
        if all(mappings):
            found = tuple(self._condition(name, i, parameter) for i in given.items)
            conditions = tuple(c for c in found if c is not None)
            self._reachable(name, given, conditions)
            return conditions or None
        if any(mappings):
            must, advice = "must be numbers, or conditions, not both", "Write {value: …} for the rest."
            self.trouble.say(given.line, name, must, "a mixed list", advice)
            return None
        return self._gradient(name, given, parameter)

    def _gradient(self, name: str, given: Located, parameter: Parameter | None) -> tuple[Scalar, ...] | None:
        knots = tuple(self._scalar(name, i, parameter) for i in given.items or ())
        return None if None in knots else tuple(k for k in knots if k is not None)

    def _condition(self, name: str, given: Located, parameter: Parameter | None) -> Conditional | None:
        entries = given.entries or {}
        self.trouble.unknown(entries, ("value", "filter"))
        pattern = entries["filter"].plain if "filter" in entries else None
        if "value" not in entries or not isinstance(pattern, str | None):
            advice = "Write {filter: self_attn, value: 0.5}."
            self.trouble.say(given.line, name, "a condition needs a value, and text as its filter", given.value, advice)
            return None
        held = entries["value"]
        value: Scalars | None
        value = self._gradient(name, held, parameter) if held.items else self._scalar(name, held, parameter)
        return None if value is None else Conditional(value, pattern)

    def _reachable(self, name: str, given: Located, conditions: tuple[Conditional, ...]) -> None:
        for place, one in enumerate(conditions[:-1]):
            if one.filter in (None, "*"):
                left = len(conditions) - place - 1
                text = (
                    f"{name}: the first condition that fits counts, so {left} after the one for every tensor never do."
                )
                self.trouble.warn(given.line, text)
                return

    def _scalar(self, name: str, given: Located, parameter: Parameter | None) -> Scalar | None:
        value = given.plain
        if not isinstance(value, bool | int | float | str):
            self.trouble.say(given.line, name, "must be a number, text or true/false", given.kind, "Write one value.")
            return None
        if parameter is None:
            return value
        try:
            checked = parameter.check(value)
        except (ValueError, OverflowError) as error:
            reason = str(error) if str(error).startswith("it must") else "it must be a number"
            self.trouble.say(given.line, name, reason.replace("it must", "must"), repr(value), "Mend the value.")
            return None
        self._range(name, checked, given.line)
        return value

    def _range(self, name: str, value: object, line: int) -> None:
        """Values that mergekit takes but that can hardly be meant, and those that end in an error there."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return
        if name in ("density", "gamma", "select_topk") and not 0 <= value <= 1:
            self.trouble.say(line, name, "must be a fraction in [0, 1]", value, "Use 0.2 for 20 %.")
        elif name in ("epsilon", "tol", "max_iter", "eps", "r", "alpha") and value < 0:
            self.trouble.say(line, name, "must not be negative", value, "Use the default, or a small number.")
