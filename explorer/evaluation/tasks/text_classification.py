"""Text classification with a frozen head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor, nn

from explorer.errors import DataError, sentence
from explorer.evaluation._api import LABEL, Example, Row, task_kind
from explorer.evaluation._texts import TEXT, padded, pooled, text_problem, token_vectors
from explorer.params import Choice, Range


@task_kind(title="Text classification", needs=("tokenizer", "head"), fields=(TEXT, LABEL))
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
    hidden = token_vectors(module, batch, "text_classification")
    if hidden.shape[-1] != head.shape[1]:
        must, got = f"the head must have one column per hidden unit ({hidden.shape[-1]})", f"{head.shape[1]} columns"
        raise DataError(sentence("text_classification", must, got, "Use the head that was made for this base."))
    return logit_scale * pooled(hidden, batch["attention_mask"], pooling) @ head.T


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
    return padded([(e.values, ()) for e in examples], tokenizer)


@text_classification.problem
def _(row: Row) -> str | None:
    return text_problem(row, "text")
