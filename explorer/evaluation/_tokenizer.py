"""Tokenizers of a checkpoint folder, with a digest of what they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explorer.errors import CheckpointError, sentence
from explorer.evaluation._locks import TRANSFORMERS
from explorer.seeds import digest_of

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer and the digest of its files: equal digests give equal token ids."""

    call: Any
    digest: str


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer of a checkpoint folder, read from its own files only.

    Raises CheckpointError when the folder has no tokenizer that transformers can read.
    """
    folder = Path(folder)
    present = [folder / f for f in _FILES if (folder / f).is_file()]
    advice = "Copy tokenizer.json and tokenizer_config.json from the base's folder."
    if not present:
        raise CheckpointError(sentence(str(folder), "needs a tokenizer to score text", "no tokenizer files", advice))
    try:
        with TRANSFORMERS:
            from transformers import AutoTokenizer

            loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        got = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(sentence(str(folder), "must hold a readable tokenizer", got, advice)) from error
    return Tokenizer(loaded, digest_of(*(f"{p.name}:{p.read_bytes().hex()}" for p in present)))
