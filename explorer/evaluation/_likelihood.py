"""How likely a causal language model finds given tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from explorer.evaluation._language import NOT_COUNTED, require_fits

SLICE_TOKENS = 4096
"""Tokens of one forward pass, padding included, unless a single row has more: what bounds the memory of the logits."""


def log_likelihoods(module: nn.Module, batch: Mapping[str, Tensor], who: str) -> tuple[Tensor, Tensor]:
    """Per row Σ ln p(label | tokens up to here) over its counted positions, [rows] float64, and their number, int64.

    `input_ids`, `attention_mask` and `labels` are [rows, width], padded on the right; `labels[r, t]` is the token that
    follows `input_ids[r, t]`, or NOT_COUNTED. Logits in the module's dtype, their log-softmax in float32. A row whose
    logits are not finite gives NaN. Raises CheckpointError and DataError as `require_fits`.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    require_fits(module, ids, who)
    sums = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    step = max(1, SLICE_TOKENS // ids.shape[1])
    for start in range(0, len(ids), step):
        part = slice(start, start + step)
        logits = module(input_ids=ids[part], attention_mask=batch["attention_mask"][part], use_cache=False).logits
        counted = labels[part] != NOT_COUNTED
        found = -nn.functional.cross_entropy(logits[counted].float(), labels[part][counted], reduction="none")
        sums.index_add_(0, counted.nonzero()[:, 0] + start, found.double())
    return sums, (labels != NOT_COUNTED).sum(1)
