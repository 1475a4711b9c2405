"""How alike two texts are, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from torch import Tensor, nn

from explorer.evaluation._api import Example, Row, task_kind
from explorer.evaluation._correlations import (
    VALUE,
    beside,
    chosen_correlation,
    in_figures,
    no_relation,
    numbers_of,
    value_problem,
    values_of,
)
from explorer.evaluation._texts import PAIR, TEXT, encoded, padded, pooled, text_problem, token_vectors
from explorer.params import Choice, Range


@task_kind(
    title="Text similarity",
    needs=("tokenizer",),
    fields=(TEXT, replace(PAIR, help="the text it is compared with", optional=False), VALUE),
    metric=chosen_correlation,
    chance=no_relation,
)
def similarity(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    max_length: Annotated[int, Range(1, 8192), "tokens of a text that are read; the rest is cut off"] = 128,
    pooling: Annotated[str, Choice("mean", "cls"), "how token vectors become one text vector"] = "mean",
    correlation: Annotated[
        str, Choice("spearman", "pearson"), "what cosines and right numbers are compared by"
    ] = "spearman",
) -> Tensor:
    """Says how alike two texts are: the cosine of their embeddings, without a head.

    e(x) · e(y), [n, 1] in [-1, 1]; e the L2-normalised mean of the token vectors (padding left out) or the first
    token's vector. Scored by Spearman's or Pearson's correlation with the right numbers, whatever their range.
    Raises as text_classification. As for semantic textual similarity in the MTEB benchmark.
    """
    vectors = pooled(token_vectors(module, batch, "similarity"), batch["attention_mask"], pooling)
    return (vectors[0::2] * vectors[1::2]).sum(dim=1, keepdim=True)


@similarity.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    texts = [row[name] for row in rows for name in ("text", "text_pair")]
    each = encoded(texts, [None] * len(texts), tokenizer, parameters["max_length"])
    pairs = zip(each[0::2], each[1::2], strict=True)
    return [Example((a.values, b.values), 2 * max(a.size, b.size)) for a, b in pairs]


@similarity.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    return padded([text for e in examples for text in e.values], tokenizer)


@similarity.problem
def _(row: Row) -> str | None:
    return text_problem(row, "text") or text_problem(row, "text_pair") or value_problem(row)


similarity.predict(numbers_of)
similarity.gold(values_of)
similarity.outcomes(beside)
similarity.words(in_figures)
