"""Classification of texts, or pairs of texts, with a checkpoint's own head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor, nn

from explorer.evaluation._api import LABEL, Example, Row, task_kind
from explorer.evaluation._texts import PAIR, TEXT, encoded, labels_config, own_logits, padded, text_problem
from explorer.params import Range


@task_kind(
    title="Sequence classification",
    needs=("tokenizer", "own_head"),
    fields=(TEXT, PAIR, LABEL),
    auto="AutoModelForSequenceClassification",
)
def sequence_classification(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    max_length: Annotated[int, Range(1, 8192), "tokens of a text or pair that are read; the rest is cut off"] = 128,
) -> Tensor:
    """Gives each text, or pair of texts, the label that the fine-tune's own head scores highest.

    logits [n, labels] of the module, in its dtype: the merged backbone, and on top the pooler and head of the task's
    own fine-tune. Labels stand in the head's order. A pair that is too long loses tokens of its longer text first.
    Raises DataError for texts longer than the module's positions, CheckpointError for the tokenizer of another base.
    """
    return own_logits(module, batch, "sequence_classification")


@sequence_classification.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    pairs = [row.get("text_pair") for row in rows]
    return encoded([row["text"] for row in rows], pairs, tokenizer, parameters["max_length"])


@sequence_classification.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    return padded([e.values for e in examples], tokenizer)


@sequence_classification.problem
def _(row: Row) -> str | None:
    return text_problem(row, "text") or text_problem(row, "text_pair", optional=True)


@sequence_classification.config
def _(labels: Sequence[str], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return labels_config(labels)
