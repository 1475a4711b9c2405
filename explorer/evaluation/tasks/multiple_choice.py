"""Multiple choice, answered by what a causal language model finds likeliest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.evaluation._api import Example, Field, Row, task_kind
from explorer.evaluation._language import (
    NOT_COUNTED,
    Parameters,
    encode,
    filled,
    first_token,
    padded,
    text_problem,
    texts_problem,
    with_mask,
)
from explorer.evaluation._likelihood import log_likelihoods
from explorer.evaluation._metrics import ACCURACY, TaskMetric
from explorer.params import Choice, Range, Unit

LENGTHS = {"acc": lambda text: 1, "acc_norm": len, "acc_bytes": lambda text: len(text.encode())}
"""What a choice's log-likelihood is divided by, per metric."""


def one_of_the_choices(labels: Sequence[str]) -> float:
    """1 / number of choices, averaged over the examples."""
    return 1 / max(1, len(labels))


def _metric(parameters: Parameters) -> TaskMetric:
    return replace(ACCURACY, name=parameters["metric"])


@task_kind(
    title="Multiple choice",
    needs=("tokenizer",),
    fields=(
        Field("question", "text", "what is asked", ("question", "query", "context", "prompt", "ctx", "sentence")),
        Field("choices", "texts", "the answers to choose from", ("choices", "options", "endings", "answers")),
        Field("answer", "number", "place of the right choice, from 0", ("answer", "label", "gold", "target")),
    ),
    auto="AutoModelForCausalLM",
    metric=_metric,
    chance=one_of_the_choices,
)
def multiple_choice(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    metric: Annotated[
        str,
        Choice("acc", "acc_norm", "acc_bytes", labels=("likelihood", "per character", "per byte")),
        "what decides: the choice's log-likelihood, or that divided by its length in characters or bytes",
    ] = "acc",
    template: Annotated[str, "the context; {question} stands for the row's question"] = "{question}",
    delimiter: Annotated[str, "what stands between context and choice"] = " ",
    max_length: Annotated[int, Range(2, 1 << 17), "tokens the model sees; a longer context loses its first ones",
                          Unit("tokens")] = 1024,
) -> Tensor:  # fmt: skip
    """Answers with the choice that the model finds likeliest after the question.

    outputs [n, most choices] float64: Σ ln p(token | the tokens before it) over the tokens of the choice, divided for
    acc_norm by the choice's characters and for acc_bytes by its UTF-8 bytes (without the delimiter); −inf where a row
    has fewer choices, and for a choice of no tokens; NaN, which is no answer, where the model's scores are not finite.
    The first of equals wins.
    Tokens follow lm-evaluation-harness: white space at the end of the context moves to the choice; context and
    choice are encoded as one text, and what comes after as many tokens as the context alone has is the choice's (at
    least the last token). An empty context is the token for the beginning of a text, else for its end.
    Raises DataError when a text passes the module's positions, CheckpointError for ids outside its vocabulary.
    """
    sums, counts = log_likelihoods(module, batch, "multiple_choice")
    sums = torch.where(counts > 0, sums, -torch.inf)
    rows, places, lengths = batch["owner"], batch["place"], batch["lengths"]
    made = torch.full(lengths.shape, -torch.inf, dtype=torch.float64, device=sums.device)
    made[rows, places] = sums / lengths[rows, places]
    return made


def encode_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a context and of what follows it, as lm-evaluation-harness splits them."""
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    if not context:
        first = first_token(tokenizer, "multiple_choice")
        ids = tokenizer(continuation, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [first], list(ids[1:] if ids[:1] == [first] else ids)
    whole = encode(tokenizer, context + continuation)
    split = min(len(encode(tokenizer, context)), len(whole) - 1)
    return whole[:split], whole[split:]


@multiple_choice.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Parameters) -> list[Example]:
    length_of, most = LENGTHS[parameters["metric"]], max((len(r["choices"]) for r in rows), default=0)
    made = []
    for row in rows:
        context = filled(parameters["template"], "question", row["question"], "multiple_choice")
        pairs = [encode_pair(tokenizer, context, parameters["delimiter"] + c) for c in row["choices"]]
        inputs = [_shifted(*pair, parameters["max_length"]) for pair in pairs]
        lengths = [length_of(c) for c in row["choices"]]
        made.append(Example((inputs, lengths, most), len(inputs) * max(len(seen) for seen, _ in inputs)))
    return made


def _shifted(context: list[int], choice: list[int], max_length: int) -> tuple[list[int], list[int]]:
    """What the model sees, and for each position the next token where that is the choice's."""
    ids = [*context, *choice][-(max_length + 1) :]
    counted = min(len(choice), len(ids) - 1)
    return ids[:-1], [*[NOT_COUNTED] * (len(ids) - 1 - counted), *ids[len(ids) - counted :]]


@multiple_choice.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    flat = [(n, place, pair) for n, e in enumerate(examples) for place, pair in enumerate(e.values[0])]
    most = max((e.values[2] for e in examples), default=0)
    return {
        **with_mask([seen for _, _, (seen, _) in flat], tokenizer),
        "labels": padded([labels for _, _, (_, labels) in flat], NOT_COUNTED),
        "owner": torch.tensor([n for n, _, _ in flat], dtype=torch.long),
        "place": torch.tensor([place for _, place, _ in flat], dtype=torch.long),
        "lengths": torch.tensor([[*e.values[1], *[1] * (most - len(e.values[1]))] for e in examples]),
    }


@multiple_choice.problem
def _(row: Row) -> str | None:
    answer = row.get("answer")
    wrong = text_problem(row, "question") or texts_problem(row, "choices", 2)
    if wrong:
        return wrong
    if not isinstance(answer, int) or isinstance(answer, bool):
        return f"answer must be a whole number; got {'nothing' if answer is None else type(answer).__name__}"
    last = len(row["choices"]) - 1
    return None if 0 <= answer <= last else f"answer must be from 0 to {last}, the place of a choice; got {answer}"


@multiple_choice.guess
def _(rows: Sequence[Row], parameters: Parameters) -> float:
    return float(np.mean([1 / len(row["choices"]) for row in rows]))


@multiple_choice.gold
def _(rows: Sequence[Row], parameters: Parameters) -> np.ndarray:
    return np.array([row["answer"] for row in rows], dtype=np.int64)


@multiple_choice.predict
def _(outputs: Tensor, tokenizer: Any, parameters: Parameters) -> np.ndarray:
    best = outputs.max(dim=1).values  # NaN where any is
    return torch.where(torch.isfinite(best), outputs.argmax(dim=1), -1).cpu().numpy()


@multiple_choice.words
def _(answer: Any, labels: Sequence[str]) -> str:
    return f"choice {int(answer) + 1}" if int(answer) >= 0 else ""
