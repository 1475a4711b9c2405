"""Written answers of a causal language model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from explorer.evaluation._api import task_kind
from explorer.evaluation._generation import (
    FIELDS,
    Chat,
    MaxLength,
    MaxNewTokens,
    Measure,
    Stop,
    Template,
    metric_of,
    share_hooks,
)
from explorer.evaluation._language import nothing_to_guess
from explorer.evaluation.writing import write


@task_kind(
    title="Written answers",
    needs=("tokenizer",),
    fields=FIELDS,
    auto="AutoModelForCausalLM",
    metric=metric_of,
    chance=nothing_to_guess,
)
def generation(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    head: None,
    *,
    metric: Measure = "exact_match",
    max_new_tokens: MaxNewTokens = 32,
    max_length: MaxLength = 1024,
    template: Template = "{prompt}",
    stop: Stop = "",
    chat: Chat = False,
) -> Tensor:
    """Continues each prompt and compares what was written with the right answers.

    outputs [n, max_new_tokens] int64: at each place the token with the highest score after the prompt and what was
    written so far (greedy; the first of equals), −1 after the end. A text ends with the end token of the tokenizer or
    of the module's configuration, after max_new_tokens, or where scores are not finite; then it is cut at the first
    stop text and stripped of white space. Batches are padded on the left; padding is masked and takes no position; a
    prompt longer than max_length loses its first tokens.
    Score of an example: exact match or word F1 after SQuAD's normalisation, or ROUGE-L; the best of its references.
    Raises DataError when prompt and answer pass the module's positions, or for a chat without a template;
    CheckpointError for ids outside the vocabulary.
    """
    return write(module, batch, max_new_tokens, "generation")


share_hooks(generation, left=True)
