"""Layers on top of a backbone that are a task's own: taken from a fine-tune, and kept with the task."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.own_layers import labels_of
from explorer.errors import CheckpointError, DataError, all_problems, sentence
from explorer.evaluation._api import KINDS
from explorer.evaluation._task import EvaluationTask
from explorer.evaluation.loading import module_of, opened
from explorer.evaluation.models import NAMED_AT_MOST, resolve

HEAD_FILE = "head.safetensors"


def own_head(checkpoint: Checkpoint | Path | str, task: EvaluationTask) -> dict[str, Tensor]:
    """What a fine-tune has on top of its backbone: the parameters of the kind's module outside `base_model_prefix`.

    So is the pooler, which makes one vector of the token vectors for the head: float32, under the module's names.
    Raises CheckpointError where it has none, one for other labels, or one whose labels stand in another order.
    """
    whole = opened(checkpoint)
    module = module_of(whole.config, task, "cpu", torch.float32)
    state = {n: t for n, t in module.state_dict(keep_vars=True).items() if _is_on_top(n, module)}
    found = {own: name for own, name in resolve(module, module.state_dict(), whole.tensors).items() if own in state}
    problems = _head_problems(whole, task, state, found)
    if problems:
        raise CheckpointError(all_problems("head", problems))
    return {own: whole.read(name).to(torch.float32) for own, name in found.items()}


def with_head_of(checkpoint: Checkpoint, task: EvaluationTask, *, base: Checkpoint | None = None) -> EvaluationTask:
    """The task with what it lacks on top: its fine-tune's own layers, or a head that `base` makes of its label texts.

    A task that has its head, or needs none, is given back as it is. Raises as `own_head`; DataError where a head must
    be made of label texts and no base is given: another model would make another head.
    """
    if not task.lacks_head:
        return task
    if "own_head" in KINDS.get(task.kind).needs:
        return task.with_own_head(own_head(checkpoint, task), checkpoint.digest)
    if base is None:
        must = "needs a head, or a recipe whose base makes one of the label texts"
        advice = "Evaluate the recipe, or keep the head with the task (write_head)."
        raise DataError(sentence(task.name, must, "only a model", advice))
    from explorer.evaluation.probes import label_text_head

    chosen = {k: task.parameters[k] for k in ("pooling", "max_length")}
    return task.with_head(label_text_head(base, task.label_texts, **chosen), base.digest)


def head_labels(checkpoint: Checkpoint | Path | str) -> tuple[str, ...] | None:
    """The labels of a checkpoint's own head in its order, from id2label in config.json; None where it names none.

    Names that transformers makes up (LABEL_0, LABEL_1, …) are given as they are. None also where the numbers are not
    0 … n−1. Raises CheckpointError for a path that is no checkpoint.
    """
    if isinstance(checkpoint, (str, Path)):
        from explorer.checkpoints import open_checkpoint

        checkpoint = open_checkpoint(checkpoint)
    return labels_of(checkpoint)


def write_head(task: EvaluationTask, folder: Path | str) -> Path:
    """Keep a task's layers on top, or its frozen matrix, in a task folder, so that it scores an exported merge.

    Writes `head.safetensors` and names it in the folder's task.json; each file appears whole or stays as it was.
    The task scores the same with it. Returns the file.
    Raises DataError for a task without a head, or a folder without a readable task.json.
    """
    tensors = dict(task.own_head) if task.head is None else {"weight": task.head}
    if not tensors:
        advice = "Take it from the task's fine-tune first."
        raise DataError(sentence(task.name, "must have a head to be kept", "none", advice))
    return save_head(tensors, Path(folder))


def save_head(tensors: dict[str, Tensor], folder: Path, **said: str) -> Path:
    """Write tensors as a folder's head file; `said` are further entries of its task.json. Raises DataError."""
    from safetensors.torch import save

    path = folder / "task.json"
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))
        kept = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        _replace(folder / HEAD_FILE, save(kept, metadata={"format": "pt", **said}))
        text = json.dumps({**declared, "head": HEAD_FILE, **said}, indent=1, ensure_ascii=False) + "\n"
        _replace(path, text.encode("utf-8"))
    except (OSError, ValueError, TypeError) as error:
        got = " ".join(str(error).split())[:200]
        raise DataError(sentence(str(path), "must be a task whose head can be written", got, "Check it.")) from error
    return folder / HEAD_FILE


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _is_on_top(name: str, module: nn.Module) -> bool:
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    return not name.startswith(prefix) or name.startswith(f"{prefix}pooler.")


def _head_problems(whole: Checkpoint, task: EvaluationTask, state: dict[str, Any], found: dict[str, str]) -> list[str]:
    who, kind, problems = str(whole.path), KINDS.get(task.kind), []
    missing = [own for own in state if own not in found and isinstance(state[own], nn.Parameter)]
    if missing:
        advice = "Evaluate the fine-tune that was trained for this task, or give the task a head file."
        must = f"must hold the layers on top that {kind.title.lower()} needs"
        problems.append(sentence(who, must, f"none for {', '.join(missing[:NAMED_AT_MOST])}", advice))
    for own, name in found.items():
        if whole.info(name).shape != tuple(state[own].shape):
            fit = f"the {len(task.labels)} labels of {task.name}" if task.labels else task.name
            must = f"{name} must fit {fit}: {tuple(state[own].shape)}"
            advice = "Give the task the labels that the model was trained on, in its order."
            problems.append(sentence(who, must, str(tuple(whole.info(name).shape)), advice))
    trained = labels_of(whole) or ()
    if trained != task.labels and sorted(trained) == sorted(task.labels):
        must = f"the labels of {task.name} must stand in the order of the model's head, {', '.join(trained)}"
        problems.append(sentence(who, must, ", ".join(task.labels), "Write them so in task.json; number rows alike."))
    return problems
