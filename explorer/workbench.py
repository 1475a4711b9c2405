"""Everything heavy behind the page: resident models, live merges, scores and surveys, shared by all sessions.

A `Slot` is one browser tab. Its newest request wins: an older one stops at its next batch. All forward passes and
merges take turns on one device, first come first served, a short step at a time, so nobody starves.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from explorer.answers import tables
from explorer.checkpoints import find_checkpoints
from explorer.checkpoints.hub import download
from explorer.compute.device import pick_device
from explorer.compute.source import Source
from explorer.errors import ExplorerError, InputError, PathError, sentence
from explorer.evaluation import EvaluationTask, Evaluator
from explorer.executor import CancelToken, ProgressCallback
from explorer.exporting import Export, write_merge
from explorer.inspection import Inspection, inspect_open
from explorer.live import LiveModel, Resident, load_resident, resident_bytes, rows_bytes
from explorer.merging import METHODS, Method
from explorer.opened import Opened
from explorer.opening import OpenModels, companions_folder, open_models
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.seeds import digest_of
from explorer.session import Session
from explorer.slots import Slot, Turns
from explorer.store import KeptStore, Store, bytes_in_words
from explorer.surveys import survey_models
from explorer.tasks_at_hand import TasksAtHand
from explorer.uploads import Uploads

MAX_SLOTS = 32


class Workbench:
    """Models, tasks and sessions of one server.

    `roots` are the only folders checkpoints may come from, uploads apart (`allowed`: both); `tasks_folders` hold
    evaluation tasks; `exports` is where merges are written; `scratch` is for temporary files and goes with the
    server. `budget_bytes` bounds what is kept resident for all sessions together. `cache` is a folder where answers of
    unmerged checkpoints and surveys are kept between runs; None keeps nothing. `hub`: whether hub models may be named.
    """

    def __init__(
        self,
        start: Recipe,
        *,
        roots: Sequence[Path],
        tasks_folders: Sequence[Path],
        exports: Path,
        device: str | None = None,
        budget_bytes: int = 6 << 30,
        cache: Path | None = None,
        hub: bool = False,
    ) -> None:
        self.start, self.hub = start, hub
        self.scratch = Path(tempfile.mkdtemp(prefix="explorer-")).resolve()
        weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        self.roots = tuple(dict.fromkeys(Path(r).resolve() for r in roots))
        self.uploads = Uploads(self.scratch / "uploads")
        self.allowed = (*self.roots, self.uploads.folder)
        self.exports = Path(exports)
        self.device = pick_device(device)
        self.store, self._cache = _store(budget_bytes, cache, self.device.title), cache
        self.turns, self._opened = Turns(), Opened()
        self._tasks = TasksAtHand(self.store, tasks_folders, self.allowed)
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._residents: weakref.WeakValueDictionary[str, Resident] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def slot(self, id: str) -> Slot:
        """The slot of a browser tab, made with the start recipe on first use; the idlest go when there are too many."""
        with self._lock:
            if id not in self._slots:
                self._slots[id] = Slot(id, Session(self.start))
            self._slots.move_to_end(id)
            while len(self._slots) > MAX_SLOTS:
                _, oldest = self._slots.popitem(last=False)
                oldest.free()
                self.uploads.forget(oldest.id)
            return self._slots[id]

    def close(self, id: str) -> None:
        """The tab is gone: stop its work and free its rows. Its settings stay, should it come back."""
        with self._lock:
            slot = self._slots.get(id)
        if slot:
            slot.free()

    def _models_key(self, recipe: Recipe) -> str:
        chosen = [(t.name, t.checkpoint, t.statistics) for t in recipe.tasks]
        return digest_of(recipe.base, chosen, recipe.policy, recipe.include, recipe.exclude)

    def models(self, recipe: Recipe) -> OpenModels:
        """The recipe's models, opened and aligned; only from the allowed folders and from uploads."""
        return self._opened.get(recipe.digest, lambda: open_models(recipe, allowed=self.allowed, hub=self.hub))

    def download(self, recipe: Recipe, cancel: CancelToken) -> None:
        """Fetch the recipe's hub models that the local cache lacks. Raises InputError unless `hub` allows it."""
        if not self.hub:
            must = "downloads must be allowed"
            raise InputError(sentence("hub", must, "an app started without --hub", "Start it with --hub."))
        download(recipe.checkpoints, cancel=cancel)

    def available(self) -> list[Path]:
        """Checkpoints beneath the allowed folders, relative to the working folder where they lie in it."""
        here = Path.cwd()
        found = [p for root in self.roots for p in find_checkpoints(root)]
        return [p.relative_to(here) if p.is_relative_to(here) else p for p in dict.fromkeys(found)]

    def receive(self, slot_id: str, files: Sequence[Path]) -> Path:
        """Keep uploaded files as a checkpoint folder of one session; the path to open it by. See `Uploads`."""
        return self.uploads.receive(slot_id, files)

    def method(self, name: str) -> Method:
        """A merge method by name. Raises UnknownNameError."""
        return METHODS.get(name)

    def methods(self) -> tuple[Method, ...]:
        """Every merge method."""
        return tuple(METHODS)

    def measured(self, recipe: Recipe) -> frozenset[str]:
        """The kinds of statistics that every task of the recipe has; none where its files cannot be read."""
        if all(t.statistics for t in recipe.tasks):
            with contextlib.suppress(InputError):
                return self.models(recipe).measured
        return frozenset()

    def inspect(self, recipe: Recipe) -> Inspection:
        """What the models hold and how they differ from the base."""
        return inspect_open(self.models(recipe))

    def resident(self, recipe: Recipe) -> Resident:
        """The recipe's models, shared by every session that has the same open: in memory, or read at each merge.

        Raises InputError when not even merged rows fit the budget.
        """
        models = self.models(recipe)
        place = self._place(models)
        if place is None:
            must = f"a merged model needs {bytes_in_words(rows_bytes(models))} of memory to be scored"
            advice = "Start the app with a larger --budget, or export: that reads models piece by piece."
            raise InputError(sentence("memory", must, bytes_in_words(self.store.budget_bytes), advice))
        key = f"resident/{self._models_key(recipe)}/{models.source.digest}"
        held = self._residents.get(key)  # a session may hold models that the store let go of
        if held is not None:
            self.store.put(key, held, held.resident_bytes)
            return held
        make = lambda: load_resident(models, self.device.torch, place)  # noqa: E731
        self._residents[key] = made = self.store.get_or_make(key, make, lambda r: r.resident_bytes)
        return made

    def _place(self, models: OpenModels) -> str | None:
        """Where the models are kept for merging: the first place with room for them; None where rows do not fit."""
        budget, card = self.store.budget_bytes, self.device.free_bytes if self.device.name != "cpu" else None
        if rows_bytes(models) + resident_bytes(models, "disk") > budget:
            return None
        if self._fits(models):
            return "device" if card is None or resident_bytes(models) + 2 * rows_bytes(models) < card else "host"
        return "disk"

    def _fits(self, models: OpenModels) -> bool:
        return resident_bytes(models) <= self.store.budget_bytes

    def _source(self, recipe: Recipe) -> Source:
        """The resident copy of the recipe's tensors where it fits, else the files themselves: the same bits."""
        models = self.models(recipe)
        return self.resident(recipe).arena if self._fits(models) else models.source

    def evaluation_tasks(self, recipe: Recipe, split: str = "test") -> tuple[EvaluationTask, ...]:
        """The evaluation tasks of the recipe's tasks, in its order; see `TasksAtHand`."""
        return self._tasks.of(recipe, lambda: self.models(recipe), split)

    def evaluator(self, recipe: Recipe) -> Evaluator:
        """The evaluator of these tasks; tokenized examples are kept between settings."""
        tasks = self.evaluation_tasks(recipe)
        folder = companions_folder(self.models(recipe).base)
        key = "evaluator/" + digest_of(folder, *(t.digest for t in tasks))
        return self.store.get_or_make(key, lambda: Evaluator(tasks, folder, self.device.torch), 16 << 20)

    def survey(
        self,
        recipe: Recipe,
        *,
        metrics: Sequence[str],
        trim_density: float = 1.0,
        denominator: str = "all",
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        held: bool = False,
        **watched: Any,
    ) -> dict[str, Result]:
        """Interference metrics of the recipe's models, kept by content; see `explorer.answers.tables`.

        `watched` are `progress` and `cancel`.
        """
        models = self.models(recipe)
        device = self.device.torch if self._fits(models) else None
        run = partial(survey_models, models, cache=self._cache, device=device, resident=partial(self._source, recipe))
        ask, digest = partial(run, denominator=denominator, **watched), digest_of(models.source.digest, denominator)
        given: dict[str, Any] = {"trim_density": trim_density, "parameters": parameters, "held": held}
        return tables(self.store, digest, ask, metrics, **given)

    def live(self, slot: Slot, recipe: Recipe) -> LiveModel:
        """The slot's live model for these models; made anew when the models changed."""
        resident = self.resident(recipe)
        with slot.lock:
            if slot.live is None or slot.live.resident is not resident:
                slot.live = None
                slot.live = LiveModel(resident)
            live = slot.live
        self._make_room(slot)
        return live

    def _make_room(self, slot: Slot) -> None:
        """Let go of the idlest sessions' models while those in use pass the budget; they load again when needed."""
        with self._lock:
            others = [p for s in self._slots.values() for p in s.places if p is not slot and p.live]
        for other in others:
            used = [s.live for s in (slot, *others) if s.live]
            shared = {id(live.resident): live.resident.resident_bytes for live in used}
            if sum(shared.values()) + sum(live.resident_bytes for live in used) <= self.store.budget_bytes:
                return
            other.live = None

    def warm_up(self) -> None:
        """Load the start models and compare them in the background, so that the first visitor need not wait."""

        def work() -> None:
            # RuntimeError: the server ends meanwhile. Whatever is really wrong is said to the first visitor.
            with contextlib.suppress(ExplorerError, RuntimeError):
                self.resident(self.start)
                self.survey(self.start, metrics=("minority_mass", "sign_conflict"), trim_density=0.2)
                evaluator = self.evaluator(self.start)
                for task in evaluator.tasks:
                    evaluator.plan(task)

        threading.Thread(target=work, name="warm-up", daemon=True).start()

    def export(
        self,
        recipe: Recipe,
        name: str,
        *,
        scores: Result | None = None,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Export:
        """Write the merge to `exports/name`, from the same resident models that the page evaluates.

        Raises PathError for a name that is none, OutputError as `run_recipe`.
        """
        target = export_folder(self.exports, name)
        return write_merge(
            recipe,
            self.models(recipe),
            target,
            source=self._source(recipe),
            scores=scores,
            overwrite=overwrite,
            progress=progress,
        )


def export_folder(exports: Path, name: str) -> Path:
    """`exports/name` for a plain name. Raises PathError for anything that would leave the folder."""
    plain = name.strip()
    control = any(ord(c) < 32 for c in plain)
    if not plain or plain != Path(plain).name or plain.startswith(".") or len(plain) > 80 or "\\" in plain or control:
        must = "the export's name must be a plain folder name of at most 80 characters"
        raise PathError(sentence("export", must, repr(name), "Use letters, digits, - and _."))
    return exports / plain


def _store(budget_bytes: int, cache: Path | None, device: str) -> Store:
    """The server's store. Kept answers belong to one torch version and device, whose last bits may differ."""
    folder = cache and cache / "scores" / digest_of(torch.__version__, device)
    return KeptStore(budget_bytes, folder, "predictions/checkpoint/") if folder else Store(budget_bytes)
