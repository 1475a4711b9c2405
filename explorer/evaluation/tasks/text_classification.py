"""Text classification with a frozen head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from explorer.errors import CheckpointError, DataError, sentence
from explorer.evaluation._api import LABEL, Example, Field, Row, task_kind
from explorer.params import Choice, Range


@task_kind(
    title="Text classification",
    needs=("tokenizer", "head"),
    fields=(Field("text", "text", "the text to classify", ("text", "sentence", "content", "review", "message")), LABEL),
)
def text_classification(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: Tensor,
    *,
    max_length: Annotated[int, Range(1, 8192), "tokens of a text that are read; the rest is cut off"] = 64,
    pooling: Annotated[str, Choice("mean", "cls"), "how token vectors become one text vector"] = "mean",
    logit_scale: Annotated[float, Range(0, 1000, open_low=True), "factor on the cosine of text and class"] = 20.0,
) -> Tensor:
    """Gives each text the class whose frozen vector lies nearest to the text's vector.

    logits = logit_scale · W e(x), [n, classes]; W the head [classes, hidden]; e(x) the L2-normalised mean of the
    token vectors (padding left out) or the first token's vector. Arithmetic in the module's dtype.
    Raises DataError when the head has another width than the module, CheckpointError when the tokenizer gives
    tokens or lengths that the module does not have.
    """
    _require_fits(module, batch["input_ids"])
    hidden = module(**batch).last_hidden_state
    if hidden.shape[-1] != head.shape[1]:
        must, got = f"the head must have one column per hidden unit ({hidden.shape[-1]})", f"{head.shape[1]} columns"
        raise DataError(sentence("text_classification", must, got, "Use the head that was made for this base."))
    if pooling == "cls":
        pooled = hidden[:, 0]
    else:
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return logit_scale * nn.functional.normalize(pooled, dim=-1) @ head.T


def _require_fits(module: nn.Module, input_ids: Tensor) -> None:
    """Refuse tokens without an embedding and texts longer than the positions, before torch fails without words."""
    config = getattr(module, "config", None)
    advice = "Take the tokenizer of the same base."
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is not None and int(input_ids.max()) >= vocabulary:
        must = f"the tokenizer's ids must be below the module's vocabulary of {vocabulary}"
        raise CheckpointError(sentence("text_classification", must, int(input_ids.max()), advice))
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions > 0 and input_ids.shape[1] > positions:
        must = f"max_length must not pass the module's {positions} positions"
        got = f"a text of {input_ids.shape[1]} tokens"
        raise DataError(sentence("text_classification", must, got, f"Set max_length to {positions} in task.json."))


@text_classification.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    encoded = tokenizer(
        [row["text"] for row in rows],
        truncation=True,
        max_length=parameters["max_length"],
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return [Example(tuple(ids), len(ids)) for ids in encoded["input_ids"]]


@text_classification.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    width = max(1, *(e.size for e in examples)) if examples else 1
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    input_ids = torch.full((len(examples), width), pad, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, example in enumerate(examples):
        input_ids[row, : example.size] = torch.tensor(example.values, dtype=torch.long)
        attention_mask[row, : example.size] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@text_classification.problem
def _(row: Row) -> str | None:
    text = row.get("text")
    if not isinstance(text, str):
        return f"text must be a string; got {'nothing' if text is None else type(text).__name__}"
    return None if text.strip() else "text must not be empty; got only white space"
