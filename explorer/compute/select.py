"""Exact statistics of the magnitudes of one task vector, in memory bounded by a chunk, never by the model.

The bit pattern of a non-negative float orders like its value. So the k-th largest magnitude is found digit by
digit: one pass counts the leading 16 bits of every magnitude (65,536 counters), the next counts the following bits
inside the one bucket that holds the k-th value. float32 magnitudes (31 bits) take two passes, float64 (63 bits)
four; the result is the exact value, ties and zeros included. The first pass depends on no density, so its counters
can be kept and a second density costs one pass less. On the processor `brackets` find most values in a single pass.

Half-precision checkpoints are subtracted in float32 and count as float32. Where a model mixes float32 and float64,
all magnitudes are widened to float64, which changes no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.compute import brackets
from explorer.compute.source import CHUNK_ELEMENTS, Chunk, Source, arithmetic_dtype, numel
from explorer.executor import CancelToken, Executor, SerialExecutor

COUNT_RULES = ("inclusive", "exact")
_COUNTERS = 1 << 16
_SHIFTS = {torch.float32: (15, 0), torch.float64: (47, 31, 15, 0)}
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass(frozen=True, eq=False)
class Histogram:
    """Magnitudes of one task vector by their leading 16 bits: `count` and `energy` (sums of squares), both [65536]."""

    count: Tensor
    energy: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return self.count.nbytes + (self.energy.nbytes if self.energy is not None else 0)


@dataclass(frozen=True)
class Scan:
    """Streams |τ_t| or τ_t of one task over some tensors: everything a pass needs to know."""

    source: Source
    task: int
    names: tuple[str, ...]
    executor: Executor = SerialExecutor()  # noqa: RUF009 - holds no state
    cancel: CancelToken | None = None

    @property
    def elements(self) -> int:
        """Number of values."""
        return sum(numel(self.source, name) for name in self.names)

    @property
    def dtype(self) -> torch.dtype:
        """The widest arithmetic precision among the tensors."""
        wide = any(arithmetic_dtype(self.source, name) == torch.float64 for name in self.names)
        return torch.float64 if wide else torch.float32

    @property
    def zero(self) -> Tensor:
        """0 as a 0-d tensor in the scan's dtype."""
        return torch.zeros((), dtype=self.dtype, device=self.source.device)

    def chunks(self) -> list[Chunk]:
        """The slices of one pass; always the same ones, so float64 sums do not depend on who asks."""
        sizes = [(name, numel(self.source, name)) for name in self.names]
        return [Chunk(n, a, min(a + CHUNK_ELEMENTS, s)) for n, s in sizes for a in range(0, s, CHUNK_ELEMENTS)]

    def delta(self, chunk: Chunk) -> Tensor:
        """τ_t of one slice, [n], the same bits as `deltas`, in `dtype`."""
        narrow = arithmetic_dtype(self.source, chunk.name)
        base = self.source.base(chunk.name, chunk.start, chunk.stop).to(narrow)
        task = self.source.task(self.task, chunk.name, chunk.start, chunk.stop).to(narrow)
        return (task if self.source.holds_delta(self.task, chunk.name) else task - base).to(self.dtype)

    def total(self, function: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
        """Sums of `function(τ_t)` over all slices, added in a fixed order."""
        totals: list[Tensor] = []
        pieces = self.chunks()
        work = self.executor.map(
            lambda c: function(self.delta(c)), pieces, total=len(pieces), label="select", cancel=self.cancel
        )
        for partial in work:
            totals = [t.add_(p) for t, p in zip(totals, partial, strict=True)] if totals else list(partial)
        return totals or list(function(torch.zeros(0, dtype=self.dtype, device=self.source.device)))


def scan(
    source: Source,
    task: int,
    names: Iterable[str] | None = None,
    *,
    executor: Executor | None = None,
    cancel: CancelToken | None = None,
) -> Scan:
    """A pass over the task vector number `task`: of the whole model, or of the named tensors."""
    chosen = tuple(source.names if names is None else names)
    return Scan(source, task, chosen, executor or SerialExecutor(), cancel)


def kept_count(density: float, elements: int, count_rule: str = "inclusive") -> int:
    """How many entries a density keeps before ties: `inclusive` int(d·n) + 1 (at most n), `exact` max(1, int(d·n)).

    Resolving Interference When Merging Models: the published code keeps one entry more than the fraction says.
    """
    whole = int(density * elements)
    return min(whole + 1, elements) if count_rule == "inclusive" else min(max(1, whole), elements)


def magnitude_histogram(values: Scan, *, energy: bool = False) -> Histogram:
    """The first pass: counters (and sums of squares) of |τ_t| by leading bits. Depends on no density."""
    shift = _SHIFTS[values.dtype][0]

    def partial(delta: Tensor) -> list[Tensor]:
        bits = _magnitude_bits(delta) >> shift
        counts = [torch.bincount(bits, minlength=_COUNTERS)]
        return [*counts, _sums(bits, delta, _COUNTERS)] if energy else counts

    return Histogram(*values.total(partial))


def kth_largest(values: Scan, k: int, histogram: Histogram | None = None) -> Tensor:
    """The k-th largest magnitude of a task vector (k from 1), exactly; a 0-d tensor in the scan's dtype.

    No values give 0. With `histogram` from an earlier call the first pass is saved.
    """
    if values.elements == 0:
        return values.zero
    return at_ranks(values, [k], histogram)[0]


def at_ranks(values: Scan, ranks: Sequence[int], histogram: Histogram | None = None) -> list[Tensor]:
    """`kth_largest` for several k: in one pass over the values where `brackets` serve."""
    found = brackets.kth_largest(values, ranks) if histogram is None else None
    return found if found is not None else [_by_digits(values, k, histogram) for k in ranks]


def _by_digits(values: Scan, k: int, histogram: Histogram | None) -> Tensor:
    if histogram is None and len(values.chunks()) == 1:
        magnitudes = values.delta(values.chunks()[0]).abs()
        return magnitudes.kthvalue(values.elements - k + 1).values
    counts = (histogram or magnitude_histogram(values)).count
    prefix, left = _bucket(counts, k)
    for shift, before in _finer(values.dtype):
        counts = _count_inside(values, prefix, shift, before)[0]
        digit, left = _bucket(counts, left)
        prefix = prefix << (before - shift) | digit
    return _from_bits(prefix, values)


def magnitude_threshold(
    values: Scan, density: float, *, count_rule: str = "inclusive", histogram: Histogram | None = None
) -> Tensor:
    """The magnitude from which on entries are kept, so that a fraction `density` in (0, 1] stays; 0-d tensor.

    Keep |τ| ≥ threshold: every entry tied with the last one kept is kept too. Density 1 gives 0, which keeps all;
    so does a task vector with fewer non-zero entries than asked for.
    """
    if density >= 1:
        return values.zero
    return kth_largest(values, kept_count(density, values.elements, count_rule), histogram)


def norm_threshold(values: Scan, fraction: float, histogram: Histogram | None = None) -> Tensor:
    """The largest magnitude m such that the entries |τ| ≥ m hold more than `fraction` of Σ τ²; 0-d tensor.

    Sums are float64. Entries tied with the last one kept are kept too. Fraction 1 and an all-zero task vector give 0.
    """
    first = histogram if histogram is not None and histogram.energy is not None else None
    first = first or magnitude_histogram(values, energy=True)
    assert first.energy is not None
    goal = fraction * float(first.energy.sum())
    if fraction >= 1 or goal == 0:
        return values.zero
    prefix, before_it = _crossing(first.energy, goal, 0.0)
    for shift, before in _finer(values.dtype):
        energy = _count_inside(values, prefix, shift, before, energy=True)[1]
        digit, before_it = _crossing(energy, goal, before_it)
        prefix = prefix << (before - shift) | digit
    return _from_bits(prefix, values)


def mean_and_std(values: Scan) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of τ_t, 0-d float64; the deviation of fewer than two values is 0."""
    total, squares = values.total(lambda d: [d.double().sum(), d.double().square().sum()])
    n = values.elements
    mean = total / max(n, 1)
    variance = (squares - mean * total) / max(n - 1, 1)
    return mean, variance.clamp(min=0).sqrt()


def _magnitude_bits(delta: Tensor) -> Tensor:
    return delta.abs().view(_BITS[delta.dtype])


def _finer(dtype: torch.dtype) -> list[tuple[int, int]]:
    """(shift, shift of the digits known before it) of every pass after the first."""
    shifts = _SHIFTS[dtype]
    return list(zip(shifts[1:], shifts[:-1], strict=True))


def _count_inside(values: Scan, prefix: int, shift: int, before: int, *, energy: bool = False) -> list[Tensor]:
    """Counters (and sums of squares) by the next digit, of the magnitudes whose digits so far are `prefix`."""
    width = 1 << (before - shift)

    def partial(delta: Tensor) -> list[Tensor]:
        bits = _magnitude_bits(delta)
        inside = (bits >> before) == prefix
        digits = (bits[inside] >> shift) & (width - 1)
        counts = [torch.bincount(digits, minlength=width)]
        return [*counts, _sums(digits, delta[inside], width)] if energy else counts

    return values.total(partial)


def _sums(digits: Tensor, delta: Tensor, width: int) -> Tensor:
    """Sums of squares by digit, float64 (torch counts in whole numbers when there is nothing to count)."""
    return torch.bincount(digits, delta.double().square(), width).double()


def _bucket(counts: Tensor, k: int) -> tuple[int, int]:
    """The bucket that holds the k-th largest value, and which one it is inside that bucket."""
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, k))
    above = int(from_top[place - 1]) if place else 0
    return counts.numel() - 1 - place, k - above


def _crossing(energy: Tensor, goal: float, already: float) -> tuple[int, float]:
    """The highest bucket at which the sum from the top passes `goal`, and the sum above that bucket."""
    from_top = energy.flip(0).cumsum(0) + already
    place = int(torch.searchsorted(from_top, goal, right=True))
    if place == energy.numel():  # rounding kept the last sum just below the goal
        place = int(energy.flip(0).nonzero().max())
    above = float(from_top[place - 1]) if place else already
    return energy.numel() - 1 - place, above


def _from_bits(bits: int, values: Scan) -> Tensor:
    return torch.tensor(bits, dtype=_BITS[values.dtype], device=values.source.device).view(values.dtype)
