"""Per-block values: one number for each tensor, from patterns over tensor names.

    scale: {"encoder.layer.0.*": 0.2, "encoder.layer.1.attention.*": 0.5, "*": 0.3}

A tensor takes the value under its own name; else that of the first pattern that matches it, in the order written;
else the parameter's default. So learned layer-wise or tensor-wise coefficients (AdaMerging, aTLAS, Self-Positioning)
are plain numbers in a recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from explorer.errors import ParameterError, all_problems, near, sentence

if TYPE_CHECKING:
    from explorer.params import Spec

_SPECIAL = "*?["


def block_value(value: Any, name: str, default: Any) -> Any:
    """The value that the tensor `name` takes: `value` itself, or what its patterns say."""
    if not isinstance(value, Mapping):
        return value
    if name in value:
        return value[name]
    return next((v for pattern, v in value.items() if _fits(name, pattern)), default)


def _fits(name: str, pattern: str) -> bool:
    """`fnmatchcase`, several times as fast for patterns such as `layer.3.*`: live merges ask this for every tensor."""
    start, anything = _start(pattern)
    return name.startswith(start) and (anything or fnmatchcase(name, pattern))


@lru_cache(maxsize=32768)
def _start(pattern: str) -> tuple[str, bool]:
    """What comes before the first special character, and whether that is a single `*` at the end."""
    length = next((i for i, character in enumerate(pattern) if character in _SPECIAL), len(pattern))
    return pattern[:length], pattern[length:] == "*"


def compact(values: Mapping[str, float], otherwise: float) -> dict[str, float]:
    """Few patterns that give every tensor its value: `compact` and then `block_value` gives each value back.

    `values`: tensor name -> number, for every tensor. Patterns follow the dots of the names, special ones before
    general ones, and `encoder.layer.1.*` never fits layer 10; the last one is `*: otherwise`, alone for no values.
    Where a name has a character that means something in a pattern, or is the path of others, names are written out: an
    own name counts first.
    """
    paths = {n[:i] for n in values for i, character in enumerate(n) if character == "."}
    odd = [n for n in values if n in paths or any(character in n for character in _SPECIAL)]
    if not odd:
        return {**dict(_Tree(values).exceptions("", tuple(sorted(values)), otherwise)), "*": otherwise}
    caught = [n for n, v in values.items() if v != otherwise or any(fnmatchcase(n, other) for other in odd)]
    return {**{n: values[n] for n in caught}, "*": otherwise}


class _Tree:
    """The parts of dotted names, and the shortest way to say their values beneath each."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values
        self._known: dict[tuple[str, float], list[tuple[str, float]]] = {}

    def exceptions(self, prefix: str, names: tuple[str, ...], given: float) -> list[tuple[str, float]]:
        """What must be said of `names`, all beneath `prefix`, where `given` would hold otherwise."""
        if (prefix, given) not in self._known:
            self._known[prefix, given] = self._found(prefix, names, given)
        return self._known[prefix, given]

    def _found(self, prefix: str, names: tuple[str, ...], given: float) -> list[tuple[str, float]]:
        """The shorter of two ways: exceptions from `given`, or from the commonest value, which is said after them."""
        held = Counter(self._values[n] for n in names)
        if set(held) <= {given}:
            return []
        if len(names) == 1:
            return [(names[0], self._values[names[0]])]
        usual = held.most_common(1)[0][0]
        if len(held) == 1 and prefix:
            return [(f"{prefix}*", usual)]
        plain = self._beneath(prefix, names, given)
        if not prefix or usual == given:
            return plain
        named = [*self._beneath(prefix, names, usual), (f"{prefix}*", usual)]
        return named if len(named) < len(plain) else plain

    def _beneath(self, prefix: str, names: tuple[str, ...], given: float) -> list[tuple[str, float]]:
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(name[len(prefix) :].partition(".")[0], []).append(name)
        return [rule for p, inside in parts.items() for rule in self.exceptions(f"{prefix}{p}.", tuple(inside), given)]


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
