"""Which tensors of a base and its fine-tunes can be merged, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from explorer.checkpoints.adapted import AdaptedCheckpoint, put_on
from explorer.checkpoints.compare import (
    MAX_DRIFT,
    MIN_COSINE,
    drift_and_cosine,
    frozen_tensors,
    largest_matrices,
    same_bytes,
)
from explorer.checkpoints.handle import Checkpoint, TensorInfo
from explorer.checkpoints.own_layers import (
    Renamed,
    is_task_head,
    labels_of,
    on_top,
    own_note,
    shared_note,
    under_names_of,
)
from explorer.checkpoints.rows import differs_in_rows, rows_note
from explorer.checkpoints.tied import tied_tensors
from explorer.errors import AlignmentError, all_problems, near, sentence

POLICIES = ("refuse", "keep_base", "common_rows")
MIN_SHARED = 0.1
"""Below this share of the base's parameters in common, a checkpoint is another architecture."""
CATEGORIES = ("shared", "missing", "extra", "different_shape", "different_dtype", "non_float")
_SHOWN_PROBLEMS = 40
_KEEP = "Policy keep_base keeps the base's values there; policy refuse merges nothing."
_ROWS = "Policy common_rows merges the rows that both have; " + _KEEP[0].lower() + _KEEP[1:]


@dataclass(frozen=True)
class AlignmentReport:
    """What one fine-tune has in common with the base; names in ascending order.

    shared: float, same shape in both. missing: only in the base. extra: only in the fine-tune. different_shape,
    different_dtype: in both, unlike (a tensor of another dtype alone is still shared). non_float: whole numbers,
    booleans, complex or 8-bit values in either. `tied` and `frozen` read weights when first asked for.
    """

    task: str
    base: Checkpoint
    checkpoint: Checkpoint
    shared: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    different_shape: tuple[str, ...]
    different_dtype: tuple[str, ...]
    non_float: tuple[str, ...]

    @cached_property
    def tied(self) -> tuple[str, ...]:
        """Tensors of the fine-tune that are copies of its embedding, such as a tied lm_head.weight."""
        return tied_tensors(self.checkpoint.on_disk)

    @cached_property
    def frozen(self) -> tuple[str, ...]:
        """Shared tensors that fine-tuning left byte for byte as in the base."""
        return frozen_tensors(self.base, self.checkpoint, self.shared)

    @cached_property
    def changed_non_float(self) -> tuple[str, ...]:
        """Non-float tensors of the same shape whose bytes differ from the base's: they cannot be merged."""
        both = [n for n in self.non_float if n not in self.different_shape]
        return tuple(n for n in both if not same_bytes(self.base, n, self.checkpoint, n))

    @cached_property
    def shared_fraction(self) -> float:
        """Share of the base's float parameters that can be merged with this fine-tune, common rows included, 0-1."""
        total = self.base.parameter_count
        common = sum(min(self.base.info(n).numel, self.checkpoint.info(n).numel) for n in self.common_rows)
        return (sum(self.base.info(n).numel for n in self.shared) + common) / total if total else 0.0

    @cached_property
    def own_layers(self) -> tuple[str, ...]:
        """Layers on top of the backbone that are not the same in base and fine-tune, such as `classifier.weight`.

        They are no problem: nothing merges them, and a task with its own head is scored with its fine-tune's.
        """
        return on_top((*self.extra, *self.missing), self.different_shape, self.checkpoint.tensors)

    @cached_property
    def common_rows(self) -> tuple[str, ...]:
        """Float tensors of another shape that have rows in common: embeddings and heads with more or fewer rows."""
        both = [(self.base.info(n), self.checkpoint.info(n)) for n in self.different_shape]
        return tuple(a.name for a, b in both if a.is_float and b.is_float and differs_in_rows(a.name, a.shape, b.shape))

    def counts(self, *, read_weights: bool = True) -> dict[str, int]:
        """Number of tensors per category; `read_weights=False` leaves out tied and frozen and reads no weights."""
        counts = {name: len(getattr(self, name)) for name in CATEGORIES}
        return counts | ({"tied": len(self.tied), "frozen": len(self.frozen)} if read_weights else {})

    def rows(self, *, read_weights: bool = True) -> list[dict[str, Any]]:
        """Tidy rows: one per (category, tensor), with shape and dtype on both sides (empty where there is none)."""
        categories = (*CATEGORIES, "tied", "frozen") if read_weights else CATEGORIES
        return [self._row(category, name) for category in categories for name in getattr(self, category)]

    def _row(self, category: str, name: str) -> dict[str, Any]:
        mine, theirs = self.base.tensors.get(name), self.checkpoint.tensors.get(name)
        return {
            "task": self.task,
            "category": category,
            "tensor": name,
            "base_shape": _shape(mine),
            "task_shape": _shape(theirs),
            "base_dtype": _dtype(mine),
            "task_dtype": _dtype(theirs),
        }

    def problems(self, policy: str = "refuse") -> list[str]:
        """One sentence per tensor that cannot be merged; reads tensors that are no floats, up to where they differ.

        Under the policy "common_rows" tensors with rows in common are no problem. A tensor of whole numbers that only
        one side has (a `position_ids` buffer) is listed but is no problem; nor are `own_layers`.
        """
        who, found = f"task {self.task}", []
        if self.is_other_architecture:
            return [self._other_architecture()]
        solved = {*self.own_layers, *(self.common_rows if policy == "common_rows" else ())}
        for name in (n for n in self.different_shape if n not in solved):
            got = _shape(self.checkpoint.info(name))
            must = f"tensor {name} must have the base's shape {_shape(self.base.info(name))}"
            found.append(sentence(who, must, got, _ROWS if name in self.common_rows else _KEEP))
        for name in (n for n in self.missing if n not in solved and self.base.info(n).is_float):
            found.append(sentence(who, f"tensor {name} of the base must be there", "none", _KEEP))
        if isinstance(self.checkpoint, AdaptedCheckpoint):
            found += [self.checkpoint.unmatched_problem(self.task, n) for n in self.checkpoint.unmatched]
        extra = [n for n in self.extra if n in self.checkpoint.tensors and n not in solved]
        for name in (n for n in extra if self.checkpoint.info(n).is_float):
            must = f"tensor {name} must be in the base too"
            advice = "Policy keep_base leaves it out; policy refuse merges nothing."
            found.append(sentence(who, must, "none there", advice))
        for name in self.changed_non_float:
            must = f"tensor {name} must be a 16-, 32- or 64-bit float, or equal to the base's"
            found.append(sentence(who, must, f"{_dtype(self.checkpoint.info(name))}, other values", _KEEP))
        return found

    @property
    def is_other_architecture(self) -> bool:
        """True when less than 10 % of the base's parameters are shared, or an adapter fits the base nowhere."""
        nowhere = isinstance(self.checkpoint, AdaptedCheckpoint) and self.checkpoint.fits_nowhere
        return nowhere or self.shared_fraction < MIN_SHARED

    def _other_architecture(self) -> str:
        if isinstance(self.checkpoint, AdaptedCheckpoint) and self.checkpoint.fits_nowhere:
            return self.checkpoint.other_base_problem(self.task)
        mine, theirs = self.base.architecture, self.checkpoint.architecture
        got = f"{theirs} with {self.shared_fraction:.0%} of the base's parameters in common"
        must = f"must be of the base's architecture, {mine}"
        return sentence(f"task {self.task}", must, got, "Choose a fine-tune of this base.")


def _shape(info: TensorInfo | None) -> str:
    return str(list(info.shape)) if info else ""


def _dtype(info: TensorInfo | None) -> str:
    return str(info.dtype).removeprefix("torch.") if info else ""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Reports of every task, and the tensors that can be merged across all of them."""

    base: Checkpoint
    tasks: Mapping[str, Checkpoint]
    reports: Mapping[str, AlignmentReport]
    mergeable: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The mergeable tensors: float, same shape everywhere, in ascending name order; frozen ones included."""
        return self.mergeable

    def problems(self, policy: str = "refuse") -> list[str]:
        """One sentence per task and tensor that cannot be merged; empty when everything can."""
        return [problem for report in self.reports.values() for problem in report.problems(policy)]

    def merged_under(self, policy: str) -> tuple[str, ...]:
        """The tensors that a policy merges, in ascending name order; "common_rows" adds those with rows in common."""
        if policy != "common_rows":
            return self.mergeable
        fits = [{*r.shared, *r.common_rows} for r in self.reports.values()]
        return tuple(i.name for i in self.base.infos if i.is_float and all(i.name in f for f in fits))

    def row_notes(self, names: Sequence[str]) -> list[str]:
        """One sentence per task and tensor among `names` whose rows are not those of the base: which are left out."""
        merged = set(names)
        return [
            rows_note(task, name, self.base.info(name).shape, report.checkpoint.info(name).shape)
            for task, report in self.reports.items()
            for name in report.common_rows
            if name in merged
        ]

    def notes(self, names: Sequence[str]) -> list[str]:
        """What a person should know of a merge of these tensors: names read otherwise, heads, rows left out."""
        merged = set(names)
        read = [f"task {t}: {c.note}." for t, c in self.tasks.items() if isinstance(c, Renamed)]
        own = {t: [n for n in r.own_layers if n not in merged] for t, r in self.reports.items()}
        heads = [own_note(t, mine) for t, mine in own.items() if mine]
        shared = [n for n in names if is_task_head(n)]
        if shared:
            labels = {t: found for t, c in self.tasks.items() if (found := labels_of(c)) is not None}
            heads.append(shared_note(shared, labels))
        return [*read, *heads, *self.row_notes(names)]

    def rows(self, *, read_weights: bool = True) -> list[dict[str, Any]]:
        """The tidy rows of every task."""
        return [row for report in self.reports.values() for row in report.rows(read_weights=read_weights)]

    def frozen(self, task: str) -> tuple[str, ...]:
        """Tensors that this fine-tune left as they are in the base; reads weights the first time."""
        return self.reports[task].frozen

    def require(self, policy: str = "refuse") -> tuple[str, ...]:
        """The names to merge, or AlignmentError with every problem at once.

        "refuse": any problem is an error. "keep_base": tensors that cannot be merged everywhere keep the base's
        values. "common_rows": the same, but embeddings and heads with another number of rows merge the rows in common
        (see `row_notes`). Another architecture is an error all the same, and so is having nothing to merge.
        """
        if policy not in POLICIES:
            must = "policy must be one of " + ", ".join(POLICIES)
            raise AlignmentError(sentence("alignment", must, repr(policy), near(policy, POLICIES)))
        if policy == "refuse":
            problems = self.problems()
        else:
            problems = [p for r in self.reports.values() if r.is_other_architecture for p in r.problems()]
        names = self.merged_under(policy)
        if not problems and not names:
            must = "base and tasks must have a float tensor of one shape in common"
            problems = [sentence("alignment", must, "none", "Choose fine-tunes of this base.")]
        if problems:
            more = len(problems) - _SHOWN_PROBLEMS
            shown = problems[:_SHOWN_PROBLEMS] + ([f"and {more} more; the model table lists all"] if more > 0 else [])
            raise AlignmentError(all_problems("alignment", shown))
        return names

    def lineage_warning(self, task: str) -> str | None:
        """A sentence when a fine-tune looks like the child of another base, else None; reads a few matrices.

        Measured over the largest four mergeable matrices: relative drift ||θ_t − θ_0|| / ||θ_0|| above 0.7, or
        cosine(θ_t, θ_0) below 0.5. Fine-tunes usually stay below 0.1.
        """
        names = largest_matrices(self.base, self.mergeable)
        drift, cosine = drift_and_cosine(self.base, self.tasks[task], names)
        if not (drift > MAX_DRIFT or cosine < MIN_COSINE):
            return None
        got = f"a drift of {drift:.2f} and a cosine of {cosine:.2f} in its largest matrices"
        must = (
            f"a fine-tune of {self.base.name} stays near it (drift at most {MAX_DRIFT}, cosine at least {MIN_COSINE})"
        )
        return sentence(f"task {task}", must, got, "Check that it began from this base; merging will hardly work.")


def align(base: Checkpoint, tasks: Mapping[str, Checkpoint]) -> Alignment:
    """Compare the base with every task, tensor by tensor; reads headers only.

    Adapters are put on the base; names that differ from the base's by a prefix are read without it, or with it.
    """
    tasks = {task: put_on(base, under_names_of(base, checkpoint)) for task, checkpoint in tasks.items()}
    reports = {task: _report(task, base, checkpoint) for task, checkpoint in tasks.items()}
    own = {i.name for i in base.infos if i.is_float}
    mergeable = own.intersection(*(r.shared for r in reports.values()))
    return Alignment(base, tasks, reports, tuple(sorted(mergeable)))


def _report(task: str, base: Checkpoint, checkpoint: Checkpoint) -> AlignmentReport:
    both = [(info, checkpoint.tensors[info.name]) for info in base.infos if info.name in checkpoint.tensors]
    adapter = checkpoint if isinstance(checkpoint, AdaptedCheckpoint) else None
    unmatched, updates = (adapter.unmatched, adapter.updates) if adapter else ((), {})
    numeric = [(a, b) for a, b in both if a.is_float and b.is_float]
    return AlignmentReport(
        task,
        base,
        checkpoint,
        shared=tuple(a.name for a, b in numeric if a.shape == b.shape),
        missing=tuple(i.name for i in base.infos if i.name not in checkpoint.tensors),
        extra=tuple(sorted({*(i.name for i in checkpoint.infos if i.name not in base.tensors), *unmatched})),
        different_shape=tuple(a.name for a, b in both if a.shape != b.shape),
        different_dtype=tuple(a.name for a, b in both if a.dtype != b.dtype and a.name not in updates),
        non_float=tuple(a.name for a, b in both if not (a.is_float and b.is_float)),
    )
