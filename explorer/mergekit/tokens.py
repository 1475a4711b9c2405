"""Tokenizers of the models of a recipe: where they lie, and whether they say the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.adapted import AdaptedCheckpoint
from explorer.mergekit.schema import Document, ModelRef
from explorer.mergekit.trouble import Trouble

_VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def folder_of(checkpoint: Checkpoint) -> Path:
    """Where a model's configuration and tokenizer lie."""
    own = checkpoint.base if isinstance(checkpoint, AdaptedCheckpoint) else checkpoint
    return own.path if own.path.is_dir() else own.path.parent


def donor_of(document: Document, models: Mapping[ModelRef, Checkpoint], donor: ModelRef, trouble: Trouble) -> ModelRef:
    """The model whose tokenizer the output gets; what is asked for and not there yet is said.

    All models must then have the same tokens at the same places: embeddings are merged row by row.
    """
    wanted = document.tokenizer
    if wanted is None:
        return donor
    line = wanted.line
    if wanted.tokens or wanted.pad_to_multiple_of:
        key = "tokens" if wanted.tokens else "pad_to_multiple_of"
        must, advice = "embeddings keep their rows here", "Leave it out, or change the vocabulary before merging."
        trouble.say(line, "tokenizer", must, key, advice)
    chosen = donor
    if isinstance(wanted.source, ModelRef):
        chosen = wanted.source
        if chosen not in models:
            trouble.say(line, "tokenizer", "must come from a model of the recipe", str(chosen), "Name one of them.")
            return donor
    elif wanted.source == "base" and document.base_model is None:
        trouble.say(line, "tokenizer", "source base needs a base_model", "none", "Name a model instead.")
    known = {m: vocabulary(folder_of(c)) for m, c in models.items()}
    others = [m for m in models if known[m] is not None and known[m] != known[chosen]]
    if others:
        must = f"all models must have the tokens of {chosen}, at the same places"
        got = f"{_difference(known[chosen], known[others[0]])} in {others[0]}"
        advice = "Bringing different vocabularies together is not offered here yet."
        trouble.say(line, "tokenizer", must, got, advice)
    return chosen


def vocabulary(folder: Path) -> Any:
    """Token -> number of a tokenizer, or the bytes of its file; None where there is none."""
    for name in _VOCABULARY_FILES:
        path = folder / name
        if not path.is_file():
            continue
        raw = path.read_bytes()
        if name != "tokenizer.json":
            return raw
        try:
            plain = json.loads(raw)
            held = plain["model"]["vocab"]
            tokens = dict(held) if isinstance(held, dict) else {entry[0]: i for i, entry in enumerate(held)}
            return tokens | {t["content"]: t["id"] for t in plain.get("added_tokens") or ()}
        except (ValueError, LookupError, TypeError):
            return raw
    return None


def _difference(mine: Any, theirs: Any) -> str:
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return "another tokenizer file"
    moved = sum(1 for token, place in theirs.items() if mine.get(token, place) != place)
    extra = sum(1 for token in theirs if token not in mine)
    lost = sum(1 for token in mine if token not in theirs)
    return f"{extra} tokens more, {lost} less and {moved} at other places"
