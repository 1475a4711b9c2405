"""A file of mergekit recipes as one job: one merge, or several of which later ones use the outputs of earlier ones."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from explorer.checkpoints import Checkpoint, TensorInfo
from explorer.checkpoints.opening import open_checkpoint
from explorer.errors import OutputError, sentence
from explorer.executor import CancelToken, ProgressCallback
from explorer.mergekit.opening import open_references
from explorer.mergekit.plan import Plan, plan
from explorer.mergekit.running import Merged, Options, write_plan
from explorer.mergekit.schema import Document, ModelRef, RecipeFile
from explorer.mergekit.trouble import Trouble


@dataclass(frozen=True)
class Limits:
    """What may be read: folders, the hub's cache, and whether models of different architectures may meet."""

    allowed: tuple[Path, ...] | None = None
    hub: bool = True
    allow_crimes: bool = False


def ordered(file: RecipeFile) -> tuple[Document, ...]:
    """The documents in the order of running: each after those whose names it uses; the final output last.

    Raises RecipeError for documents that need each other.
    """
    named = {d.name: d for d in file.documents if d.name}
    final = next((d for d in file.documents if d.name is None), file.documents[-1])
    order: list[Document] = []
    trouble = Trouble(file.source)

    def add(document: Document, path: tuple[str, ...]) -> None:
        if document in order:
            return
        if document.name and document.name in path:
            got = " uses ".join((*path[path.index(document.name) :], document.name))
            trouble.say(document.line, "documents", "must not need each other", got, "Break the circle.")
            return
        for model in document.models:
            if model.path in named and named[model.path] is not document:
                add(named[model.path], (*path, document.name or "the last"))
        if document not in order:
            order.append(document)

    for document in (*(d for d in file.documents if d is not final), final):
        add(document, ())
    trouble.check()
    return (*(d for d in order if d is not final), final)


def plan_file(file: RecipeFile, limits: Limits = Limits()) -> tuple[Plan, ...]:
    """Plans of all documents, in the order of running; what earlier ones will write counts as there.

    Raises RecipeError with everything that is wrong with the first document that cannot be run.
    """
    plans: list[Plan] = []
    made: dict[str, Checkpoint] = {}
    for document in ordered(file):
        opened = open_references(document, made=made, allowed=limits.allowed, hub=limits.hub)
        plans.append(plan(document, opened, allow_crimes=limits.allow_crimes))
        if document.name:
            made[document.name] = promised(plans[-1], document.name)
    return tuple(plans)


def promised(planned: Plan, name: str) -> Checkpoint:
    """What a plan will write, as a checkpoint without files: enough to plan what comes after it."""
    nowhere = Path(f"output of {name}")
    infos = tuple(
        TensorInfo(o.name, o.shape, o.dtype, nowhere, 0) for o in sorted(planned.tensors, key=lambda o: o.name)
    )
    return Checkpoint(nowhere, name, "planned", infos, (), dict(planned.config))


def run_file(
    file: RecipeFile,
    out_dir: Path,
    options: Options | None = None,
    *,
    allowed: Sequence[Path] | None = None,
    hub: bool = True,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Merged:
    """Plan everything, then write: outputs of earlier documents go into a hidden folder that is removed at the end.

    Raises RecipeError or CheckpointError for what cannot be merged, OutputError where nothing can be written.
    """
    options = options or Options()
    limits = Limits(None if allowed is None else tuple(allowed), hub, options.allow_crimes)
    plans = plan_file(file, limits)
    if len(plans) == 1:
        return write_plan(plans[0], out_dir, file.text, options, progress=progress, cancel=cancel)
    target = out_dir.expanduser().resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        held = tempfile.TemporaryDirectory(prefix=f".{target.name}.steps-", dir=target.parent)
    except OSError as error:
        reason, advice = (error.strerror or str(error)).lower(), "Check the path and its permissions."
        raise OutputError(sentence(str(target), "the folder must be writable", reason, advice)) from error
    with held as folder:
        made: dict[str, Checkpoint] = {}
        for number, step in enumerate(plans):
            opened = _opened(step, made)
            now = plan(step.document, opened, allow_crimes=limits.allow_crimes)
            if number == len(plans) - 1:
                return write_plan(now, out_dir, file.text, options, progress=progress, cancel=cancel)
            path, plain = Path(folder) / f"step{number}", replace(options, model_card=False, overwrite=False)
            write_plan(now, path, "", plain, progress=progress, cancel=cancel)
            if step.document.name:
                made[step.document.name] = open_checkpoint(path)
    raise AssertionError("a file of recipes has a last one")


def _opened(step: Plan, made: Mapping[str, Checkpoint]) -> dict[ModelRef, Checkpoint]:
    return {model: made.get(model.path, checkpoint) for model, checkpoint in step.models.items()}
