"""Written answers of a model that reads and writes apart, such as T5."""

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
    title="Written answers, encoder and decoder",
    needs=("tokenizer",),
    fields=FIELDS,
    auto="AutoModelForSeq2SeqLM",
    metric=metric_of,
    chance=nothing_to_guess,
)
def seq2seq_generation(
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
    """Reads each prompt, writes an answer and compares it with the right ones.

    As `generation`, but the encoder reads the prompt (padded on the right, masked; a long prompt loses its last
    tokens) and the decoder begins with decoder_start_token_id of config.json.
    outputs [n, max_new_tokens] int64, −1 after the end.
    Raises DataError and CheckpointError as `generation`.
    """
    return write(module, batch, max_new_tokens, "seq2seq_generation")


share_hooks(seq2seq_generation, left=False)
