"""Small PEFT adapters made on the spot, and what they mean in plain float64 numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

RANK, ALPHA = 3, 12

Pair = tuple[Tensor, Tensor]


def pair(seed: int, out: int, inner: int, rank: int = RANK) -> Pair:
    """Random A [r, in] and B [out, r]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, inner, generator=generator), torch.randn(out, rank, generator=generator) * 0.05


def save_adapter(
    folder: Path,
    pairs: dict[str, Pair],
    *,
    extra: dict[str, Tensor] | None = None,
    segment: str = "",
    embeddings: tuple[str, ...] = (),
    **config: Any,
) -> Path:
    """An adapter folder as PEFT saves it; `config` replaces entries of adapter_config.json (None removes one)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = dict(extra or {})
    for module, (a, b) in pairs.items():
        for letter, factor in (("A", a), ("B", b)):
            kind = f"lora_embedding_{letter}{segment}" if module in embeddings else f"lora_{letter}{segment}.weight"
            tensors[f"base_model.model.{module}.{kind}"] = factor.contiguous()
    plain = {
        "peft_type": "LORA",
        "base_model_name_or_path": "somebody/tiny",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted(pairs),
        "bias": "none",
        "use_rslora": False,
        **config,
    }
    text = json.dumps({k: v for k, v in plain.items() if v is not None})
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def exact(factors: Pair, scale: float = ALPHA / RANK) -> np.ndarray:
    """s · B @ A in float64."""
    a, b = (f.double().numpy() for f in factors)
    return scale * (b @ a)
