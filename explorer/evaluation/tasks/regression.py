"""A number for a text, or a pair of texts, with a checkpoint's own head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from explorer.evaluation._texts import PAIR, TEXT, encoded, labels_config, own_logits, padded, text_problem
from explorer.params import Choice, Range


@task_kind(
    title="Text regression",
    needs=("tokenizer", "own_head"),
    fields=(TEXT, PAIR, VALUE),
    auto="AutoModelForSequenceClassification",
    metric=chosen_correlation,
    chance=no_relation,
)
def regression(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    max_length: Annotated[int, Range(1, 8192), "tokens of a text or pair that are read; the rest is cut off"] = 128,
    correlation: Annotated[
        str, Choice("spearman", "pearson"), "what answers and right numbers are compared by"
    ] = "spearman",
) -> Tensor:
    """Gives each text, or pair of texts, the number that the fine-tune's own head answers.

    The one logit [n, 1] of the module, in its dtype: the merged backbone, and on top the pooler and head of the task's
    own fine-tune. Scored by Spearman's or Pearson's correlation with the right numbers, in [-1, 1]: 0 where all answers
    are equal. Raises as sequence_classification.
    """
    return own_logits(module, batch, "regression")


@regression.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    pairs = [row.get("text_pair") for row in rows]
    return encoded([row["text"] for row in rows], pairs, tokenizer, parameters["max_length"])


@regression.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    return padded([e.values for e in examples], tokenizer)


@regression.problem
def _(row: Row) -> str | None:
    return text_problem(row, "text") or text_problem(row, "text_pair", optional=True) or value_problem(row)


@regression.config
def _(labels: Sequence[str], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return labels_config(["value"])


regression.predict(numbers_of)
regression.gold(values_of)
regression.outcomes(beside)
regression.words(in_figures)
