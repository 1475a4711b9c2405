"""Per-block values: one number for each tensor, from patterns over tensor names.

    scale: {"encoder.layer.0.*": 0.2, "encoder.layer.1.attention.*": 0.5, "*": 0.3}

A tensor takes the value under its own name; else that of the first pattern that matches it, in the order written;
else the parameter's default. So learned layer-wise or tensor-wise coefficients (AdaMerging, aTLAS, Self-Positioning)
are plain numbers in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from explorer.errors import ParameterError, all_problems, near, sentence

if TYPE_CHECKING:
    from explorer.params import Spec


def block_value(value: Any, name: str, default: Any) -> Any:
    """The value that the tensor `name` takes: `value` itself, or what its patterns say."""
    if not isinstance(value, Mapping):
        return value
    if name in value:
        return value[name]
    return next((v for pattern, v in value.items() if fnmatchcase(name, pattern)), default)


def several_schema(spec: Spec, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a parameter that may be one number, or numbers per task, per tensor pattern, or both."""
    single = {k: v for k, v in schema.items() if k not in ("description", "default")}
    mapping = {"type": "object", "additionalProperties": single}
    nested = {"type": "object", "additionalProperties": {"anyOf": [single, mapping]}}
    forms = [single, nested if spec.per_task and spec.per_block else mapping]
    return {"description": spec.help, "default": spec.default, "anyOf": forms}


def has_blocks(value: Any) -> bool:
    """Whether a checked value, or one of several per task, differs by tensor."""
    values = value if isinstance(value, tuple) else (value,)
    return any(isinstance(one, Mapping) for one in values)


def require_matches(specs: Sequence[Spec], values: Mapping[str, Any], names: Sequence[str], *, who: str) -> None:
    """Raise ParameterError naming every pattern that fits no tensor: it would be ignored without a word.

    `values` are checked ones: a value, or a tuple with one per task.
    """
    known = set(names)
    problems: dict[str, None] = {}
    for spec in specs:
        value = values[spec.name] if spec.per_block else None
        for one in value if isinstance(value, tuple) else (value,):
            for pattern in one if isinstance(one, Mapping) else ():
                if pattern not in known and not any(fnmatchcase(name, pattern) for name in names):
                    must = f"{spec.name}: every pattern must match a tensor of the merge"
                    problems[sentence(who, must, repr(pattern), _hint(pattern, names))] = None
    if problems:
        raise ParameterError(all_problems(who, list(problems)))


def _hint(pattern: str, names: Sequence[str]) -> str:
    hint = near(pattern, names)
    return hint if hint.startswith("Did") else f"Names look like {names[0]!r}."
