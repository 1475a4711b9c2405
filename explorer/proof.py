"""Proves an export: reads the folder again and compares every tensor, bit for bit, with what it must hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from explorer.checkpoints import Checkpoint, open_checkpoint
from explorer.errors import CheckpointError, sentence
from explorer.executor import CancelToken, SerialExecutor, ThreadExecutor
from explorer.exporting import RECIPE_FILE
from explorer.live import LiveModel
from explorer.merging import METHODS, merge_tensor, prepare
from explorer.opening import OpenModels, open_models, output_dtype
from explorer.recipe import Recipe
from explorer.workbench import Slot, Workbench

Expected = Callable[[str, "str | None"], Tensor]
"""(tensor name, task it serves or None) -> what an export must hold."""


@dataclass(frozen=True)
class Mismatch:
    """The first tensor that is not as it must be: the folder it is in, and what is wrong with it, in words."""

    folder: str
    tensor: str
    what: str


@dataclass(frozen=True)
class Proof:
    """What was compared, and what did not agree. `against`: "the live model" or "a new merge by its recipe"."""

    path: Path
    against: str
    tensors: int
    weights: int
    total_bytes: int
    differing: int
    first: Mismatch | None
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every tensor agrees in name, shape, dtype and every bit."""
        return self.differing == 0


class _MovedError(Exception):
    """The live model holds another merge now."""


def prove(bench: Workbench, slot: Slot, folder: Path, *, cancel: CancelToken | None = None) -> Proof:
    """Compares an exported folder with the slot's live model where it holds that very merge, else with a new merge.

    The recipe is the folder's own. Raises InputError when the folder, its recipe or a model cannot be read, Cancelled.
    """
    recipe = _recipe_of(folder)
    models, live = bench.models(recipe), slot.live
    if live is not None and live.arena.digest == models.source.digest and live.key == live.key_of(recipe):
        key = live.key

        def held(name: str, task: str | None) -> Tensor:
            with bench.turns.turn():  # no merge writes the row meanwhile
                if live.key != key:
                    raise _MovedError
                return live.weights(task)[name].cpu().clone()

        try:
            return _compare(folder, recipe, models, held, "the live model", cancel)
        except _MovedError:
            pass
    return _compare(folder, recipe, models, fresh(recipe, models, cancel), "a new merge by its recipe", cancel)


def prove_folder(
    folder: Path | str, *, allowed: Sequence[Path] | None = None, cancel: CancelToken | None = None
) -> Proof:
    """Compares an exported folder with a new merge of the files that its own recipe names. Raises as `prove`."""
    recipe = _recipe_of(Path(folder))
    models = open_models(recipe, allowed=allowed)
    return _compare(Path(folder), recipe, models, fresh(recipe, models, cancel), "a new merge by its recipe", cancel)


def prove_live(live: LiveModel, recipe: Recipe, folder: Path) -> Proof:
    """Compares an exported folder with what a live model holds; the recipe says which models and which tasks."""
    expected = lambda name, task: live.weights(task)[name].cpu()  # noqa: E731
    return _compare(folder, recipe, live.resident.models, expected, "the live model", None)


def _recipe_of(folder: Path) -> Recipe:
    file = folder / RECIPE_FILE
    if not file.is_file():
        must, advice = "must be a folder that this program exported", f"It holds a file {RECIPE_FILE}."
        raise CheckpointError(sentence(str(folder), must, "no recipe in it", advice))
    return Recipe.load(file)


def fresh(recipe: Recipe, models: OpenModels, cancel: CancelToken | None = None) -> Expected:
    """Merged tensors made anew from the models' files, one at a time."""
    source, method = models.source, METHODS.get(recipe.method)
    threads = ThreadExecutor(2) if source.device.type == "cpu" else SerialExecutor()
    values, add_ons = recipe.values(), recipe.add_ons
    prepared = prepare(method, source, values, executor=threads, seed=recipe.seed, cancel=cancel, add_ons=add_ons)
    made: dict[str, Tensor | list[Tensor]] = {}

    def expected(name: str, task: str | None) -> Tensor:
        if name not in made:  # one merge of a tensor serves every task
            made.clear()
            made[name] = merge_tensor(prepared, source, name, output_dtype(recipe, source.dtype(name)))
        found = made[name]
        return found if isinstance(found, Tensor) else found[source.tasks.index(str(task))]

    return expected


def _compare(
    folder: Path, recipe: Recipe, models: OpenModels, expected: Expected, against: str, cancel: CancelToken | None
) -> Proof:
    """Every tensor of every model in the folder; one tensor at a time, and all tasks of it together."""
    started = time.perf_counter()
    single = METHODS.get(recipe.method).output == "single"
    parts: dict[str | None, Checkpoint] = (
        {None: open_checkpoint(folder)} if single else {t: open_checkpoint(folder / t) for t in recipe.task_names}
    )
    merged, wanted = set(models.names), models.base.tensors
    wrong = [
        Mismatch(str(c.path), name, "it is missing" if name in wanted else "nothing of that name was merged")
        for c in parts.values()
        for name in sorted(set(wanted) ^ set(c.tensors))
    ]
    weights = 0
    for name in wanted:
        for task, held in parts.items():
            if cancel:
                cancel.check("proof")
            if name not in held.tensors:
                continue
            right = expected(name, task) if name in merged else models.base.read(name)
            weights += right.numel()
            what = _difference(held.read(name), right)
            wrong += [Mismatch(str(held.path), name, what)] if what else []
    size = sum(f.stat().st_size for f in folder.rglob("*.safetensors"))
    seconds, first = time.perf_counter() - started, wrong[0] if wrong else None
    return Proof(folder, against, len(wanted) * len(parts), weights, size, len(wrong), first, seconds)


def _difference(held: Tensor, right: Tensor) -> str:
    """What differs, in words; empty for equal shapes, dtypes and bits (−0.0 is not 0.0)."""
    if held.dtype != right.dtype or held.shape != right.shape:
        one, other = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (held, right))
        return f"it is {one} and must be {other}"
    if not held.numel():
        return ""
    bits = [t.reshape(-1).contiguous().view(torch.uint8).view(t.numel(), -1) for t in (held, right)]
    if torch.equal(*bits):
        return ""
    off = (bits[0] != bits[1]).any(1).nonzero()[:, 0]
    at = int(off[0])
    values = [t.reshape(-1)[at].item() for t in (held, right)]
    return f"{len(off):,} of {held.numel():,} weights differ; the first, at {at}, is {values[0]!r}, not {values[1]!r}"


def proof_text(proof: Proof) -> str:
    """One or two sentences for a person."""
    if proof.holds:
        return (
            f"Proved: {proof.path.name} was read again, and all {proof.tensors:,} tensors ({proof.weights:,} weights) "
            f"equal {proof.against}, bit for bit."
        )
    assert proof.first is not None
    where, agree = proof.first, max(0, proof.tensors - proof.differing)
    return (
        f"Not proved: {proof.differing:,} tensors of {proof.path.name} do not equal {proof.against}, {agree:,} do. "
        f"The first is {where.tensor} in {Path(where.folder).name}: {where.what}."
    )
