"""The one rounding of a merge: from arithmetic precision to the stored dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from explorer.errors import InputError, sentence


def cast(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Merged weights in their stored dtype: the one rounding of a merge. Raises InputError where they do not fit."""
    if weights.dtype == dtype:
        return weights
    limit = torch.finfo(dtype).max
    if limit < torch.finfo(weights.dtype).max and weights.numel() and float(weights.abs().max()) > limit:
        must = f"merged weights must fit {str(dtype).removeprefix('torch.')}, at most {limit:g}"
        advice = "Choose float32, or a smaller scale."
        raise InputError(sentence("merge", must, f"{float(weights.abs().max()):g}", advice))
    return weights.to(dtype)
