"""Opens the models that a recipe names: every one that cannot be opened is said, with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from explorer.checkpoints import Checkpoint
from explorer.checkpoints.adapted import AdaptedCheckpoint, put_on
from explorer.checkpoints.adapter import Adapter
from explorer.checkpoints.hub import open_model
from explorer.errors import InputError
from explorer.mergekit.schema import Document, ModelRef
from explorer.mergekit.trouble import Trouble


def open_references(
    document: Document,
    *,
    made: Mapping[str, Checkpoint] | None = None,
    allowed: Sequence[Path] | None = None,
    hub: bool = True,
) -> dict[ModelRef, Checkpoint]:
    """Every model of the document, adapters put on; `made` are outputs of earlier documents by their names.

    Raises RecipeError with everything that cannot be opened.
    """
    trouble = Trouble(document.source)
    opened: dict[ModelRef, Checkpoint] = {}
    for model in document.models:
        line = next((s.line for s in document.sources() if s.model == model), document.line)
        try:
            opened[model] = _open(model, made or {}, allowed, hub)
        except InputError as error:
            trouble.add(line, str(error))
            continue
        problem = _unusable(opened[model])
        if problem:
            trouble.say(line, str(model), *problem)
    trouble.check()
    return opened


def _open(model: ModelRef, made: Mapping[str, Checkpoint], allowed: Sequence[Path] | None, hub: bool) -> Checkpoint:
    if model.path in made:
        checkpoint = made[model.path]
    elif model.revision and Path(model.path).exists():  # a folder has one revision: the one that lies there
        checkpoint = open_model(model.path, allowed=allowed, hub=hub)
    else:
        checkpoint = open_model(model.opened, allowed=allowed, hub=hub)
    if model.lora_opened is None:
        return checkpoint
    return put_on(checkpoint, open_model(model.lora_opened, allowed=allowed, hub=hub))


def _unusable(checkpoint: Checkpoint) -> tuple[str, str, str] | None:
    """Why a model cannot be an input: what must hold, what is there, what to do."""
    if isinstance(checkpoint, Adapter):
        return "must hold whole weights", "an adapter alone", "Write base+adapter, such as org/model+org/adapter."
    if isinstance(checkpoint, AdaptedCheckpoint) and (checkpoint.fits_nowhere or checkpoint.unmatched):
        trained = checkpoint.adapter.settings.trained_on
        return "the adapter must fit the model before its +", "modules that it lacks", f"Put it on {trained}."
    odd = [i.name for i in checkpoint.infos if i.dtype.is_floating_point and not i.is_float]
    if odd:
        got = f"{len(odd)} tensors of 8-bit floats, such as {odd[0]}"
        return "must hold plain weights", got, "Save the model again in bfloat16."
    return None
