"""What the kinds that read text share: rows as tokens, batches, and what a module makes of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from explorer.errors import CheckpointError, DataError, sentence
from explorer.evaluation._api import Example, Field, Row

TEXT = Field("text", "text", "the text", ("text", "sentence", "sentence1", "premise", "content", "review"))
PAIR = Field(
    "text_pair",
    "text",
    "a second text that is read after the first",
    ("text_pair", "sentence2", "hypothesis", "text2"),
    optional=True,
)


def text_problem(row: Row, name: str, *, optional: bool = False) -> str | None:
    """What is wrong with one text of a row, in words, or None."""
    text = row.get(name)
    if optional and text is None:
        return None
    if not isinstance(text, str):
        return f"{name} must be a string; got {'nothing' if text is None else type(text).__name__}"
    return None if text.strip() else f"{name} must not be empty; got only white space"


def encoded(texts: Sequence[str], pairs: Sequence[str | None], tokenizer: Any, max_length: int) -> list[Example]:
    """Texts, each alone or with a second one, as token ids and, where the tokenizer gives them, token types."""
    examples: list[Example | None] = [None] * len(texts)
    alone = [i for i, pair in enumerate(pairs) if pair is None]
    both = [i for i, pair in enumerate(pairs) if pair is not None]
    for places, given in ((alone, ()), (both, ([pairs[i] for i in both],))):
        if not places:
            continue
        said = tokenizer([texts[i] for i in places], *given, truncation=True, max_length=max_length, padding=False)
        types = said.get("token_type_ids") or [()] * len(places)
        for i, ids, kinds in zip(places, said["input_ids"], types, strict=True):
            examples[i] = Example((tuple(ids), tuple(kinds)), len(ids))
    return [e for e in examples if e is not None]


def padded(parts: Sequence[tuple[Sequence[int], Sequence[int]]], tokenizer: Any) -> dict[str, Tensor]:
    """Token ids and types as one batch [n, longest], padded on the right."""
    width = max((len(ids) for ids, _ in parts), default=0) or 1
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    input_ids = torch.full((len(parts), width), pad, dtype=torch.long)
    batch = {"input_ids": input_ids, "attention_mask": torch.zeros_like(input_ids)}
    if any(kinds for _, kinds in parts):
        batch["token_type_ids"] = torch.zeros_like(input_ids)
    for row, (ids, kinds) in enumerate(parts):
        input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        batch["attention_mask"][row, : len(ids)] = 1
        if kinds:
            batch["token_type_ids"][row, : len(kinds)] = torch.tensor(kinds, dtype=torch.long)
    return batch


def require_fits(module: nn.Module, input_ids: Tensor, who: str) -> None:
    """Refuse tokens without an embedding and texts longer than the positions, before torch fails without words."""
    config = getattr(module, "config", None)
    advice = "Take the tokenizer of the same base."
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is not None and int(input_ids.max()) >= vocabulary:
        must = f"the tokenizer's ids must be below the module's vocabulary of {vocabulary}"
        raise CheckpointError(sentence(who, must, int(input_ids.max()), advice))
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions > 0 and input_ids.shape[1] > positions:
        must = f"max_length must not pass the module's {positions} positions"
        got = f"a text of {input_ids.shape[1]} tokens"
        raise DataError(sentence(who, must, got, f"Set max_length to {positions} in task.json."))


def token_vectors(module: nn.Module, batch: Mapping[str, Tensor], who: str) -> Tensor:
    """The last hidden state [n, tokens, hidden] of a backbone. Raises as `require_fits`."""
    require_fits(module, batch["input_ids"], who)
    return module(**_taken(module, batch)).last_hidden_state


def pooled(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One L2-normalised vector per text, [n, hidden]: the mean of its token vectors (padding left out), or the first.

    A text whose vector is 0 stays 0.
    """
    if pooling == "cls":
        return nn.functional.normalize(hidden[:, 0], dim=-1)
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1)


def own_logits(module: nn.Module, batch: Mapping[str, Tensor], who: str) -> Tensor:
    """What a model with its own head answers: [n, labels], or [n, tokens, labels]. Raises as `require_fits`.

    Padding takes the module's own padding token: models that read their answer off the last token find it by that.
    A module that knows no such token gets one text at a time.
    """
    require_fits(module, batch["input_ids"], who)
    pad = getattr(module.config, "pad_token_id", None)
    if pad is None:
        sizes = batch["attention_mask"].sum(1).clamp(min=1).tolist()
        taken = _taken(module, batch)
        each = [module(**{k: v[i : i + 1, :n] for k, v in taken.items()}).logits for i, n in enumerate(sizes)]
        return torch.cat([nn.functional.pad(x, (0, 0, 0, max(sizes) - x.shape[1])) if x.ndim == 3 else x for x in each])
    input_ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)
    return module(**_taken(module, {**batch, "input_ids": input_ids})).logits


def _taken(module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that the module has a use for: token types only where it tells several types apart."""
    types = (getattr(getattr(module, "config", None), "type_vocab_size", 0) or 0) > 1
    takes = "token_type_ids" in inspect.signature(module.forward).parameters
    return {k: v for k, v in batch.items() if k != "token_type_ids" or (types and takes)}


def labels_config(labels: Sequence[str]) -> dict[str, Any]:
    """Entries of config.json for a head with one output per label."""
    named = dict(enumerate(labels))
    return {"num_labels": len(named), "id2label": named, "label2id": {label: i for i, label in named.items()}}
