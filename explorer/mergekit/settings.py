"""Values of parameters: one number, a gradient over the layers, or a choice by the tensor's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Conditional:
    """A value for the tensors whose name contains `filter`; None and "*" mean every tensor."""

    value: Scalar | tuple[Scalar, ...]
    filter: str | None = None

    def fits(self, name: str) -> bool:
        """Whether it speaks of this tensor."""
        return self.filter is None or self.filter == "*" or self.filter in name

    def to_plain(self) -> dict[str, Any]:
        """As it is written."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {"value": value} if self.filter is None else {"filter": self.filter, "value": value}


Setting = Scalar | tuple[Scalar, ...] | tuple[Conditional, ...] | Conditional
"""A scalar; a gradient; a choice of which the first that fits counts; one condition alone."""
Settings = Mapping[str, Setting]
Check = Callable[[Scalar], Any]


def evaluated(setting: Setting, name: str, t: float, check: Check) -> Any:
    """The value for one tensor at depth t in [0, 1], or None where no condition fits.

    A gradient of numbers is piecewise linear over equally spaced knots; one of booleans or texts takes the entry
    before or at t. `check` turns what was written into the parameter's type.
    """
    if isinstance(setting, Conditional):
        setting = (setting,)
    if not isinstance(setting, tuple):
        return check(setting)
    if setting and isinstance(setting[0], Conditional):
        conditions = [c for c in setting if isinstance(c, Conditional)]
        found = next((c.value for c in conditions if c.fits(name)), None)
        return None if found is None else evaluated(found, name, t, check)
    return _at([check(v) for v in setting if not isinstance(v, Conditional)], t, check)


def _at(knots: list[Any], t: float, check: Check) -> Any:
    if not knots:
        return None
    if not all(isinstance(k, int | float) and not isinstance(k, bool) for k in knots):
        return knots[int(t * (len(knots) - 1))]
    place = t * (len(knots) - 1)
    low = int(place)
    high = min(len(knots) - 1, low + 1)
    return check((1 - (place - low)) * knots[low] + (place - low) * knots[high])


def resolved(parameter: str, sources: Sequence[Settings | None], name: str, t: float, check: Check) -> Any:
    """The value from the first of the sources, most specific first, that says something of this tensor; else None."""
    for settings in sources:
        if settings is not None and parameter in settings:
            value = evaluated(settings[parameter], name, t, check)
            if value is not None:
                return value
    return None


def numbers_of(setting: Setting) -> list[Scalar]:
    """Every scalar that a setting mentions."""
    if isinstance(setting, Conditional):
        return numbers_of(setting.value)
    if isinstance(setting, tuple):
        return [n for part in setting for n in numbers_of(part)]
    return [setting]


def to_plain(setting: Setting) -> Any:
    """The setting as it is written."""
    if isinstance(setting, Conditional):
        return setting.to_plain()
    if isinstance(setting, tuple):
        return [to_plain(part) for part in setting]
    return setting
