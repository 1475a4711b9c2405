"""Perplexity of a causal language model on texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.evaluation._api import Example, Field, Row, task_kind
from explorer.evaluation._language import NOT_COUNTED, encode, nothing_to_guess, padded, text_problem, with_mask
from explorer.evaluation._likelihood import log_likelihoods
from explorer.evaluation._metrics import TaskMetric
from explorer.params import Range, Unit


def inverse_perplexity(outcomes: np.ndarray) -> float:
    """exp(−Σ nll / Σ tokens) of outcomes [n, 2] = (nll, tokens); 0 where a loss is not finite, NaN without tokens."""
    loss, tokens = (float(x) for x in outcomes.sum(axis=0))
    if not tokens:
        return float("nan")
    return math.exp(-loss / tokens) if math.isfinite(loss) else 0.0


METRIC = TaskMetric("1 / perplexity", inverse_perplexity, shown=("perplexity", lambda s: 1 / s if s > 0 else math.inf))


@task_kind(
    title="Perplexity",
    needs=("tokenizer",),
    fields=(Field("text", "text", "a text that the model should find likely", ("text", "content", "document")),),
    auto="AutoModelForCausalLM",
    metric=METRIC,
    chance=nothing_to_guess,
)
def perplexity(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    max_length: Annotated[int, Range(2, 1 << 17), "tokens of a window: what the model sees at once", Unit("tokens")] = (
        1024
    ),
    stride: Annotated[
        int, Range(1, 1 << 17), "tokens that each further window of a long text scores", Unit("tokens")
    ] = 512,
) -> Tensor:
    """Sums the loss of every token of every text, and counts the tokens.

    outputs [n, 2] float64 = (Σ −ln p(token | the tokens before it), number of tokens). Perplexity is
    exp(Σ nll / Σ tokens) over all texts: long texts count more. The score is its inverse, the geometric mean of the
    probabilities of the right tokens, 0-1, more is better.
    Tokens are those of the tokenizer, with the special ones it adds by itself. The first is never scored; where that
    is a token for the beginning of a text, the text's own first token is. A text of more than max_length tokens is
    read in windows: the first scores all its tokens but the first, each further one the next `stride` tokens (at most
    max_length − 1; the last fewer), with the max_length − stride tokens before them as context. So every token but
    the first is scored exactly once. A text of one token counts for nothing.
    Raises DataError when a window passes the module's positions, CheckpointError for ids outside its vocabulary.
    """
    sums, counts = log_likelihoods(module, batch, "perplexity")
    texts = int(batch["owner"].max()) + 1
    made = torch.zeros(texts, 2, dtype=torch.float64, device=sums.device)
    return made.index_add_(0, batch["owner"], torch.stack([-sums, counts.double()], dim=1))


def windows(tokens: Sequence[int], max_length: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """Inputs and labels of the windows of one text; both of a window have the same length, at most max_length."""
    made: list[tuple[list[int], list[int]]] = []
    step, done, begin, end = min(stride, max_length - 1), 1, 0, min(len(tokens), max_length)
    while not made or done < len(tokens):
        seen = list(tokens[begin:end])
        labels = [t if begin + place >= done else NOT_COUNTED for place, t in enumerate(seen[1:], start=1)]
        made.append((seen, [*labels, NOT_COUNTED][: len(seen)]))
        done, begin, end = end, max(0, end - (max_length - step)), min(len(tokens), end + step)
    return made


@perplexity.prepare
def _(rows: Sequence[Row], tokenizer: Any, parameters: Mapping[str, Any]) -> list[Example]:
    made = [windows(encode(tokenizer, r["text"]), parameters["max_length"], parameters["stride"]) for r in rows]
    return [Example(w, len(w) * max(len(seen) for seen, _ in w)) for w in made]


@perplexity.collate
def _(examples: Sequence[Example], tokenizer: Any) -> dict[str, Tensor]:
    flat = [(owner, seen, labels) for owner, example in enumerate(examples) for seen, labels in example.values]
    return {
        **with_mask([seen for _, seen, _ in flat], tokenizer),
        "labels": padded([labels for _, _, labels in flat], NOT_COUNTED),
        "owner": torch.tensor([owner for owner, _, _ in flat], dtype=torch.long),
    }


@perplexity.problem
def _(row: Row) -> str | None:
    return text_problem(row, "text")


@perplexity.gold
def _(rows: Sequence[Row], parameters: Mapping[str, Any]) -> np.ndarray:
    return np.zeros(len(rows))


@perplexity.predict
def _(outputs: Tensor, tokenizer: Any, parameters: Mapping[str, Any]) -> np.ndarray:
    found: np.ndarray = outputs.cpu().numpy()
    return found


@perplexity.outcomes
def _(predictions: np.ndarray, answers: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    return predictions


@perplexity.words
def _(answer: Any, labels: Sequence[str]) -> str:
    if np.ndim(answer) == 0:  # a right answer: there is none
        return ""
    score = inverse_perplexity(np.asarray(answer)[None])
    return "nothing to score" if math.isnan(score) else f"perplexity {1 / score:,.4g}" if score else "no finite loss"
