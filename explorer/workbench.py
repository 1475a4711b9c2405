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
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from explorer.checkpoints import find_checkpoints, open_checkpoint
from explorer.compute.device import pick_device
from explorer.errors import ExplorerError, InputError, PathError, sentence
from explorer.evaluation import EvaluationTask, Evaluator, find_tasks, load_task
from explorer.executor import CancelToken, ProgressCallback, ThreadExecutor
from explorer.exporting import Export, write_merge
from explorer.inspection import Inspection, inspect_open
from explorer.interference import survey
from explorer.live import LiveModel, Resident, load_resident
from explorer.merging import METHODS, Method
from explorer.opening import OpenModels, open_models
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.seeds import digest_of
from explorer.session import Session
from explorer.store import Store

MAX_SLOTS = 32


class Turns:
    """A lock that is granted in the order of asking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn on the device."""
        mine = threading.Event()
        with self._lock:
            self._waiting.append(mine)
            if self._waiting[0] is mine:
                mine.set()
        mine.wait()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.popleft()
                if self._waiting:
                    self._waiting[0].set()


@dataclass
class Slot:
    """What one browser tab holds: its session, its newest request, and its live model once there is one."""

    id: str
    session: Session
    token: CancelToken = field(default_factory=CancelToken)
    live: LiveModel | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def newest(self) -> CancelToken:
        """A token for a new request; the request before it is asked to stop."""
        with self.lock:
            self.token.cancel()
            self.token = CancelToken()
            return self.token


class Workbench:
    """Models, tasks and sessions of one server.

    `roots` are the only folders checkpoints may come from; `tasks_folders` hold evaluation tasks; `exports` is where
    merges are written. `budget_bytes` bounds what is kept resident for all sessions together.
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
    ) -> None:
        self.start = start
        self._uploads = Path(tempfile.mkdtemp(prefix="explorer-uploads-")).resolve()
        weakref.finalize(self, shutil.rmtree, self._uploads, ignore_errors=True)
        self.roots = (*(Path(r).resolve() for r in roots), self._uploads)
        self.exports = Path(exports)
        self.device = pick_device(device)
        self.store = Store(budget_bytes)
        self.turns = Turns()
        self._tasks_folders = tuple(tasks_folders)
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._lock = threading.Lock()

    def slot(self, id: str) -> Slot:
        """The slot of a browser tab, made with the start recipe on first use; the idlest go when there are too many."""
        with self._lock:
            if id not in self._slots:
                self._slots[id] = Slot(id, Session(self.start))
            self._slots.move_to_end(id)
            while len(self._slots) > MAX_SLOTS:
                _, oldest = self._slots.popitem(last=False)
                oldest.newest()
            return self._slots[id]

    def close(self, id: str) -> None:
        """The tab is gone: stop its work and free its rows. Its settings stay, should it come back."""
        with self._lock:
            slot = self._slots.get(id)
        if slot:
            slot.newest()
            slot.live = None

    def _models_key(self, recipe: Recipe) -> str:
        chosen = [(t.name, t.checkpoint) for t in recipe.tasks]
        return digest_of(recipe.base, chosen, recipe.policy, recipe.include, recipe.exclude)

    def models(self, recipe: Recipe) -> OpenModels:
        """The recipe's models, opened and aligned; only from the allowed folders."""
        return open_models(recipe, allowed=self.roots)

    def available(self) -> list[Path]:
        """Checkpoints beneath the allowed folders, relative to the working folder where they lie in it."""
        here = Path.cwd()
        found = [p for root in self.roots for p in find_checkpoints(root)]
        return [p.relative_to(here) if p.is_relative_to(here) else p for p in dict.fromkeys(found)]

    def receive(self, slot_id: str, files: Sequence[Path]) -> Path:
        """Keep uploaded files as a checkpoint folder of one session; the path to open it by.

        Raises InputError for anything but weights and their small companions, or when they are no checkpoint.
        """
        folder = self._uploads / digest_of(slot_id) / upload_name(files)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            for file in files:
                shutil.copyfile(file, folder / Path(file.name).name)
            open_checkpoint(folder, allowed=self.roots)
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def method(self, name: str) -> Method:
        """A merge method by name. Raises UnknownNameError."""
        return METHODS.get(name)

    def methods(self) -> tuple[Method, ...]:
        """Every merge method."""
        return tuple(METHODS)

    def inspect(self, recipe: Recipe) -> Inspection:
        """What the models hold and how they differ from the base."""
        return inspect_open(self.models(recipe))

    def resident(self, recipe: Recipe) -> Resident:
        """The recipe's models in memory; shared by every session that has the same open."""
        models = self.models(recipe)
        key = f"resident/{self._models_key(recipe)}/{models.source.digest}"
        make = lambda: load_resident(models, self.device.torch)  # noqa: E731
        return self.store.get_or_make(key, make, lambda r: r.resident_bytes)

    def evaluation_tasks(self, recipe: Recipe, split: str = "test") -> tuple[EvaluationTask, ...]:
        """The evaluation tasks that carry the names of the recipe's tasks, in its order."""
        known: dict[str, Path] = {}
        for folder in self._tasks_folders:
            known = {**find_tasks(folder), **known} if folder.is_dir() else known
        return tuple(self._task(known[n], split) for n in recipe.task_names if n in known)

    def _task(self, folder: Path, split: str) -> EvaluationTask:
        return self.store.get_or_make(f"task/{folder}/{split}", lambda: load_task(folder, split=split), 1 << 20)

    def evaluator(self, recipe: Recipe) -> Evaluator:
        """The evaluator of these tasks; tokenized examples are kept between settings."""
        tasks = self.evaluation_tasks(recipe)
        key = "evaluator/" + digest_of(recipe.base, *(t.digest for t in tasks))
        return self.store.get_or_make(key, lambda: Evaluator(tasks, recipe.base, self.device.torch), 16 << 20)

    def survey(
        self,
        recipe: Recipe,
        *,
        metrics: Sequence[str],
        trim_density: float = 1.0,
        cancel: CancelToken | None = None,
    ) -> dict[str, Result]:
        """Interference metrics of the recipe's models, kept by content, so the same question is answered at once."""
        arena = self.resident(recipe).arena

        def make() -> dict[str, Result]:
            executor = ThreadExecutor(2)
            return survey(arena, metrics=metrics, trim_density=trim_density, executor=executor, cancel=cancel)

        key = f"survey/{arena.digest}/" + digest_of(sorted(metrics), trim_density)
        return self.store.get_or_make(key, make, lambda results: sum(_table_bytes(r) for r in results.values()))

    def live(self, slot: Slot, recipe: Recipe) -> LiveModel:
        """The slot's live model for these models; made anew when the models changed."""
        resident = self.resident(recipe)
        with slot.lock:
            if slot.live is None or slot.live.resident is not resident:
                slot.live = None
                slot.live = LiveModel(resident)
            return slot.live

    def warm_up(self) -> None:
        """Load the start models and compare them in the background, so that the first visitor need not wait."""

        def work() -> None:
            with contextlib.suppress(ExplorerError):
                self.resident(self.start)
                self.survey(self.start, metrics=("minority_mass", "sign_conflict"), trim_density=0.2)

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
        """Write the merge to `exports/name`, from the same resident models that the page evaluates."""
        target = export_folder(self.exports, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        resident = self.resident(recipe)
        return write_merge(
            recipe,
            resident.models,
            target,
            source=resident.arena,
            scores=scores,
            overwrite=overwrite,
            progress=progress,
        )


def export_folder(exports: Path, name: str) -> Path:
    """`exports/name` for a plain name. Raises PathError for anything that would leave the folder."""
    plain = name.strip()
    if not plain or plain != Path(plain).name or plain.startswith(".") or len(plain) > 80 or "\\" in plain:
        must = "the export's name must be a plain folder name of at most 80 characters"
        raise PathError(sentence("export", must, repr(name), "Use letters, digits, - and _."))
    return exports / plain


def upload_name(files: Sequence[Path]) -> str:
    """A folder name for uploaded files. Raises InputError unless they are weights and their companions."""
    weights = [f for f in files if f.suffix == ".safetensors"]
    strange = [f.name for f in files if f.suffix not in (".safetensors", ".json", ".txt", ".jinja")]
    if not weights or strange:
        got = ", ".join(strange) or "no .safetensors file"
        advice = "Select model.safetensors (or all its shards and the index) and config.json together."
        raise InputError(sentence("upload", "must be safetensors weights and their config", got, advice))
    stem = min((f.stem for f in weights), key=len)
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)[:60].strip("-") or "upload"


def _table_bytes(result: Result) -> int:
    return int(result.table.memory_usage(deep=True).sum())


def effective_scales(recipe: Recipe) -> Mapping[str, float]:
    """Each task's `scale` in the recipe, empty where the method has none."""
    value = recipe.values().get("scale", {})
    return value if isinstance(value, Mapping) else dict.fromkeys(recipe.task_names, value)
