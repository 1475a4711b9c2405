"""Images of plain colours whose right answer is known, and tiny models that give it: hand-set, nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import Built

COLOURS = ("red", "green", "blue")
SIDE = 8
SETTINGS: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
VIT = {
    "model_type": "vit", "image_size": SIDE, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "hidden_dropout_prob": 0.0,
}  # fmt: skip
WORDS = ("<pad>", "<unk>", "<end>", "a", "photo", "of", *COLOURS)
CLIP = {
    "model_type": "clip",
    "projection_dim": 8,
    "text_config": {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": 2, "bos_token_id": 1,
                    "pad_token_id": 0},
    "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "image_size": SIDE, "patch_size": 4},
}  # fmt: skip
LITE = {"model_type": "explorer_efficientnet_lite", "stages": [[1, 3, 1, 1, 8], [1, 5, 2, 2, 12]], "stem_channels": 6}


def colour(label: int, strength: int = 255, size: tuple[int, int] = (11, 13)) -> np.ndarray:
    """[height, width, 3] uint8 of one channel only, with a little seeded noise below."""
    picture = np.random.default_rng([label, strength]).integers(0, 8, (*size, 3), dtype=np.uint8)
    picture[..., label] = strength
    return picture


def write_pictures(folder: Path, count: int = 12) -> list[dict[str, Any]]:
    """PNG files in turn red, green and blue, and their rows."""
    from PIL import Image

    rows = []
    for i in range(count):
        Image.fromarray(colour(i % 3, 255 - 2 * i)).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "label": i % 3})
    return rows


def write_task(folder: Path, kind: str, rows: list[dict[str, Any]] | None = None, **entries: Any) -> Path:
    """task.json, its rows and, unless they are given, the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = write_pictures(folder) if rows is None else rows
    declared = {"schema": 1, "name": "colours", "kind": kind, "labels": list(COLOURS), "splits": {"test": "test.jsonl"}}
    (folder / "task.json").write_text(json.dumps({**declared, **entries}), encoding="utf-8")
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return folder


def write_model(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> Path:
    """config.json, weights and image settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_state(config: dict[str, Any], auto: str = "AutoModel", seed: int = 0, **overrides: Any) -> dict[str, Tensor]:
    """Seeded weights of a configuration: norms at 1, statistics of batch normalisation at 0 and 1."""
    from explorer.evaluation import build_module

    draws, state = torch.Generator().manual_seed(seed), {}
    for name, tensor in build_module(config, auto=auto, overrides=overrides).state_dict().items():
        if not tensor.is_floating_point():
            continue
        if ("norm" in name and name.endswith("weight")) or ("_bn" in name and name.endswith(("weight", "var"))):
            state[name] = torch.ones(tensor.shape)
        elif name.endswith(("bias", "mean")):
            state[name] = torch.zeros(tensor.shape)
        else:
            state[name] = torch.randn(tensor.shape, generator=draws) * 0.3
    return state


def _features(config: dict[str, Any], state: dict[str, Tensor], of: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
    """A module's vectors [3, width] of pure red, green and blue."""
    from explorer.evaluation import bind, build_module

    module = build_module(config)
    bind(module, state)
    pixels = torch.full((3, 3, SIDE, SIDE), -1.0)
    for label in range(3):
        pixels[label, label] = 1.0
    with torch.inference_mode():
        return of(module, pixels)


def prototypes(config: dict[str, Any], state: dict[str, Tensor]) -> Tensor:
    """A frozen head [3, width] whose product with the mean vectors of the pure colours is the identity."""

    def pooled(module: nn.Module, pixels: Tensor) -> Tensor:
        hidden = module(pixel_values=pixels).last_hidden_state
        return (hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden).mean(1)

    vectors = nn.functional.normalize(_features(config, state, pooled), dim=-1)
    return torch.linalg.pinv(vectors).T.contiguous()


def vit_with_classifier() -> dict[str, Tensor]:
    """A ViT whose classifier reads its own vectors of the pure colours: right by construction."""
    state = random_state(VIT, "AutoModelForImageClassification", id2label={str(i): c for i, c in enumerate(COLOURS)})
    backbone = {n.removeprefix("vit."): t for n, t in state.items() if n.startswith("vit.")}
    vectors = _features(VIT, backbone, lambda module, pixels: module(pixel_values=pixels).last_hidden_state[:, 0])
    centred = vectors - vectors.mean(0)
    state["classifier.weight"] = centred
    state["classifier.bias"] = -(centred @ vectors.mean(0))
    return state


def clip() -> dict[str, Tensor]:
    """A CLIP whose text projection sends each label's text to its colour's image vector: right by construction."""
    from explorer.evaluation import bind, build_module

    state = random_state(CLIP)
    state["logit_scale"] = torch.tensor(2.0)
    module = build_module(CLIP)
    bind(module, state)
    ids = torch.tensor([[3, 4, 5, 3, 6 + i, 2] for i in range(3)])
    pixels = torch.full((3, 3, SIDE, SIDE), -1.0)
    for label in range(3):
        pixels[label, label] = 1.0
    with torch.inference_mode():
        images = module.visual_projection(module.vision_model(pixel_values=pixels).pooler_output)
        texts = module.text_model(input_ids=ids).pooler_output
    images = nn.functional.normalize(images - images.mean(0), dim=-1)
    state["text_projection.weight"] = (torch.linalg.pinv(texts) @ images).T.clone()
    return state


def write_tokenizer(folder: Path) -> None:
    """Whole words, each text closed by the end token that CLIP's text tower looks for."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Backend(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    made.save_pretrained(folder)


def image_classification(folder: Path) -> Built:
    """A ViT with its own classifier."""
    model = write_model(folder / "model", VIT, vit_with_classifier())
    return Built(write_task(folder / "task", "image_classification"), model)


def feature_classification(folder: Path) -> Built:
    """Our convolutional network with a frozen head."""
    state = random_state(LITE)
    task = write_task(folder / "task", "feature_classification", head="head.safetensors")
    save_file({"weight": prototypes(LITE, state)}, task / "head.safetensors")
    return Built(task, write_model(folder / "model", LITE, state))


def clip_zero_shot(folder: Path) -> Built:
    """A CLIP of two one-layer towers."""
    model = write_model(folder / "model", CLIP, clip())
    write_tokenizer(model)
    return Built(write_task(folder / "task", "clip_zero_shot"), model)


EXAMPLES = {
    "image_classification": image_classification,
    "feature_classification": feature_classification,
    "clip_zero_shot": clip_zero_shot,
}
