"""What the kinds that score written answers share: prompts, answers as texts, and their measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from explorer.errors import DataError, sentence
from explorer.evaluation._api import Example, Field, Row, TaskKind
from explorer.evaluation._language import (
    Parameters,
    encode,
    filled,
    padded,
    shortened,
    text_problem,
    texts_problem,
    with_mask,
)
from explorer.evaluation._metrics import ACCURACY, TaskMetric, mean_metric
from explorer.evaluation.text_scores import best
from explorer.evaluation.writing import ENDED, cut_at, decode, ends_of
from explorer.params import Choice, Range, Unit

FIELDS = (
    Field("prompt", "text", "what the model continues or answers", ("prompt", "question", "input", "source", "text")),
    Field("references", "texts", "right answers, any of which will do",
          ("references", "answers", "targets", "reference", "answer", "target", "output", "summary")),
)  # fmt: skip
NAMES = {"exact_match": "exact match", "f1": "token F1", "rouge_l": "ROUGE-L"}

MaxNewTokens = Annotated[int, Range(1, 4096), "tokens that the model writes at most", Unit("tokens")]
MaxLength = Annotated[int, Range(1, 1 << 17), "tokens of a prompt that are read at most",
                      Unit("tokens")]  # fmt: skip
Measure = Annotated[
    str,
    Choice("exact_match", "f1", "rouge_l", labels=("exact match", "token F1", "ROUGE-L")),
    "how an answer is compared with the references; the best one counts",
]
Template = Annotated[str, "the prompt; {prompt} stands for the row's prompt"]
Stop = Annotated[str, "texts at which an answer ends, with | between several"]
Chat = Annotated[bool, "put the prompt into the tokenizer's chat template, as what a user says"]


def metric_of(parameters: Parameters) -> TaskMetric:
    """Exact match is right or wrong; the others are credits 0-1."""
    name = NAMES[parameters["metric"]]
    return replace(ACCURACY, name=name) if parameters["metric"] == "exact_match" else mean_metric(name)


def prompt_tokens(tokenizer: Any, text: str, who: str, *, chat: bool) -> list[int]:
    """Token ids of a prompt, as it is or as a user's turn of a chat, after which the model's turn begins.

    Raises DataError where a chat is asked for and the tokenizer has no template that takes the prompt.
    """
    if not chat:
        return encode(tokenizer, text)
    must, advice = (
        "chat needs a tokenizer with a chat template",
        "Set chat to false, or take the tokenizer of a chat model.",
    )
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(sentence(who, must, "none", advice))
    turns = [{"role": "user", "content": text}]
    try:
        return encode(tokenizer, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a small program of the checkpoint's
        got = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(sentence(who, "the chat template must take a user's turn", got, advice)) from error


def share_hooks(kind: TaskKind, *, left: bool) -> None:
    """Declare everything but the function itself; `left`: prompts are padded and cut on that side, else right."""
    _share_reading(kind, left=left)
    _share_judging(kind)


def _share_reading(kind: TaskKind, *, left: bool) -> None:
    """From rows to batches."""

    @kind.prepare
    def _(rows: Sequence[Row], tokenizer: Any, parameters: Parameters) -> list[Example]:
        made = []
        for row in rows:
            text = filled(parameters["template"], "prompt", row["prompt"], kind.name)
            tokens = prompt_tokens(tokenizer, text, kind.name, chat=parameters["chat"])
            tokens = tokens[-parameters["max_length"] :] if left else tokens[: parameters["max_length"]]
            made.append(Example(tokens, len(tokens) + parameters["max_new_tokens"]))
        return made

    @kind.collate
    def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
        ends = padded([ends_of(tokenizer)] * len(examples), ENDED)
        return {**with_mask([e.values for e in examples], tokenizer, left=left), "ends": ends}

    @kind.problem
    def _(row: Row) -> str | None:
        return text_problem(row, "prompt") or texts_problem(row, "references", 1)


def _share_judging(kind: TaskKind) -> None:
    """From tokens to texts and credits."""

    @kind.gold
    def _(rows: Sequence[Row], parameters: Parameters) -> np.ndarray:
        made = np.empty(len(rows), dtype=object)
        for place, row in enumerate(rows):
            made[place] = tuple(row["references"])
        return made

    @kind.predict
    def _(outputs: Tensor, tokenizer: Any, parameters: Parameters) -> np.ndarray:
        stops = parameters["stop"].split("|")
        return np.array([cut_at(decode(tokenizer, row), stops).strip() for row in outputs.tolist()], dtype=np.str_)

    @kind.outcomes
    def _(predictions: np.ndarray, answers: np.ndarray, parameters: Parameters) -> np.ndarray:
        measure = parameters["metric"]
        found = np.array([best(measure, str(p), a) for p, a in zip(predictions, answers, strict=True)])
        return found > 0 if measure == "exact_match" else found

    @kind.words
    def _(answer: Any, labels: Sequence[str]) -> str:
        return shortened(" | ".join(answer) if isinstance(answer, tuple) else str(answer))
