"""The controls of a plugin's declared parameters, all in one value of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from explorer.errors import ParameterError, sentence
from explorer.params import Choice, Range, Spec, check_values
from viz.parts import assets

_SCRIPT = assets.script("controls.js", css="controls.css")


with assets.no_stub_file():

    class Controls(gr.HTML):
        """One control per declared parameter: slider and number, list, or switch, each with its help.

        The value is what `controls_value` returns. Events: `input` while a slider moves, `release` when a change
        is done. Python's own updates fire neither. Read it with `read_controls`, which checks everything.
        """

        def __init__(self, value: Mapping[str, Any] | None = None, **options: Any) -> None:
            super().__init__(
                value=value,
                html_template='<section class="explorer-controls"></section>',
                css_template="",
                js_on_load=_SCRIPT,
                apply_default_css=False,
                padding=False,
                **options,
            )

        def postprocess(self, value: Any) -> str | None:
            """The value as JSON text."""
            return None if value is None else json.dumps(value, ensure_ascii=False)

        def preprocess(self, payload: Any) -> Any:
            """The value that is shown, or None where the page sent something else."""
            try:
                value = json.loads(payload) if isinstance(payload, str) else payload
            except ValueError:
                return None
            return value if isinstance(value, dict) else None


def controls_value(
    who: str,
    specs: Sequence[Spec],
    values: Mapping[str, Any] | None = None,
    empty: str = "",
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Value of `Controls`: the declarations in the page's words and the present values.

    A value that is a mapping (one per task) shows as the first of them; `empty` is said when there is nothing to set;
    `labels` stand for a parameter's own name. A parameter named `switch.setting` is seen while that switch is on.
    """
    given = values or {}
    present = {s.name: _single(given.get(s.name, s.default)) for s in specs}
    words = labels or {}
    described = [{**_described(s), "label": words.get(s.name, s.label)} for s in specs]
    return {"who": who, "specs": described, "values": present, "empty": empty}


def _single(value: Any) -> Any:
    return next(iter(value.values())) if isinstance(value, Mapping) and value else value


def _described(spec: Spec) -> dict[str, Any]:
    plain = {**spec.describe(), "label": spec.label, "must": spec.must}
    if isinstance(spec.allowed, Range):
        step = spec.allowed.step or (1 if spec.type is int else (spec.allowed.high - spec.allowed.low) / 100)
        low = spec.allowed.low + (step if spec.allowed.open_low else 0)
        high = spec.allowed.high - (step if spec.allowed.open_high else 0)
        # The slider stops at its last legal step; a typed number may go as far as the declaration says.
        bounds = {k: getattr(spec.allowed, k) for k in ("low", "high", "open_low", "open_high")}
        plain |= {"control": "slider", "low": low, "high": high, "step": step, "bounds": bounds}
    elif isinstance(spec.allowed, Choice):
        plain |= {"control": "list", "options": list(spec.allowed.options), "labels": list(spec.allowed.labels)}
    else:
        plain |= {"control": "switch" if spec.type is bool else "text"}
    return plain


def read_controls(value: Any, specs: Sequence[Spec], *, who: str) -> dict[str, Any]:
    """The checked parameter values that the page shows; parameters it does not show keep their defaults.

    Raises ParameterError with every problem at once; the page's value is never trusted.
    """
    values = value.get("values") if isinstance(value, dict) else None
    if not isinstance(values, dict):
        raise ParameterError(sentence(who, "the settings must be a mapping", type(value).__name__, "Reload the page."))
    return check_values(specs, {k: v for k, v in values.items() if isinstance(k, str)}, who=who)
