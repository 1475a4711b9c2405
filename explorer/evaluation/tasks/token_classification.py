"""A label per word, such as named entities, with a checkpoint's own head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.evaluation._api import Example, Field, Row, answers_of, task_kind
from explorer.evaluation._entities import counts, is_bio
from explorer.evaluation._metrics import TaskMetric
from explorer.evaluation._texts import labels_config, own_logits, padded
from explorer.params import Range

_NO_WORD = -100
TOKENS = Field("tokens", "tokens", "the words of a sentence", ("tokens", "words"))
LABELS = Field("labels", "labels", "one right label per word", ("labels", "ner_tags", "tags", "pos_tags"))


def _f1(outcomes: np.ndarray) -> float:
    """2 tp / (2 tp + fp + fn) of outcomes [n, 3]; NaN where there are no entities, right or answered."""
    tp, fp, fn = outcomes.sum(axis=0)
    return float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else float("nan")


def _share(outcomes: np.ndarray) -> float:
    """Right words / words, of outcomes [n, 2]."""
    right, words = outcomes.sum(axis=0)
    return float(right / words)


F1, TOKEN_ACCURACY = TaskMetric("entity F1", _f1), TaskMetric("token accuracy", _share)


def _metric(parameters: Mapping[str, Any]) -> TaskMetric:
    return F1 if is_bio(parameters.get("labels", ("B",))) else TOKEN_ACCURACY


def _chance(labels: Sequence[str]) -> float:
    """0 for entities, whose borders guesses hardly ever find; 1 / number of labels for other labels of words."""
    return 0.0 if is_bio(labels) else 1 / len(labels)


@task_kind(
    title="Token classification",
    needs=("tokenizer", "own_head"),
    fields=(TOKENS, LABELS),
    auto="AutoModelForTokenClassification",
    metric=_metric,
    chance=_chance,
)
def token_classification(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    max_length: Annotated[int, Range(1, 8192), "tokens of a sentence that are read; the rest is cut off"] = 128,
) -> Tensor:
    """Gives each word the label that the fine-tune's own head scores highest at its first token.

    Label numbers [n, words] of the logits [n, tokens, labels]: −1 for a word that was cut off or whose scores are not
    finite, −100 beyond the end of a sentence. Where the labels are named O, B-X, I-X the score is the F1 of entities
    2 tp / (2 tp + fp + fn), an entity being right when type and borders are; else the share of right words. −1 counts
    as O, or as wrong. Raises as sequence_classification.
    """
    inputs = {k: v for k, v in batch.items() if k != "first"}
    logits, first = own_logits(module, inputs, "token_classification"), batch["first"]
    at_words = logits.gather(1, first.clamp(min=0).unsqueeze(-1).expand(-1, -1, logits.shape[-1]))
    answers = answers_of(at_words.flatten(0, 1)).view(first.shape)
    return torch.where(first >= 0, answers, first)


@token_classification.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    said = tokenizer(
        [list(row["tokens"]) for row in rows],
        is_split_into_words=True,
        truncation=True,
        max_length=parameters["max_length"],
        padding=False,
    )
    types = said.get("token_type_ids") or [()] * len(rows)
    examples = []
    for i, (row, ids, kinds) in enumerate(zip(rows, said["input_ids"], types, strict=True)):
        words = said.word_ids(i)
        first = tuple(words.index(w) if w in words else -1 for w in range(len(row["tokens"])))
        examples.append(Example((tuple(ids), tuple(kinds), first), len(ids)))
    return examples


@token_classification.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    first = torch.full((len(examples), max(len(e.values[2]) for e in examples)), _NO_WORD)
    for row, example in enumerate(examples):
        first[row, : len(example.values[2])] = torch.tensor(example.values[2])
    return {**padded([e.values[:2] for e in examples], tokenizer), "first": first}


@token_classification.problem
def _(row: Row) -> str | None:
    tokens, labels = row.get("tokens"), row.get("labels")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) and t.strip() for t in tokens):
        return f"tokens must be a list of words; got {'nothing' if tokens is None else str(tokens)[:80]}"
    if not isinstance(labels, list) or len(labels) != len(tokens):
        got = f"{len(labels)} labels" if isinstance(labels, list) else "no list"
        return f"labels must hold one label per word, {len(tokens)}; got {got}"
    return None


@token_classification.predict
def _(outputs: Tensor, tokenizer: Any, parameters: Mapping[str, Any]) -> np.ndarray:
    return np.array([_joined(x for x in row if x != _NO_WORD) for row in outputs.tolist()])


@token_classification.gold
def _(rows: Sequence[Row], parameters: Mapping[str, Any]) -> np.ndarray:
    return np.array([_joined(row["labels"]) for row in rows])


@token_classification.outcomes
def _(answers: np.ndarray, right: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    pairs = [(_numbers(a), _numbers(r)) for a, r in zip(answers, right, strict=True)]
    labels = parameters["labels"]
    if not is_bio(labels):
        return np.array([(sum(x == y for x, y in zip(a, r, strict=True)), len(r)) for a, r in pairs])
    return np.array([counts(_names(a, labels), _names(r, labels)) for a, r in pairs])


@token_classification.words
def _(answer: Any, labels: Sequence[str]) -> str:
    return " ".join(_names(_numbers(answer), labels))


@token_classification.config
def _(labels: Sequence[str], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    return labels_config(labels)


def _joined(numbers: Any) -> str:
    return " ".join(str(n) for n in numbers)


def _numbers(text: str) -> list[int]:
    return [int(n) for n in str(text).split()]


def _names(numbers: Sequence[int], labels: Sequence[str]) -> list[str]:
    return [labels[n] if n >= 0 else "O" if "O" in labels else "?" for n in numbers]
