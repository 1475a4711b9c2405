"""How a recipe names models, and where it says the tokenizer comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from explorer.mergekit.located import Located
from explorer.mergekit.schema import ModelRef, Token, Tokenizer
from explorer.mergekit.trouble import Trouble

_FORM = "Write path or org/name, then @revision and +adapter where needed."


class ReferenceReader:
    """Reads model references; what is wrong goes to `trouble`."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def model(self, given: Located) -> ModelRef | None:
        """`path[@revision][+adapter[@revision]]`, or the same as a mapping."""
        if isinstance(given.plain, str) and given.plain.strip():
            return self._text(given.plain.strip(), given.line)
        if given.entries is None or "model" not in given.entries:
            self.trouble.say(given.line, "model", "must be the text of a model", given.kind, _FORM)
            return None
        model = self._path(given.entries["model"])
        lora = self._path(given.entries["lora"]) if "lora" in given.entries else (None, None)
        self.trouble.unknown(given.entries, ("model", "lora", "override_architecture"))
        architecture = given.entries.get("override_architecture")
        kind = architecture.plain if architecture else None
        return ModelRef(model[0], model[1], lora[0], lora[1], kind) if model[0] else None

    def _path(self, given: Located) -> tuple[Any, str | None]:
        if given.entries is not None:
            path, revision = (given.entries.get(key) for key in ("path", "revision"))
            if path is not None and isinstance(path.plain, str):
                return path.plain, str(revision.plain) if revision is not None and revision.plain is not None else None
        if not isinstance(given.plain, str):
            self.trouble.say(given.line, "model", "must be a path, or {path, revision}", given.kind, _FORM)
            return None, None
        return _revision(given.plain)

    def _text(self, text: str, line: int) -> ModelRef | None:
        if Path(text).exists():  # a folder whose own name holds @ or +
            return ModelRef(text)
        model, *loras = text.split("+")
        if len(loras) > 1 and not Path(model).exists():
            self.trouble.say(line, "model", "may have one adapter", f"{len(loras)} in {text!r}", _FORM)
            return None
        lora, lora_revision = _revision(loras[0]) if loras else (None, None)
        return ModelRef(*_revision(model), lora, lora_revision)

    def tokenizer(self, given: Located, *, short: bool) -> Tokenizer | None:
        """tokenizer_source (`short`) or the mapping `tokenizer`."""
        if short:
            source = self._source(given)
            return Tokenizer(source, short=True, line=given.line, plain=given.value) if source else None
        if given.entries is None:
            advice = "Write tokenizer: {source: base}."
            self.trouble.say(given.line, "tokenizer", "must be a mapping", given.kind, advice)
            return None
        self.trouble.unknown(given.entries, ("source", "tokens", "pad_to_multiple_of"))
        source = self._source(given.entries["source"]) if "source" in given.entries else "union"
        tokens = given.entries.get("tokens")
        made = {text: self._token(text, entry) for text, entry in (tokens.entries or {}).items()} if tokens else {}
        pad = given.entries.get("pad_to_multiple_of")
        multiple = pad.plain if pad else None
        if multiple is not None and not (isinstance(multiple, int) and multiple > 0):
            advice = "Use 64, or leave it out."
            self.trouble.say(pad.line if pad else 0, "pad_to_multiple_of", "must be a whole number", multiple, advice)
            multiple = None
        return Tokenizer(source or "union", made, multiple, line=given.line, plain=given.value)

    def _source(self, given: Located) -> str | ModelRef | None:
        return given.plain if given.plain in ("union", "base") else self.model(given)

    def _token(self, text: str, given: Located) -> Token:
        entries = given.entries or {}
        source, force = entries.get("source"), bool(entries["force"].plain) if "force" in entries else False
        if given.entries is None:
            advice = "Write {source: model, force: true}."
            self.trouble.say(given.line, f"token {text!r}", "must be a mapping", given.kind, advice)
        if source is None:
            return Token(force=force)
        kind = source.entries["kind"].plain if source.entries and "kind" in source.entries else None
        if kind == "zero":
            return Token(zero=True, force=force)
        if kind != "model_token":
            return Token(self.model(source), force=force)
        assert source.entries is not None
        named = [source.entries[key].plain for key in ("token", "token_id") if key in source.entries]
        if len(named) != 1 or "model" not in source.entries:
            must = "model_token must name a model and either token or token_id"
            self.trouble.say(source.line, f"token {text!r}", must, source.value, "Keep one of both.")
            return Token(force=force)
        return Token(self.model(source.entries["model"]), named[0], force=force)


def _revision(text: str) -> tuple[str, str | None]:
    path, at, revision = text.rpartition("@")
    return (path, revision) if at and path and not Path(text).exists() else (text, None)
