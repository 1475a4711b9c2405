"""What a mergekit recipe says, as values. Keys that nobody knows are kept in `unknown` and written again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from explorer.mergekit.settings import Settings, to_plain

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64")
TEMPLATES = ("auto", "alpaca", "chatml", "llama3", "mistral", "exaone")
Unknown = Mapping[str, Any]


@dataclass(frozen=True)
class ModelRef:
    """A model: a path or a name on the hub, its revision, and an adapter that is put on it first."""

    path: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None
    architecture: str | None = None

    @property
    def opened(self) -> str:
        """What to open: path or name@revision."""
        return f"{self.path}@{self.revision}" if self.revision else self.path

    @property
    def lora_opened(self) -> str | None:
        """What to open for the adapter."""
        return f"{self.lora}@{self.lora_revision}" if self.lora and self.lora_revision else self.lora

    def __str__(self) -> str:
        return f"{self.opened}+{self.lora_opened}" if self.lora else self.opened

    def to_plain(self) -> Any:
        """As it is written: one text where that says all."""
        if self.architecture is None and "+" not in self.path:
            return str(self)
        model: Any = {"path": self.path, "revision": self.revision} if self.revision else self.path
        plain = {"model": model, "lora": self.lora_opened, "override_architecture": self.architecture}
        return {key: value for key, value in plain.items() if value is not None}


@dataclass(frozen=True)
class Source:
    """One input of an output slice; `layers` [start, end) or None for the whole model."""

    model: ModelRef
    layers: tuple[int, int] | None = None
    parameters: Settings | None = None
    line: int = 0
    unknown: Unknown = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As it is written."""
        layers = {"layer_range": list(self.layers)} if self.layers else {}
        return {"model": self.model.to_plain(), **layers, **_settings(self.parameters), **self.unknown}


@dataclass(frozen=True)
class Slice:
    """One run of output layers, merged from its sources."""

    sources: tuple[Source, ...]
    base_model: ModelRef | None = None
    parameters: Settings | None = None
    line: int = 0
    unknown: Unknown = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As it is written."""
        base = {"base_model": self.base_model.to_plain()} if self.base_model else {}
        sources = [s.to_plain() for s in self.sources]
        return {"sources": sources, **base, **_settings(self.parameters), **self.unknown}


@dataclass(frozen=True)
class Module:
    """One part of a model: whole models, or slices of their layers. Exactly one of both is there."""

    models: tuple[Source, ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: Settings | None = None
    line: int = 0
    unknown: Unknown = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As it is written."""
        key = "models" if self.models else "slices"
        parts = [part.to_plain() for part in (self.models or self.slices)]
        return {key: parts, **_settings(self.parameters), **self.unknown}


@dataclass(frozen=True)
class Token:
    """Where the embedding of one token comes from: a model, a token of a model, or zeros."""

    model: ModelRef | None = None
    token: str | int | None = None
    zero: bool = False
    force: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """Which tokenizer the output gets: "union", "base" or a model; `short` for the key tokenizer_source."""

    source: str | ModelRef = "union"
    tokens: Mapping[str, Token] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    short: bool = False
    line: int = 0
    plain: Any = None


@dataclass(frozen=True)
class Document:
    """One merge. `modules` has the one key "" where the recipe names `models` or `slices` directly."""

    merge_method: str
    modules: Mapping[str, Module]
    base_model: ModelRef | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    parameters: Settings | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    name: str | None = None
    line: int = 1
    source: str = "recipe"
    unknown: Unknown = field(default_factory=dict)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model, each once: the base first, then in the order of the file."""
        named = (self.base_model, *(s.model for s in self.sources()), *(s.base_model for s in self.slices()))
        return tuple(dict.fromkeys(m for m in named if m is not None))

    def slices(self) -> Iterator[Slice]:
        """Every output slice."""
        for module in self.modules.values():
            yield from module.slices

    def sources(self) -> Iterator[Source]:
        """Every mention of a model as an input."""
        for module in self.modules.values():
            yield from module.models
            for part in module.slices:
                yield from part.sources

    def to_plain(self) -> dict[str, Any]:
        """As it is written."""
        plain: dict[str, Any] = {"name": self.name} if self.name else {}
        plain["merge_method"] = self.merge_method
        if self.base_model:
            plain["base_model"] = self.base_model.to_plain()
        whole = self.modules.get("")
        if whole:
            plain |= {key: value for key, value in whole.to_plain().items() if key != "parameters"}
        else:
            plain["modules"] = {name: module.to_plain() for name, module in self.modules.items()}
        plain |= _settings(self.parameters)
        texts = {"dtype": self.dtype, "out_dtype": self.out_dtype, "chat_template": self.chat_template}
        plain |= {key: value for key, value in texts.items() if value is not None}
        if self.tokenizer:
            plain["tokenizer_source" if self.tokenizer.short else "tokenizer"] = self.tokenizer.plain
        return {**plain, **self.unknown}


@dataclass(frozen=True)
class RecipeFile:
    """A file of mergekit recipes: its documents, what to warn about, and the text as it was given."""

    documents: tuple[Document, ...]
    warnings: tuple[str, ...]
    text: str
    source: str

    def to_yaml(self) -> str:
        """The recipes as YAML; unknown keys are in it, comments are not."""
        import yaml

        plain = [d.to_plain() for d in self.documents]
        return yaml.safe_dump_all(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _settings(parameters: Settings | None) -> dict[str, Any]:
    return {"parameters": {name: to_plain(value) for name, value in parameters.items()}} if parameters else {}
