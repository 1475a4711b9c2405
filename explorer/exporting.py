"""Writes a merge as Hugging Face model folders: whole or not at all, and exactly what the page evaluated."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from explorer import __version__
from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.files import remember_digests
from explorer.checkpoints.staging import Staging
from explorer.checkpoints.writer import SHARD_BYTES, FolderWriter
from explorer.companions import COMPANIONS, RECIPE_FILE, write_companions, write_sidecar
from explorer.compute.source import Source
from explorer.errors import ExplorerError, RecipeError, sentence
from explorer.executor import CancelToken, ProgressCallback, SerialExecutor, ThreadExecutor
from explorer.export_pass import BUDGET_BYTES, Pass, Room, noted, portions, run_pass
from explorer.export_rates import keep_rate
from explorer.merging import METHODS, Prepared, prepare, survival_table
from explorer.opening import OpenModels, open_models, output_dtype
from explorer.recipe import Recipe
from explorer.results import Result
from explorer.seeds import digest_of
from explorer.verifying import VERIFY_BYTES, Verification, check_loading, check_tensors

__all__ = ["COMPANIONS", "RECIPE_FILE", "Export", "ExportSettings", "run_recipe", "spare_inputs", "write_merge"]


@dataclass(frozen=True)
class ExportSettings:
    """How an export runs; none of it changes a bit of the weights.

    `budget_bytes`: memory for pieces in work, beside the program itself. `shard_bytes`: a weight file is closed before
    it would pass this. `verify`: None checks outputs below `VERIFY_BYTES`. `cache`: a folder for digests of inputs and
    measured rates, None for neither.
    """

    budget_bytes: int = BUDGET_BYTES
    shard_bytes: int = SHARD_BYTES
    verify: bool | None = None
    cache: Path | None = None


DEFAULTS = ExportSettings()


@dataclass(frozen=True)
class Export:
    """What was written: the folder (one folder per task inside it for per-task methods), its size, the time.

    `survival` says what the stored dtype left of the task vectors; `checked` what was verified, in sentences;
    `resumed_bytes` is the part of the weights that a killed run had written.
    """

    path: Path
    folders: tuple[Path, ...]
    total_bytes: int
    seconds: float
    survival: Result
    checked: tuple[str, ...] = ()
    resumed_bytes: int = 0


def run_recipe(
    recipe: Recipe | str | Path,
    out_dir: str | Path,
    *,
    overwrite: bool = False,
    allowed: Sequence[Path] | None = None,
    scores: Result | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    settings: ExportSettings = DEFAULTS,
) -> Export:
    """Merge by a recipe and write the model folder.

    `scores` (the table that `evaluate` gives) goes into the model card. A method with one output per task writes one
    model folder per task inside `out_dir`.
    Raises InputError when the recipe or a model cannot be used, OutputError when the folder cannot be written (then
    nothing of it remains; an earlier folder stays as it was), Cancelled when asked to stop.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(Path(recipe))
    return write_merge(
        recipe,
        open_models(recipe, allowed=allowed),
        Path(out_dir),
        overwrite=overwrite,
        scores=scores,
        progress=progress,
        cancel=cancel,
        settings=settings,
    )


def write_merge(
    recipe: Recipe,
    models: OpenModels,
    out_dir: Path,
    *,
    source: Source | None = None,
    overwrite: bool = False,
    scores: Result | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    settings: ExportSettings = DEFAULTS,
) -> Export:
    """Like `run_recipe` for models that are already open; `source` may be their resident copy."""
    started = time.perf_counter()
    spare_inputs(models, out_dir)
    if settings.cache:
        remember_digests(settings.cache / "digests")
    source = source or models.reading
    method = METHODS.get(recipe.method)
    # As the live merge does: on one thread, torch's own threads wait for each other whenever the cores are busy.
    threads = ThreadExecutor(2) if source.device.type == "cpu" else SerialExecutor()
    values, add_ons = recipe.values(), recipe.add_ons
    prepared = prepare(method, source, values, executor=threads, seed=recipe.seed, cancel=cancel, add_ons=add_ons)
    single = method.output == "single"
    job = _Job(recipe, models, source, prepared, settings, scores, progress, cancel)
    folders = _write_folders(job, (out_dir,), overwrite) if single else _write_per_task(job, out_dir, overwrite)
    total = sum(f.stat().st_size for f in out_dir.rglob("*") if f.is_file())
    seconds = time.perf_counter() - started
    if settings.cache and not job.resumed_bytes:
        keep_rate(settings.cache, method.name, job.moved_bytes / seconds)
    return Export(out_dir, folders, total, seconds, job.survival(), job.checked, job.resumed_bytes)


def spare_inputs(models: OpenModels, out_dir: Path) -> None:
    """Refuse to write over a model that is being read: with `overwrite` it would be gone afterwards."""
    target = out_dir.expanduser().resolve()
    measured = (given.file for given in models.given.values())
    inputs = [c.path.resolve() for c in (models.base, *models.tasks.values(), *measured)]
    held = next((p for p in inputs if p == target or p.is_relative_to(target)), None)
    if held is not None:
        must = "the output must not replace a model of its own recipe"
        raise RecipeError(sentence("merge", must, str(held), "Give another folder."))


@dataclass
class _Job:
    recipe: Recipe
    models: OpenModels
    source: Source
    prepared: Prepared
    settings: ExportSettings
    scores: Result | None
    progress: ProgressCallback | None
    cancel: CancelToken | None
    sums: list[torch.Tensor] = field(default_factory=list)
    checked: tuple[str, ...] = ()
    resumed_bytes: int = 0
    moved_bytes: int = 0

    def survival(self) -> Result:
        """What the stored dtype left of the tensors written so far."""
        dtype = getattr(torch, self.recipe.dtype) if self.recipe.dtype else None
        return survival_table(self.prepared, self.models.source, self.sums, dtype)

    @property
    def resume_key(self) -> str | None:
        """Names all that the weights depend on; None where several folders are written, which begin anew."""
        if self.prepared.method.output != "single":
            return None
        held = (self.models.base, *self.models.tasks.values(), *(g.file for g in self.models.given.values()))
        stamps = [c.stamps for c in held]
        made_by = (__version__, torch.__version__, str(self.source.device), self.settings.shard_bytes)
        return digest_of("export", self.recipe.digest, self.models.names, *stamps, *made_by)


def _write_per_task(job: _Job, out_dir: Path, overwrite: bool) -> tuple[Path, ...]:
    """One model folder per task, all of them under their final name at once."""
    staging = Staging(out_dir, overwrite=overwrite)
    staging.begin()
    try:
        _write_folders(job, [staging.folder / name for name in job.recipe.task_names], overwrite=False)
        with staging.guard("the recipe"):
            (staging.folder / RECIPE_FILE).write_text(job.recipe.to_yaml(), encoding="utf-8")
        staging.publish()
    finally:
        staging.discard()
    return tuple(out_dir / name for name in job.recipe.task_names)


def _write_folders(job: _Job, targets: Sequence[Path], overwrite: bool) -> tuple[Path, ...]:
    """One folder for a single model, or one per task in order; every tensor is merged once."""
    base = job.models.base
    merged = set(job.models.names)
    dtypes = {n: output_dtype(job.recipe, i.dtype) if n in merged else i.dtype for n, i in base.tensors.items()}
    plan = {name: (info.shape, dtypes[name]) for name, info in base.tensors.items()}

    key, shards = job.resume_key, job.settings.shard_bytes
    with ExitStack() as stack:
        open_one = lambda t: FolderWriter(t, overwrite=overwrite, shard_bytes=shards, resume_key=key)  # noqa: E731
        writers = [stack.enter_context(open_one(target)) for target in targets]
        for writer in writers:
            writer.plan(plan)
        room = Room(job.settings.budget_bytes)
        known = noted(writers[0].notes)
        made = Pass(job.prepared, job.source, base, dtypes, writers, room, known)
        with hashing(job.models, job.cancel):
            work = portions(job.prepared, job.source, base, dtypes)
            written = run_pass(made, work, progress=job.progress, cancel=job.cancel)
        job.sums, job.resumed_bytes = written.sums, written.resumed_bytes
        job.moved_bytes = sum(p.read_bytes + p.write_bytes for p in work)
        single = job.prepared.method.output == "single"
        for index, task in enumerate((None,) if single else job.recipe.task_names):
            _finish(job, writers[index], dtypes, task, written.digests[index], written.steps)
    return tuple(targets)


def _finish(
    job: _Job,
    writer: FolderWriter,
    dtypes: Mapping[str, torch.dtype],
    task: str | None,
    pieces: Mapping[str, list[str]],
    steps: Mapping[str, int],
) -> None:
    """The files beside the weights, and a look at what lies on the disk before it gets its name."""
    survival = job.survival()
    write_companions(job.recipe, job.models, writer, dtypes, task=task, scores=job.scores, survival=survival)
    tensors = write_sidecar(job.recipe, job.models, writer, dtypes, pieces, steps)
    writer.sync()
    size = sum(info.numel * dtypes[name].itemsize for name, info in job.models.base.tensors.items())
    if job.settings.verify if job.settings.verify is not None else size < VERIFY_BYTES:
        held, problems = check_tensors(open_checkpoint(writer.folder), tensors, cancel=job.cancel)
        more, wrong = check_loading(writer.folder) if not problems else ([], [])
        job.checked = (*held, *more)
        Verification(job.checked, (*problems, *wrong)).require("verify")


@contextmanager
def hashing(models: OpenModels, cancel: CancelToken | None) -> Iterator[None]:
    """Digest every input file beside other work, on one thread; the card states them. Known ones cost nothing."""
    held = (models.base, *models.tasks.values())

    def work() -> None:
        with suppress(ExplorerError):  # whoever asks for the digest later raises it again, in its own words
            for checkpoint in held:
                if cancel:
                    cancel.check("export")
                _ = checkpoint.on_disk.digest

    thread = threading.Thread(target=work, name="digests", daemon=True)
    thread.start()
    yield
    thread.join()
