"""What a table is: which task kind it suits beside the open models, and which column is which field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.data.fields import SEVERAL, CellError, Mapped, list_of, number_of
from explorer.data.labels import label_text
from explorer.data.reading import LOOKED_AT, DataFile
from explorer.evaluation import KINDS, Field, TaskKind

_IMAGE = re.compile(r"\.(png|jpe?g|webp|bmp|gif|tiff?)$", re.IGNORECASE)
_SURE, _LIKELY = 0.75, 0.45


@dataclass(frozen=True)
class Guess:
    """A kind and the columns of its fields, with a confidence 0-1: how well names and contents speak for it.

    `missing`: fields that no column fits.
    """

    kind: str
    mapping: Mapped
    confidence: float
    missing: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The confidence in words."""
        if self.missing:
            return "incomplete"
        return "sure" if self.confidence >= _SURE else "likely" if self.confidence >= _LIKELY else "a mere guess"


def guess_kinds(
    data: DataFile, config: Mapping[str, Any], *, has_head: bool = False, labels: Sequence[str] = ()
) -> list[Guess]:
    """Every task kind with its best columns, the likeliest first.

    `config` is that of the model to be scored; `has_head`: whether a frozen head is at hand, for kinds that need one;
    `labels`: those of the model's head, which tell the column of labels better than its name.
    Confidence = fit of the architecture · mean over the kind's required fields of (fit of name · fit of content),
    halved for each required field without a column.
    """
    values = {c: data.column(c) for c in data.columns} if len(data.columns) <= 100 else _looked(data)
    guesses = [_guess(kind, data, values, architecture_fit(kind, config, has_head), labels) for kind in KINDS]
    return sorted(guesses, key=lambda g: (-g.confidence, g.kind))


def guess_mapping(kind: TaskKind, data: DataFile) -> Guess:
    """The best columns of one kind, whatever the model."""
    return _guess(kind, data, _looked(data), 1.0, ())


def _looked(data: DataFile) -> dict[str, list[Any]]:
    rows = data.first(LOOKED_AT)
    return {c: [r.values.get(c) for r in rows] for c in data.columns}


def _guess(
    kind: TaskKind, data: DataFile, values: Mapping[str, list[Any]], suited: float, labels: Sequence[str]
) -> Guess:
    wanted = sorted(kind.fields, key=lambda f: f.optional)
    offers = [(_fit(f, c, values[c], labels), -i, f, c) for i, f in enumerate(wanted) for c in data.columns]
    mapping: dict[str, tuple[str, ...]] = {}
    fits: dict[str, float] = {}
    for fit, _, field, column in sorted(offers, key=lambda o: o[:2], reverse=True):
        # An optional field is filled by its name only: a guess from contents would give every column a meaning.
        good = fit > (0.3 if field.optional else 0.05)
        if good and field.name not in mapping and (column,) not in mapping.values():
            mapping[field.name], fits[field.name] = (column,), fit
    required = [f for f in kind.fields if not f.optional]
    for field in (f for f in required if f.type == "texts" and fits.get(f.name, 0) < 0.5):
        if several := _lettered(data.columns, mapping, field):
            mapping[field.name], fits[field.name] = several, 0.9
    missing = tuple(f.name for f in required if f.name not in mapping)
    mean = sum(fits.get(f.name, 0.0) for f in required) / max(1, len(required))
    confidence = mean * 0.5 ** len(missing) * suited
    ordered = {f.name: mapping[f.name] for f in kind.fields if f.name in mapping}
    return Guess(kind.name, ordered, round(confidence, 4), missing)


def architecture_fit(kind: TaskKind, config: Mapping[str, Any], has_head: bool) -> float:
    """How well a model serves a kind, 0-1: its class against the one that the kind makes, and a head where it needs
    one that no checkpoint brings. 0.9 for an unknown model."""
    if "head" in kind.needs and not has_head:
        return 0.1
    classes = [a for a in config.get("architectures") or () if isinstance(a, str)]
    at_hand = 0.1 if "head" in kind.needs else 0.0  # a head that was kept for this task speaks for the kind it serves
    if not classes:
        return 0.9 + at_hand
    role = kind.auto.removeprefix("AutoModel")
    if role and any(c.endswith(role) for c in classes):
        return 1.0
    if role == "ForCausalLM" and any(c.endswith("LMHeadModel") for c in classes):
        return 1.0
    headless = not any("For" in c or c.endswith("HeadModel") for c in classes)
    return (0.9 if headless else 0.5) + at_hand if not role else 0.1


def _fit(field: Field, column: str, values: Sequence[Any], labels: Sequence[str]) -> float:
    content = _CONTENT.get(field.type, _text_fit)(values)
    named = _name_fit(field, column)
    if field.type == "label" and labels:
        known = {_plain(label) for label in labels}
        named = max(named, _share(values, lambda v: _plain(label_text(v)) in known))
    return content * (0.25 + 0.75 * named)


def _name_fit(field: Field, column: str) -> float:
    plain, names = _plain(column), [_plain(n) for n in (field.name, *field.names)]
    if plain in names:
        return 1 - 0.02 * min(10, names.index(plain))
    return 0.5 if any(n in plain.split() or plain in n.split() for n in names) else 0.0


def _lettered(columns: Sequence[str], mapping: Mapped, field: Field) -> tuple[str, ...]:
    """Columns that together are a list: A, B, C, or choice1, choice2, choice3."""
    taken = {c for f, cs in mapping.items() for c in cs if f != field.name}
    free = [c for c in columns if c not in taken]
    for names in ("ABCDEFGH", "abcdefgh"):
        run = [c for c in names if c in free]
        if len(run) >= 2 and run == list(names[: len(run)]):
            return tuple(run)
    stems: dict[str, list[str]] = {}
    for column in free:
        if match := re.fullmatch(r"(.*?)[ _-]?\d{1,2}", column):
            stems.setdefault(match[1], []).append(column)
    longest = max(stems.values(), key=lambda found: len(found), default=[])
    return tuple(longest) if len(longest) > 1 else ()


def _share(values: Sequence[Any], holds: Callable[[Any], bool]) -> float:
    given = [v for v in values if v is not None and v != ""]
    return sum(holds(v) for v in given) / len(given) if given else 0.0


def _text_fit(values: Sequence[Any]) -> float:
    words = _share(values, lambda v: isinstance(v, str) and not _is_number(v) and not _IMAGE.search(v))
    several = _share(values, lambda v: isinstance(v, str) and len(v.split()) > 1)
    different = len({str(v) for v in values}) / max(1, len(values))
    return words * (0.5 + 0.3 * several + 0.2 * different)


def _label_fit(values: Sequence[Any]) -> float:
    plain = _share(values, lambda v: isinstance(v, (str, int)) and len(str(v)) <= 60)
    several = len({label_text(v) for v in values})
    repeats = 1.0 if several <= max(2, len(values) // 2) else 0.3
    return plain * repeats


def _number_fit(values: Sequence[Any]) -> float:
    """Numbers; those that only count the rows say nothing."""
    counts = [str(v) for v in values] in ([str(i + s) for i in range(len(values))] for s in (0, 1))
    return _share(values, _is_number) * (0.2 if counts else 1.0)


def _list_fit(values: Sequence[Any]) -> float:
    whole = _share(values, lambda v: isinstance(v, (list, tuple)) or (isinstance(v, str) and v.lstrip()[:1] == "["))
    return max(whole, 0.3 * _share(values, lambda v: len(list_of(v, "tokens")) > 1))


def _image_fit(values: Sequence[Any]) -> float:
    return _share(values, lambda v: isinstance(v, (bytes, dict)) or (isinstance(v, str) and bool(_IMAGE.search(v))))


def _is_number(value: Any) -> bool:
    try:
        number_of(value, "")
    except CellError:
        return False
    return True


_CONTENT: dict[str, Callable[[Sequence[Any]], float]] = {
    "text": _text_fit, "label": _label_fit, "number": _number_fit, "image": _image_fit,
    **dict.fromkeys(SEVERAL, _list_fit),
}  # fmt: skip


def _plain(name: str) -> str:
    """`InputText`, `input_text` and `input-text` alike."""
    return re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).strip().casefold()
