"""Reads mergekit recipes (the schema of release 0.1.5): every problem at once, each with its line in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from explorer.errors import RecipeError, near, sentence
from explorer.mergekit.located import Located, documents
from explorer.mergekit.methods import METHODS
from explorer.mergekit.parameters import ParameterReader
from explorer.mergekit.references import ReferenceReader
from explorer.mergekit.schema import DTYPES, TEMPLATES, Document, Module, RecipeFile, Slice, Source
from explorer.mergekit.settings import Settings
from explorer.mergekit.trouble import Trouble

T = TypeVar("T")
_TOP = (
    *("merge_method", "models", "slices", "modules", "base_model", "dtype", "out_dtype", "parameters"),
    *("tokenizer_source", "tokenizer", "chat_template", "name"),
)
_INPUTS = ("models", "slices", "modules")


def is_mergekit(text: str) -> bool:
    """Whether a recipe's text is in mergekit's form: it says `merge_method`, at the beginning of a line."""
    return any(line.startswith(("merge_method:", "merge_method :", '"merge_method"')) for line in text.splitlines())


def read_file(path: Path | str) -> RecipeFile:
    """Read a file. Raises RecipeError when it cannot be read, or naming every problem at once."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        advice = "Check the path."
        raise RecipeError(sentence(str(path), "must be a readable recipe file", str(error), advice)) from error
    return read_text(text, source=str(path))


def read_text(text: str, *, source: str = "recipe") -> RecipeFile:
    """Read the text of one recipe, or of several documents as mergekit-multi takes them.

    Unknown keys are kept and warned about with near names. Raises RecipeError naming every problem at once.
    """
    found, first = documents(text, source)
    trouble = Trouble(source)
    for line, problem in first:
        trouble.add(line, problem)
    if not found:
        raise RecipeError(sentence(source, "must hold a recipe", "no document", "Write merge_method and models."))
    read = [_Reader(trouble).document(d) for d in found]
    made = tuple(d for d in read if d is not None)
    _names(made, len(found), trouble)
    trouble.check()
    return RecipeFile(made, tuple(trouble.warnings), text, source)


def _names(made: tuple[Document, ...], count: int, trouble: Trouble) -> None:
    """Several documents: each has a name of its own, but for at most one, the final output."""
    if count < 2:
        return
    seen: dict[str, int] = {}
    for one in made:
        if one.name is None:
            continue
        if one.name in seen:
            trouble.say(one.line, "name", "every document needs its own name", repr(one.name), "Rename one of them.")
        seen[one.name] = one.line
    unnamed = [d for d in made if d.name is None]
    if len(unnamed) > 1:
        must = "at most one of several documents, the final one, may be without a name"
        trouble.say(unnamed[1].line, "name", must, f"{len(unnamed)} without", "Add `name: …` to the others.")


class _Reader:
    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.references = ReferenceReader(trouble)

    def document(self, given: Located) -> Document | None:
        entries = self._mapping(given, "a recipe")
        if entries is None:
            return None
        method = self._method(entries.get("merge_method"), given.line)
        self.parameters = ParameterReader(self.trouble, METHODS.get(method or ""))
        held = [key for key in _INPUTS if _is_given(entries.get(key))]
        if len(held) != 1:
            got, advice = " and ".join(held) or "none of them", "Keep one: models for whole models, slices for layers."
            self.trouble.say(given.line, "recipe", "must name exactly one of models, slices and modules", got, advice)
        modules = self._modules(entries, held)
        return Document(
            merge_method=method or "",
            modules=modules,
            base_model=self._optional(entries, "base_model", self.references.model),
            dtype=self._optional(entries, "dtype", lambda v: self._dtype(v, "dtype")),
            out_dtype=self._optional(entries, "out_dtype", lambda v: self._dtype(v, "out_dtype")),
            parameters=self._parameters(entries),
            tokenizer=self._tokenizer(entries, given.line),
            chat_template=self._optional(entries, "chat_template", self._template),
            name=self._optional(entries, "name", self._name),
            line=given.line,
            source=self.trouble.source,
            unknown=self._unknown(entries, _TOP),
        )

    def _method(self, given: Located | None, line: int) -> str | None:
        if given is None or not isinstance(given.plain, str):
            got = "none" if given is None else given.kind
            at = given.line if given else line
            self.trouble.say(at, "merge_method", "must name a method", got, "Known: " + ", ".join(METHODS) + ".")
            return None
        if given.plain not in METHODS:
            hint = near(given.plain, METHODS)
            self.trouble.say(given.line, "merge_method", "must be one of mergekit's methods", repr(given.plain), hint)
        return given.plain

    def _modules(self, entries: Mapping[str, Located], held: Iterable[str]) -> dict[str, Module]:
        made: dict[str, Module] = {}
        for key in held:
            given = entries[key]
            if key == "modules":
                for name, entry in (self._mapping(given, "modules") or {}).items():
                    made[name] = self._module(entry)
            else:
                made[""] = self._whole(key, given, given.line, None, {})
        return made

    def _module(self, given: Located) -> Module:
        entries = self._mapping(given, "a module") or {}
        held = [key for key in ("models", "slices") if _is_given(entries.get(key))]
        if len(held) != 1:
            got = " and ".join(held) or "none of both"
            self.trouble.say(given.line, "module", "must name either models or slices", got, "Keep one of them.")
            return Module(line=given.line)
        unknown = self._unknown(entries, ("models", "slices", "parameters", "name"))
        return self._whole(held[0], entries[held[0]], given.line, self._parameters(entries), unknown)

    def _whole(
        self, key: str, given: Located, line: int, parameters: Settings | None, unknown: Mapping[str, Any]
    ) -> Module:
        items = self._list(given, key)
        if key == "models":
            sources = tuple(s for s in (self._source(i, whole=True) for i in items) if s)
            self._each_once(sources, "models")
            return Module(sources, (), parameters, line, unknown)
        return Module((), tuple(self._slice(i) for i in items), parameters, line, unknown)

    def _slice(self, given: Located) -> Slice:
        entries = self._mapping(given, "a slice") or {}
        sources: tuple[Source, ...] = ()
        if "sources" in entries:
            found = (self._source(i, whole=False) for i in self._list(entries["sources"], "sources"))
            sources = tuple(s for s in found if s)
        else:
            self.trouble.say(given.line, "slice", "must have sources", "none", "Add `sources: [{model: …}]`.")
        self._each_once(sources, "sources")
        lengths = sorted({s.layers[1] - s.layers[0] for s in sources if s.layers})
        if len(lengths) > 1:
            must, got = "all sources of a slice must have equally many layers", " and ".join(map(str, lengths))
            self.trouble.say(given.line, "slice", must, got, "Change the layer_range of some.")
        known = ("sources", "base_model", "residual_weight", "parameters")
        base = self._optional(entries, "base_model", self.references.model)
        unknown = self._unknown(entries, known)
        if "residual_weight" in entries:
            unknown["residual_weight"] = entries["residual_weight"].value
            line = entries["residual_weight"].line
            self.trouble.warn(line, "residual_weight is accepted and changes nothing, in mergekit as here.")
        return Slice(sources, base, self._parameters(entries), given.line, unknown)

    def _each_once(self, sources: tuple[Source, ...], who: str) -> None:
        for place, one in enumerate(sources):
            if one.model in [s.model for s in sources[:place]]:
                must, advice = "every model must stand once", "Leave one out, or give it half the weight of a copy."
                self.trouble.say(one.line, who, must, f"{one.model} again", advice)

    def _source(self, given: Located, *, whole: bool) -> Source | None:
        if whole and isinstance(given.plain, str):  # mergekit wants a mapping; the meaning is clear all the same
            given = Located(given.line, entries={"model": given})
        entries = self._mapping(given, "an input")
        if entries is None:
            return None
        model = self._optional(entries, "model", self.references.model)
        layers = self._optional(entries, "layer_range", self._layers)
        if "model" not in entries:
            self.trouble.say(given.line, "input", "must name its model", "none", "Add `model: path or org/name`.")
        if not whole and "layer_range" not in entries:
            must, advice = (
                "a source of a slice must say which layers",
                "Add `layer_range: [0, 16]`; the end is left out.",
            )
            self.trouble.say(given.line, "source", must, "none", advice)
        known = ("model", "parameters") if whole else ("model", "layer_range", "parameters")
        parameters, unknown = self._parameters(entries), self._unknown(entries, known)
        return Source(model, None if whole else layers, parameters, given.line, unknown) if model else None

    def _layers(self, given: Located) -> tuple[int, int] | None:
        ends = [i.plain for i in given.items or ()]
        whole = all(isinstance(e, int) and not isinstance(e, bool) for e in ends)
        if len(ends) == 2 and whole and 0 <= ends[0] < ends[1]:
            return ends[0], ends[1]
        got = given.kind if given.items is None else repr(given.value)
        must, advice = "must be [start, end) with 0 <= start < end", "Use [0, 16] for the first sixteen layers."
        self.trouble.say(given.line, "layer_range", must, got, advice)
        return None

    def _dtype(self, given: Located, who: str) -> str | None:
        name = str(given.plain).removeprefix("torch.")
        name = {"float": "float32", "half": "float16", "double": "float64"}.get(name, name)
        if name in DTYPES and name != "int64":
            return name
        self.trouble.say(given.line, who, "must be one of " + ", ".join(DTYPES[:4]), given.kind, near(name, DTYPES[:4]))
        return None

    def _template(self, given: Located) -> str | None:
        text = given.plain
        if isinstance(text, str) and (text in TEMPLATES or (len(text) >= 20 and "{" in text)):
            return text
        must = "must be auto, a known name or a Jinja template"
        self.trouble.say(given.line, "chat_template", must, given.kind, near(str(text), TEMPLATES))
        return None

    def _name(self, given: Located) -> str | None:
        if isinstance(given.plain, str) and given.plain.strip():
            return given.plain
        self.trouble.say(given.line, "name", "must be text", given.kind, "Write `name: stage-one`.")
        return None

    def _tokenizer(self, entries: Mapping[str, Located], line: int) -> Any:
        both = [key for key in ("tokenizer_source", "tokenizer") if _is_given(entries.get(key))]
        if len(both) == 2:
            must = "must say either tokenizer_source or tokenizer"
            self.trouble.say(entries["tokenizer"].line, "recipe", must, "both", "Keep one of them.")
        return self.references.tokenizer(entries[both[-1]], short=both[-1] == "tokenizer_source") if both else None

    def _parameters(self, entries: Mapping[str, Located]) -> Settings | None:
        return self._optional(entries, "parameters", self.parameters.read)

    def _optional(self, entries: Mapping[str, Located], key: str, read: Callable[[Located], T | None]) -> T | None:
        return read(entries[key]) if _is_given(entries.get(key)) else None

    def _unknown(self, entries: Mapping[str, Located], known: tuple[str, ...]) -> dict[str, Any]:
        return self.trouble.unknown(entries, known)

    def _mapping(self, given: Located, who: str) -> dict[str, Located] | None:
        if given.entries is None:
            self.trouble.say(given.line, who, "must be a mapping", given.kind, "Write `key: value` lines.")
        return given.entries

    def _list(self, given: Located, who: str) -> tuple[Located, ...]:
        if given.items is None:
            self.trouble.say(given.line, who, "must be a list", given.kind, "Begin every entry with `- `.")
        return given.items or ()


def _is_given(value: Located | None) -> bool:
    return value is not None and (value.entries is not None or value.items is not None or value.plain is not None)
