"""The files beside the weights of an exported folder: configuration, tokenizer, recipe, card, sidecar."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from explorer import __version__
from explorer.card import model_card
from explorer.checkpoints.writer import FolderWriter
from explorer.opening import OpenModels, companions_folder
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.verifying import SCHEMA, SIDECAR, UNSEALED, file_sha256, tensor_digest

RECIPE_FILE = "explorer_recipe.yaml"
COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "added_tokens.json", "tekken.json",
    "generation_config.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "processor_config.json", "LICENSE", "NOTICE",
)  # fmt: skip


def write_companions(
    recipe: Recipe,
    models: OpenModels,
    writer: FolderWriter,
    dtypes: Mapping[str, torch.dtype],
    *,
    task: str | None,
    scores: Result | None,
    survival: Result,
) -> None:
    """All of them but the sidecar; `task` names the one task that a per-task model serves."""
    base = models.base
    if base.config:
        writer.add_text("config.json", json.dumps(_config(models, dtypes), indent=2) + "\n")
    folder = companions_folder(base)
    for name in COMPANIONS:
        if (folder / name).is_file():
            writer.add_file(folder / name, name)
    writer.add_text(RECIPE_FILE, recipe.to_yaml())
    known = {"scores": scores, "survival": survival}
    writer.add_text("README.md", model_card(recipe, models, task=task, version=__version__, **known))


def write_sidecar(
    recipe: Recipe,
    models: OpenModels,
    writer: FolderWriter,
    dtypes: Mapping[str, torch.dtype],
    pieces: Mapping[str, list[str]],
    steps: Mapping[str, int],
) -> dict[str, dict[str, Any]]:
    """What a later `verify` compares the folder with; returns its part about tensors."""
    merged = set(models.names)
    tensors: dict[str, dict[str, Any]] = {
        name: {
            "shape": list(info.shape),
            "dtype": str(dtypes[name]).removeprefix("torch."),
            "merged": name in merged,
            "step": steps.get(name, 1),
            "sha256": tensor_digest(pieces[name]),
        }
        for name, info in models.base.tensors.items()
    }
    held = {"base": models.base, **{f"task {n}": c.on_disk for n, c in models.tasks.items()}}
    about = {
        "recipe": {"digest": recipe.digest, "method": recipe.method, "seed": recipe.seed},
        "inputs": {name: {"name": c.path.name, "digest": c.digest, "bytes": c.total_bytes} for name, c in held.items()},
    }
    seal(writer, about, tensors)
    return tensors


def seal(writer: FolderWriter, about: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the sidecar: what made the folder, the digests of the files in it so far, and those of its tensors."""
    sealed = [f for f in sorted(writer.folder.iterdir()) if f.name in writer.names and f.suffix != ".safetensors"]
    record = {
        "schema": SCHEMA,
        "made_by": {"explorer": __version__, "torch": str(torch.__version__)},
        **about,
        "files": {f.name: file_sha256(f) for f in sealed if f.name not in UNSEALED},
        "tensors": tensors,
    }
    writer.add_text(SIDECAR, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _config(models: OpenModels, dtypes: Mapping[str, torch.dtype]) -> dict[str, Any]:
    """The base's configuration with the dtype that most merged numbers are stored in, under the keys it may have."""
    numbers: Counter[str] = Counter()
    for name in models.names:
        numbers[str(dtypes[name]).removeprefix("torch.")] += models.base.info(name).numel
    common = min(numbers, key=lambda d: (-numbers[d], d))
    older = {"torch_dtype": common} if "torch_dtype" in models.base.config else {}
    return {**models.base.config, "dtype": common, **older}
