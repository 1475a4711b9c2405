"""An adapter put on its base: it reads like a whole checkpoint, and gives its task vector ΔW exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from explorer.checkpoints.adapter import Adapter, Factors
from explorer.checkpoints.handle import Checkpoint, TensorInfo
from explorer.compute.low_rank import product_slice
from explorer.errors import sentence

Shift = tuple[str, str]
"""What turns an adapter's names into the base's: the prefix taken away, and the prefix put before."""


@dataclass(frozen=True)
class Update:
    """ΔW of one tensor of the base, as left [rows, r] times right [r, columns] times s.

    `transposed`: the base stores the weight as [in, out] (the Conv1D of GPT-2, and embeddings), so left is Aᵀ.
    """

    factors: Factors
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ΔW."""
        inner, out = self.factors.a.shape[1:], self.factors.b.shape[0]
        return (inner[0], out) if self.transposed else (out, *inner)


@dataclass(frozen=True, eq=False)
class AdaptedCheckpoint(Checkpoint):
    """A base with a LoRA on it: tensors that the adapter leaves alone are the base's own.

    `updates`: tensor name -> Update. `replaced`: name -> the adapter's own name, of tensors that it saved whole.
    `own_bases`: tensors with factors whose base the adapter saved beside them, as PEFT does for embeddings.
    `unmatched`: names of tensors that the adapter changes and the base lacks. `ambiguous`: prefixes between which the
    names do not decide; then nothing is matched.
    """

    base: Checkpoint
    adapter: Adapter
    updates: dict[str, Update]
    replaced: dict[str, str]
    own_bases: dict[str, TensorInfo]
    unmatched: tuple[str, ...]
    shift: Shift
    ambiguous: tuple[str, ...]

    @property
    def on_disk(self) -> Checkpoint:
        """The adapter alone."""
        return self.adapter

    @property
    def fits_nowhere(self) -> bool:
        """True when the base has none of the tensors that the adapter changes."""
        return not self.updates

    def unmatched_problem(self, task: str, name: str) -> str:
        """Why one of the `unmatched` cannot be merged."""
        must = f"tensor {name}, which the adapter changes, must be in the base"
        advice = f"Put the adapter on {self.adapter.settings.trained_on}. Policy keep_base leaves this tensor out."
        return sentence(f"task {task}", must, "none there", advice)

    def other_base_problem(self, task: str) -> str:
        """Why the adapter fits this base nowhere."""
        must = f"the adapter must belong to the base, {self.base.architecture}"
        if self.ambiguous:
            got = f"names that fit it with the prefixes {' and '.join(map(repr, self.ambiguous))} alike"
            return sentence(f"task {task}", must, got, "Save the base from the model class the adapter was trained on.")
        got = f"none of its {len(self.adapter.factors)} modules in it, such as {self.adapter.factors[0].module}"
        return sentence(f"task {task}", must, got, f"Put it on {self.adapter.settings.trained_on}.")

    def module_of(self, name: str) -> str:
        """What the adapter calls the module of a base's weight, changed by it or not."""
        return shifted(name.removesuffix(".weight"), self.shift[::-1])

    def holds_delta(self, name: str) -> bool:
        """True for a tensor that the factors change: `read_delta` gives its exact task vector."""
        return name in self.updates

    def changes(self, name: str) -> bool:
        """True for a tensor that the adapter changes or replaces; all others are the base's own."""
        return name in self.updates or name in self.replaced

    def read_delta(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of ΔW, flattened, float32 (float64 where the base is); reads only what they need."""
        update = self.updates[name]
        rank, shape = update.factors.rank, update.shape
        a, b, transposed = update.factors.a, update.factors.b, update.transposed

        def left(first: int, last: int) -> Tensor:
            if not transposed:
                return self.adapter.read_flat(b.name, first * rank, last * rank).view(-1, rank)
            rows = [self.adapter.read_flat(a.name, k * shape[0] + first, k * shape[0] + last) for k in range(rank)]
            return torch.stack(rows, 1)

        right = self.adapter.read(b.name).reshape(-1, rank).T if transposed else self.adapter.read(a.name).flatten(1)
        exact = product_slice(left, right, update.factors.scale, shape[0], start, stop)
        if name in self.own_bases:  # nearly always a copy of the base's tensor, which adds exactly 0
            own = super()._read(self.own_bases[name], start, stop).double()
            exact += own - super()._read(self.base.info(name), start, stop).double()
        return exact.to(self.info(name).dtype)

    def left_and_right(self, name: str) -> tuple[float, Tensor, Tensor]:
        """s, left [rows, r] and right [r, columns] of one ΔW."""
        factors = self.updates[name].factors
        a, b = self.adapter.read(factors.a.name).flatten(1), self.adapter.read(factors.b.name).flatten(1)
        return (factors.scale, a.T, b.T) if self.updates[name].transposed else (factors.scale, b, a)

    def _read(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        if not self.holds_delta(info.name):
            return super()._read(info, start, stop)
        base = super()._read(self.base.info(info.name), start, stop).to(info.dtype)
        delta = self.read_delta(info.name, start, stop)
        return torch.where(delta == 0, base, base + delta)  # −0.0 stays where nothing changes


def put_on(base: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or an adapter put on the base: its names become the base's."""
    if not isinstance(checkpoint, Adapter):
        return checkpoint
    adapter = checkpoint
    wanted = [f"{f.module}.weight" for f in adapter.factors]
    shift, ambiguous = shift_of(base, wanted)
    updates: dict[str, Update] = {}
    infos = dict(base.tensors)
    unmatched = []
    for target, factors in zip(wanted, adapter.factors, strict=True):
        name = shifted(target, shift)
        if name not in base.tensors or ambiguous:
            unmatched.append(target)
            continue
        update = Update(factors, _transposed(factors, base.info(name).shape, adapter.settings.fan_in_fan_out))
        updates[name] = update
        dtype = torch.float64 if base.info(name).dtype == torch.float64 else torch.float32
        infos[name] = TensorInfo(name, update.shape, dtype, factors.b.file, factors.b.offset_bytes)
    replaced: dict[str, str] = {}
    own_bases: dict[str, TensorInfo] = {}
    for target, stored in adapter.whole:
        name = next((n for n in (shifted(target, shift), target) if n in base.tensors), target)
        own = adapter.info(stored)
        if name in updates:
            own_bases[name] = own
            continue
        replaced[name] = target
        infos[name] = TensorInfo(name, own.shape, own.dtype, own.file, own.offset_bytes)
    stamps = tuple(dict.fromkeys((*adapter.stamps, *base.stamps)))
    ordered = tuple(infos[n] for n in sorted(infos))
    where = (adapter.path, adapter.name, adapter.format, ordered, stamps, base.config)
    return AdaptedCheckpoint(*where, base, adapter, updates, replaced, own_bases, tuple(unmatched), shift, ambiguous)


def shifted(name: str, shift: Shift) -> str:
    """A name with one prefix taken away, where it has it, and another put before."""
    return shift[1] + name.removeprefix(shift[0])


def shift_of(base: Checkpoint, wanted: Sequence[str]) -> tuple[Shift, tuple[str, ...]]:
    """The change of prefix under which the base has most of the names, and the rivals when several do alike.

    Tried: no change; taking away the first one or two parts; putting before whatever the base has before such a name.
    Names that fit as they are win a draw.
    """
    counts: Counter[Shift] = Counter()
    counts["", ""] = sum(n in base.tensors for n in wanted)
    heads = {".".join(n.split(".")[:k]) + "." for n in wanted for k in (1, 2)}
    tails = {b[: -len(n)] for n in wanted[:3] for b in base.tensors if b.endswith("." + n)}
    for shift in sorted([(h, "") for h in heads] + [("", t) for t in tails]):
        counts[shift] = sum(n.startswith(shift[0]) and shifted(n, shift) in base.tensors for n in wanted)
    best = max(counts.values())
    winners = [s for s, count in counts.items() if count == best]
    if best == 0 or ("", "") in winners:
        return ("", ""), ()
    if len(winners) > 1:
        return ("", ""), tuple(taken or put for taken, put in winners)
    return winners[0], ()


def _transposed(factors: Factors, shape: tuple[int, ...], fan_in_fan_out: bool) -> bool:
    """Whether the base holds the weight as [in, out]: its shape says so, or the settings where it is square."""
    if factors.embedding:
        return True
    plain = (factors.b.shape[0], *factors.a.shape[1:])
    if len(plain) != 2 or (shape != plain[::-1]):
        return False
    return fan_in_fan_out if shape == plain else True


def delta_is_zero(checkpoint: AdaptedCheckpoint, name: str, block_elements: int = 1 << 20) -> bool:
    """True when ΔW of a tensor is zero everywhere; stops at the first block that is not."""
    total = prod(checkpoint.info(name).shape)
    blocks = ((a, min(a + block_elements, total)) for a in range(0, total, block_elements))
    return not any(bool(checkpoint.read_delta(name, a, b).any()) for a, b in blocks)
