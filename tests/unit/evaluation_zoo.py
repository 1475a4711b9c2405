"""A task folder and a tiny encoder made on the spot, for the evaluation tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from explorer.evaluation import EvaluationTask, Tokenizer, build_module, load_task

CLASSES = ("red", "green", "blue")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *CLASSES, *NUMBERS)
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 24,
}


class WordTokenizer:
    """Splits on spaces, without transformers; counts how often it is called."""

    pad_token_id = 0

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: list[str], *, max_length: int, **_: Any) -> dict[str, list[list[int]]]:
        self.calls += 1
        known = {w: i for i, w in enumerate(WORDS)}
        return {"input_ids": [[known.get(w, 1) for w in t.split()][:max_length] for t in texts]}


def word_tokenizer() -> Tokenizer:
    return Tokenizer(WordTokenizer(), "words")


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Weights of CONFIG from a private generator: the global random state stays as it is."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: t.shape for n, t in build_module(CONFIG).state_dict().items()}
    made = {n: torch.randn(s, generator=generator) * 0.3 for n, s in shapes.items()}
    return {n: torch.ones_like(t) if n.endswith("LayerNorm.weight") else t for n, t in made.items()}


def write_checkpoint(folder: Path, state: dict[str, Tensor]) -> Path:
    """config.json, model.safetensors and a word-level tokenizer."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    backend = Backend(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def rows_of(count: int = 60) -> list[dict[str, Any]]:
    """Texts of 2 to 11 words whose label is the colour they begin with; the classes are not balanced."""
    rows = []
    for i in range(count):
        label = 0 if i % 2 else 1 + (i // 2) % 2
        rows.append(
            {"text": " ".join([CLASSES[label], *(NUMBERS[(i + k) % 7] for k in range(1 + i % 10))]), "label": label}
        )
    return rows


def write_task(
    folder: Path, *, rows: list[dict[str, Any]] | None = None, weight: Tensor | None = None, **changes: Any
) -> Path:
    """A sound task folder; `changes` replace entries of task.json (None removes one)."""
    folder.mkdir(parents=True, exist_ok=True)
    declared: dict[str, Any] = {
        "schema": 1,
        "name": folder.name,
        "kind": "text_classification",
        "version": 1,
        "labels": list(CLASSES),
        "head": "head.safetensors",
        "logit_scale": 20.0,
        "max_length": 16,
        "pooling": "mean",
        "splits": {"test": "test.jsonl"},
        "source": "made up",
        "licence": "CC0-1.0",
    }
    declared = {k: v for k, v in {**declared, **changes}.items() if v is not None}
    (folder / "task.json").write_text(json.dumps(declared), encoding="utf-8")
    lines = [json.dumps(r, ensure_ascii=False) for r in (rows_of() if rows is None else rows)]
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if weight is None:
        weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(5))
    save_file({"weight": weight}, folder / "head.safetensors")
    return folder


def made_task(folder: Path, **changes: Any) -> EvaluationTask:
    return load_task(write_task(folder, **changes))
