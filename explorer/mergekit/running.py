"""Runs a planned recipe into a model folder: tensor by tensor, whole or not at all."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from explorer import __version__
from explorer.checkpoints.writer import SHARD_BYTES, FolderWriter
from explorer.companions import COMPANIONS, seal
from explorer.compute import readiness
from explorer.errors import RecipeError, sentence
from explorer.executor import CancelToken, ProgressCallback, ThreadExecutor
from explorer.export_pass import digest_of_values
from explorer.mergekit.card import card
from explorer.mergekit.chat import template_text, with_template
from explorer.mergekit.inputs import Out
from explorer.mergekit.plan import Plan
from explorer.mergekit.tensors import merge_out
from explorer.mergekit.tokens import folder_of
from explorer.verifying import tensor_digest

CONFIG_FILE = "mergekit_config.yml"
SIDECAR = "explorer_merge.json"
_NO_TOKENIZER = ("LICENSE", "NOTICE", "generation_config.json")


@dataclass(frozen=True)
class Options:
    """How a recipe is run: `seed` of random methods, where to compute, how large a file may get, what to write."""

    seed: int = 0
    device: str = "cpu"
    shard_bytes: int = SHARD_BYTES
    copy_tokenizer: bool = True
    model_card: bool = True
    overwrite: bool = False
    allow_crimes: bool = False


@dataclass(frozen=True)
class Merged:
    """What was written, where, and how long it took."""

    path: Path
    total_bytes: int
    seconds: float
    plan: Plan


def write_plan(
    plan: Plan,
    out_dir: Path,
    text: str,
    options: Options,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Merged:
    """Write the merge of a plan; `text` is the recipe as it was given, kept beside the weights.

    Raises CheckpointError (a model changed, or a value is no number), OutputError (the folder cannot be written; then
    nothing of it remains), Cancelled.
    """
    started = time.perf_counter()
    _spare(plan, out_dir)
    device = torch.device(options.device)
    readiness.ready(sum(math.prod(out.shape) * (len(out.inputs) + 1) for out in plan.tensors))
    with FolderWriter(out_dir, overwrite=options.overwrite, shard_bytes=options.shard_bytes) as writer:
        writer.plan({out.name: (out.shape, out.dtype) for out in plan.tensors})

        def one(out: Out) -> torch.Tensor:
            return merge_out(plan, out, seed=options.seed, device=device)

        total = len(plan.tensors)
        work = ThreadExecutor(2).map(one, plan.tensors, total=total, label="merging", progress=progress, cancel=cancel)
        digests = {}
        for out, tensor in zip(plan.tensors, work, strict=True):
            writer.add_tensor(out.name, tensor)
            digests[out.name] = _sealed(out, tensor)
        for name, written in _texts(plan, text, options).items():
            writer.add_text(name, written)
        for path in _copied(plan, options):
            writer.add_file(path, path.name)
        seal(writer, {"recipe": {"file": CONFIG_FILE, "method": plan.method.name, "seed": options.seed}}, digests)
    size = sum(f.stat().st_size for f in out_dir.rglob("*") if f.is_file())
    return Merged(out_dir, size, time.perf_counter() - started, plan)


def _sealed(out: Out, tensor: torch.Tensor) -> dict[str, Any]:
    """What a later `verify` compares a tensor with; its bytes are one piece."""
    pieces = [digest_of_values(tensor)] if tensor.numel() else []
    about = {"shape": list(out.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "merged": len(out.inputs) > 1}
    return {**about, "step": max(1, tensor.numel()), "sha256": tensor_digest(pieces)}


def _spare(plan: Plan, out_dir: Path) -> None:
    """Refuse to write over a model that is being read."""
    target = out_dir.expanduser().resolve()
    for checkpoint in plan.models.values():
        for file in {stamp.path.resolve() for stamp in checkpoint.stamps}:
            if file.is_relative_to(target):
                must = "the output must not replace a model of its own recipe"
                raise RecipeError(sentence("merge", must, str(file), "Give another folder."))


def _texts(plan: Plan, text: str, options: Options) -> dict[str, str]:
    """Files that are written anew."""
    texts: dict[str, str] = {CONFIG_FILE: text, SIDECAR: json.dumps(_sidecar(plan, options), indent=1) + "\n"}
    if plan.config:
        texts["config.json"] = json.dumps(plan.config, indent=2, ensure_ascii=False) + "\n"
    template = _template(plan)
    if template and options.copy_tokenizer:
        texts["chat_template.jinja"] = template
        held = folder_of(plan.models[plan.tokenizer]) / "tokenizer_config.json"
        if held.is_file():
            texts["tokenizer_config.json"] = with_template(held.read_bytes(), template)
    if options.model_card:
        texts["README.md"] = card(plan, text, options.seed)
    return texts


def _template(plan: Plan) -> str | None:
    wanted = plan.document.chat_template
    return template_text(wanted, [folder_of(c) for c in plan.models.values()]) if wanted else None


def _copied(plan: Plan, options: Options) -> list[Path]:
    """Files taken over as they are: the tokenizer's from the model it comes from."""
    folder = folder_of(plan.models[plan.tokenizer])
    names = COMPANIONS if options.copy_tokenizer else _NO_TOKENIZER
    written = {"chat_template.jinja", "tokenizer_config.json"} if _template(plan) else set()
    return [folder / n for n in names if n not in written and (folder / n).is_file()]


def _sidecar(plan: Plan, options: Options) -> Mapping[str, Any]:
    """What another person needs to repeat the merge beside the recipe: seed, versions, and the inputs' files."""
    inputs = {
        str(model): {stamp.path.name: stamp.size_bytes for stamp in checkpoint.stamps}
        for model, checkpoint in plan.models.items()
    }
    versions = {"explorer": __version__, "torch": torch.__version__}
    return {"recipe": CONFIG_FILE, "semantics": "mergekit", "seed": options.seed, **versions, "inputs": inputs}
