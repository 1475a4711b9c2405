"""Tied weights: one matrix that a checkpoint stores under several names, such as an embedding and its lm_head."""

from __future__ import annotations

import re

from explorer.checkpoints.compare import same_bytes
from explorer.checkpoints.handle import Checkpoint

_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|word_embeddings|wte|shared|tok_embeddings|embed_in)\.weight$")
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|lm_head\.decoder|predictions\.decoder|embed_out|output)\.weight$")


def tied_tensors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of tensors that are copies of an embedding stored before them, in ascending name order.

    A copy has an embedding's or an output head's name, the same dtype and shape, and the same bytes; a config
    with `tie_word_embeddings: false` says that equal bytes are no tie. Merging treats both copies alike, so a tie
    in the base and in every task survives every method that works element by element.
    """
    if checkpoint.config.get("tie_word_embeddings") is False:
        return ()
    embeddings = [n for n in checkpoint if _EMBEDDING.search(n)]
    outputs = [n for n in checkpoint if _OUTPUT.search(n) and n not in embeddings]
    # T5 stores the source of all ties as `shared`; elsewhere the first embedding is the source.
    sources = sorted(embeddings, key=lambda n: (not n.endswith("shared.weight"), n))
    copies: set[str] = set()
    for position, source in enumerate(sources):
        rest = [n for n in (*sources[position + 1 :], *outputs) if n not in copies]
        if source not in copies:
            copies |= {n for n in rest if same_bytes(checkpoint, source, checkpoint, n)}
    return tuple(sorted(copies))
