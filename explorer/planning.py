"""What a merge would take, before a byte of weights is read: sizes, memory, time, disk, and what stands in the way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from explorer.checkpoints.shards import split
from explorer.checkpoints.staging import Staging, megabytes
from explorer.compute import readiness
from explorer.errors import InputError, OutputError, sentence
from explorer.export_pass import Portion, portions, workers
from explorer.export_rates import measured_rate
from explorer.exporting import DEFAULTS, ExportSettings, spare_inputs
from explorer.merging import METHODS, Method, Prepared
from explorer.opening import OpenModels, open_models, output_dtype
from explorer.params import check_values
from explorer.recipe import Recipe
from explorer.verifying import VERIFY_BYTES

FLOOR_BYTES = 350 << 20
"""Anonymous memory of the program itself, with torch and the compiled loops loaded; measured."""
DEFAULT_RATE = 150e6
"""Bytes moved per second where this machine has not been measured: a slow disk, or a busy machine."""
_MARGIN = 1.05


@dataclass(frozen=True)
class ExportPlan:
    """What an export will take. Sizes in bytes; `read_bytes` counts every pass, `passes` says how many there are.

    `measured` is True where `bytes_per_second` comes from an earlier export by this method on this machine, as kept in
    the cache folder; else it is a stated default. `problems` keep the merge from working; `warnings` do not.
    """

    method: str
    out_bytes: int
    shards: int
    read_bytes: int
    write_bytes: int
    passes: int
    peak_bytes: int
    bytes_per_second: float
    measured: bool
    free_bytes: int
    verifies: bool
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Estimated time."""
        return (self.read_bytes + self.write_bytes) / self.bytes_per_second

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "seconds": self.seconds}

    def lines(self) -> list[str]:
        """The plan for people, one fact a line."""
        source = "measured here before" if self.measured else "a cautious guess: nothing was measured here yet"
        times = "once" if self.passes == 1 else f"{self.passes} times, for thresholds of the whole model"
        files = f" in {self.shards} files" if self.shards > 1 else ""
        return [
            f"output       {megabytes(self.out_bytes)}{files}",
            f"to read      {megabytes(self.read_bytes)}: every input {times}",
            f"to write     {megabytes(self.write_bytes)}",
            f"peak memory  about {megabytes(self.peak_bytes)}",
            f"time         about {_duration(self.seconds)} at {self.bytes_per_second / 1e6:.0f} MB/s ({source})",
            f"free disk    {megabytes(self.free_bytes)}",
            f"verified     {'yes' if self.verifies else 'no'}",
            *(f"warning: {w}" for w in self.warnings),
            *(f"problem: {p}" for p in self.problems),
        ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan_recipe(
    recipe: Recipe,
    out_dir: str | Path,
    *,
    allowed: Sequence[Path] | None = None,
    overwrite: bool = False,
    settings: ExportSettings = DEFAULTS,
) -> ExportPlan:
    """Plan by a recipe: headers are read, weights are not. Raises InputError where it cannot be merged at all."""
    return plan_merge(
        recipe, open_models(recipe, allowed=allowed), Path(out_dir), overwrite=overwrite, settings=settings
    )


def plan_merge(
    recipe: Recipe,
    models: OpenModels,
    out_dir: Path,
    *,
    overwrite: bool = False,
    settings: ExportSettings = DEFAULTS,
) -> ExportPlan:
    """Like `plan_recipe` for models that are already open."""
    method = METHODS.get(recipe.method)
    base, merged = models.base, set(models.names)
    dtypes = {n: output_dtype(recipe, i.dtype) if n in merged else i.dtype for n, i in base.tensors.items()}
    elements = sum(base.info(name).numel for name in merged)
    work = portions(_unprepared(method, recipe, elements), models.reading, base, dtypes)
    count = len(recipe.tasks) if method.output == "per_task" else 1
    sizes = [info.numel * dtypes[name].itemsize for name, info in base.tensors.items()]
    out_bytes = sum(sizes) * count
    verifies = settings.verify if settings.verify is not None else sum(sizes) < VERIFY_BYTES
    passes = 2 if method.prepare_function else 1
    merged_bytes = sum(p.read_bytes for p in work if p.merged)
    read = sum(p.read_bytes for p in work) + (passes - 1) * merged_bytes + (out_bytes if verifies else 0)
    rate = measured_rate(settings.cache, method.name)
    free = free_bytes(out_dir)
    return ExportPlan(
        method=method.name,
        out_bytes=out_bytes,
        shards=len(split({n: (i.shape, dtypes[n]) for n, i in base.tensors.items()}, settings.shard_bytes)) * count,
        read_bytes=read,
        write_bytes=out_bytes,
        passes=passes,
        peak_bytes=FLOOR_BYTES + max(_peak(work, settings.budget_bytes), sum(sizes) if verifies else 0),
        bytes_per_second=rate or DEFAULT_RATE,
        measured=rate is not None,
        free_bytes=free,
        verifies=verifies,
        warnings=tuple(_warnings(recipe, models, work, settings)),
        problems=tuple(_problems(models, out_dir, overwrite, out_bytes, free)),
    )


def _unprepared(method: Method, recipe: Recipe, elements: int) -> Prepared:
    """A method without its statistics: enough to know how it cuts tensors."""
    tasks = recipe.task_names
    values = check_values(method.specs, recipe.values(), who=method.name, tasks=tasks)
    for spec in (s for s in method.specs if s.per_task):
        given = values[spec.name]
        values[spec.name] = tuple(given[t] if isinstance(given, dict) else given for t in tasks)
    readiness.ready(elements * (len(tasks) + 1) if method.fused_function else 0)
    add_ons: Any = tuple(recipe.add_ons)
    return Prepared(method, tasks, values, {}, tuple(range(len(tasks))), recipe.seed, False, add_ons)


def _peak(work: Sequence[Portion], budget_bytes: int) -> int:
    """Memory of the pieces in work: as many at once as there are threads and as the budget admits."""
    largest = sorted((p.memory_bytes for p in work), reverse=True)[: workers()]
    return max(largest[0] if largest else 0, min(sum(largest), budget_bytes))


def free_bytes(out_dir: Path) -> int:
    """Room on the disk that will hold `out_dir`."""
    folder = Path(os.path.realpath(out_dir.expanduser()))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return 0


def _problems(models: OpenModels, out_dir: Path, overwrite: bool, out_bytes: int, free: int) -> list[str]:
    """Everything that would stop the export at its target."""
    found = []
    for check in (lambda: spare_inputs(models, out_dir), lambda: Staging(out_dir, overwrite=overwrite).check()):
        try:
            check()
        except (InputError, OutputError) as error:
            found.append(str(error))
    if free < out_bytes * _MARGIN:
        must = f"the disk must have {megabytes(int(out_bytes * _MARGIN))} free"
        found.append(sentence(str(out_dir), must, megabytes(free), "Free some space or choose another folder."))
    return found


def _warnings(recipe: Recipe, models: OpenModels, work: Sequence[Portion], settings: ExportSettings) -> list[str]:
    found = []
    largest = max(work, key=lambda p: p.memory_bytes, default=None)
    if largest and largest.memory_bytes > settings.budget_bytes:
        need = f"{largest.chunk.name} alone needs about {megabytes(largest.memory_bytes)} of memory"
        found.append(
            f"{need}, more than the budget of {megabytes(settings.budget_bytes)}: {recipe.method} sees it whole."
        )
    kept = len(models.base.tensors) - len(models.names)
    if kept:
        found.append(f"{kept} of {len(models.base.tensors)} tensors keep the base's values.")
    return found
