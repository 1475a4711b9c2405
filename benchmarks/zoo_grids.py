"""The small grid of every merge method: its scale first, then one main parameter at the best scale.

Read from the declarations, so that a new method has a grid at once. `MAIN` and `VALUES` say where another parameter,
or other values, are worth more than what the rule below gives.
"""

from __future__ import annotations

from typing import Any

from explorer.merging import Method
from explorer.params import Choice, Range, Spec

SCALE_FACTORS = (0.7, 1.3, 1.8, 2.5)
"""Scales tried, as multiples of the default; those outside the declared range are left out."""

MAIN = {"consensus": "mask_threshold", "ownership": "density"}
"""Method -> the parameter searched after the scale, where it is not the first plain one of the signature."""

VALUES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("tall_masks", "mask_threshold"): (0.2, 0.3, 0.5, 0.6),
    ("consensus", "mask_threshold"): (0.2, 0.6),
    ("magnitude_masking", "density"): (0.05, 0.2, 0.5),
    ("ownership", "density"): (0.2, 0.5),
    ("reversible", "components"): (2, 4),
    ("tatr", "trusted"): (0.9, 0.999),
}
"""(method, parameter) -> the values tried beside the default."""

_NO_AXIS = ("weight",)
"""One number for all tasks changes nothing where weights are normalized, and is a second scale where they are not."""


def axes(method: Method) -> list[tuple[str, tuple[Any, ...]]]:
    """What is searched, one after another: (parameter, values beside the default). Empty where nothing is to set."""
    scale = next((s for s in method.specs if s.name == "scale" or s.name.endswith("_scale")), None)
    plain = [s for s in method.specs if s is not scale and s.name not in _NO_AXIS and not s.advanced]
    named = next((s for s in method.specs if s.name == MAIN.get(method.name)), None)
    main = named or next((s for s in plain if _others(method.name, s)), None)
    found = []
    if scale is not None:
        given = VALUES.get((method.name, scale.name))
        tried = (_rounded(float(scale.default) * f) for f in SCALE_FACTORS)
        found.append((scale.name, given or tuple(v for v in tried if v in _range(scale))))
    if main is not None:
        found.append((main.name, _others(method.name, main)))
    return [(name, values) for name, values in found if values]


def _others(method: str, spec: Spec) -> tuple[Any, ...]:
    """Values worth a try beside the default: every other choice, or one number on either side."""
    given = VALUES.get((method, spec.name))
    if given:
        return given
    if isinstance(spec.allowed, Choice):
        return tuple(o for o in spec.allowed.options if o != spec.default)
    if spec.type is bool:
        return (not spec.default,)
    if not isinstance(spec.allowed, Range) or spec.default == 0:
        return ()
    high = spec.allowed.high
    above = 2 * spec.default if 2 * spec.default <= high else (spec.default + high) / 2
    tried = [spec.type(_rounded(v)) for v in ((spec.allowed.low + spec.default) / 2, above)]
    return tuple(v for v in dict.fromkeys(tried) if v != spec.default and v in spec.allowed)


def _range(spec: Spec) -> Range:
    assert isinstance(spec.allowed, Range), f"{spec.name} is no number"
    return spec.allowed


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
