"""What the kinds for language models share: filled templates, tokens, padding, and whether tokens fit the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from explorer.errors import CheckpointError, DataError, sentence
from explorer.evaluation._api import Row

NOT_COUNTED = -100
"""Label of a position whose next token is not scored."""


def filled(template: str, field: str, text: str, who: str) -> str:
    """The template with the text in place of `{field}`. Raises DataError where the template has no such place."""
    place = "{" + field + "}"
    if place not in template:
        must = f"template must hold {place}"
        raise DataError(sentence(who, must, repr(template), f'Write "{place}" where the row\'s text belongs.'))
    return template.replace(place, text)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids as the tokenizer gives them, with the special tokens that it adds by itself.

    None are added to a text that begins with the token for the beginning already, as a chat template writes it.
    """
    bos = getattr(tokenizer, "bos_token", None)
    own = not (bos and text.startswith(bos))
    ids: list[int] = tokenizer(text, add_special_tokens=own, return_attention_mask=False)["input_ids"]
    return list(ids)


def first_token(tokenizer: Any, who: str) -> int:
    """What stands for an empty context: the token for the beginning of a text, else the one for its end.

    Raises DataError when the tokenizer has neither.
    """
    for name in ("bos_token_id", "eos_token_id"):
        if (token := getattr(tokenizer, name, None)) is not None:
            return int(token)
    must, advice = "an empty context needs a token for the beginning or end of a text", "Give each row a context."
    raise DataError(sentence(who, must, "a tokenizer without either", advice))


def padded(sequences: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Sequences as one tensor [n, longest] int64, filled up with `value` on the right or on the left."""
    width = max(1, *(len(s) for s in sequences)) if sequences else 1
    made = torch.full((len(sequences), width), value, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        if sequence:
            start = width - len(sequence) if left else 0
            made[row, start : start + len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    return made


def with_mask(sequences: Sequence[Sequence[int]], tokenizer: Any, *, left: bool = False) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [n, longest]; a tokenizer without a token for padding is given 0."""
    mask = padded([[1] * len(s) for s in sequences], 0, left=left)
    return {
        "input_ids": padded(sequences, getattr(tokenizer, "pad_token_id", None) or 0, left=left),
        "attention_mask": mask,
    }


def positions_of(module: nn.Module) -> int | None:
    """The positions that the module's configuration has, or None where it names no limit."""
    positions = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    return int(positions) if isinstance(positions, int) and positions > 0 else None


def require_fits(module: nn.Module, input_ids: Tensor, who: str, *, more: int = 0) -> None:
    """Refuse tokens without an embedding, and texts longer than the positions, before torch fails without words.

    `more`: positions that are needed after the text. Raises CheckpointError and DataError.
    """
    config = getattr(module, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    if isinstance(vocabulary, int) and input_ids.numel() and int(input_ids.max()) >= vocabulary:
        must = f"the tokenizer's ids must be below the module's vocabulary of {vocabulary}"
        raise CheckpointError(sentence(who, must, int(input_ids.max()), "Take the tokenizer of the same base."))
    positions = positions_of(module)
    if positions is not None and input_ids.shape[1] + more > positions:
        got = f"a text of {input_ids.shape[1]} tokens" + (f" and {more} more to write" if more else "")
        must = f"texts must not pass the module's {positions} positions"
        advice = f"Set max_length to {max(1, positions - more)} in task.json."
        raise DataError(sentence(who, must, got, advice))


def text_problem(row: Row, name: str) -> str | None:
    """What is wrong with a text of a row, in words, or None."""
    text = row.get(name)
    if not isinstance(text, str):
        return f"{name} must be a string; got {'nothing' if text is None else type(text).__name__}"
    return None if text.strip() else f"{name} must not be empty; got only white space"


def texts_problem(row: Row, name: str, least: int) -> str | None:
    """What is wrong with a list of at least `least` texts of a row, in words, or None."""
    texts = row.get(name)
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        got = "nothing" if texts is None else type(texts).__name__
        return f"{name} must be a list of strings; got {got if not isinstance(texts, list) else 'other values in it'}"
    if len(texts) < least or not all(t.strip() for t in texts):
        got = f"{len(texts)}" if len(texts) < least else "an empty one"
        return f"{name} must hold at least {least} text{'s' if least > 1 else ''}, none of them empty; got {got}"
    return None


def nothing_to_guess(labels: Sequence[str]) -> float:
    """0: there are no labels to guess among."""
    return 0.0


def shortened(text: str, longest: int = 200) -> str:
    """A text for a table, cut after so many characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


Parameters = Mapping[str, Any]
