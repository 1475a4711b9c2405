"""What a recipe comes to: every output tensor with its inputs and the values of its parameters, before a byte is read.

Only names, shapes and configurations are looked at here, so a merge that cannot work is refused at once, with every
reason and its line in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.checkpoints import Checkpoint
from explorer.mergekit.checks import check_contract, check_lineage, check_slices, check_values, unused_filters
from explorer.mergekit.config import planned_config
from explorer.mergekit.inputs import Missing, Out, out_tensor
from explorer.mergekit.layers import Layout, Stack, layout_of, module_of, stacks_of_module
from explorer.mergekit.methods import IGNORED, METHODS, Method
from explorer.mergekit.schema import Document, ModelRef, Module, Slice, Source
from explorer.mergekit.settings import Settings, resolved
from explorer.mergekit.tokens import donor_of
from explorer.mergekit.trouble import Trouble


@dataclass(frozen=True)
class Plan:
    """A merge ready to run: `tensors` in the order of writing, `models` with their open checkpoints.

    `donor` is the model whose configuration the output gets, `tokenizer` the one whose tokenizer; `layers` per stack.
    """

    document: Document
    method: Method
    models: Mapping[ModelRef, Checkpoint]
    donor: ModelRef
    tokenizer: ModelRef
    tensors: tuple[Out, ...]
    config: Mapping[str, Any]
    layers: Mapping[str, int]
    warnings: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(out.nbytes for out in self.tensors)

    @property
    def read_bytes(self) -> int:
        """Bytes of all inputs, each counted once per output tensor that needs it."""
        return sum(self.models[m].info(n).nbytes for out in self.tensors for m, n in out.inputs)


def plan(document: Document, models: Mapping[ModelRef, Checkpoint], *, allow_crimes: bool = False) -> Plan:
    """Every output tensor of a document. `allow_crimes` lets models of different architectures through.

    Raises RecipeError naming every problem at once, each with its line.
    """
    return _Planner(document, models, allow_crimes).plan()


@dataclass(frozen=True)
class _Part:
    """One slice of one stack: its sources with the layers they give, and the settings around them."""

    module: Module
    slice: Slice
    base: ModelRef | None


class _Planner:
    def __init__(self, document: Document, models: Mapping[ModelRef, Checkpoint], allow_crimes: bool) -> None:
        self.document, self.models = document, models
        self.method = METHODS[document.merge_method]
        self.trouble = Trouble(document.source)
        self.layouts: dict[ModelRef, Layout] = {m: layout_of(c.tensors) for m, c in models.items()}
        self.donor = document.models[0]
        self.missing = Missing()
        self.outs: list[Out] = []
        check_lineage(document, models, self.trouble, allow_crimes=allow_crimes)

    def plan(self) -> Plan:
        tokenizer = donor_of(self.document, self.models, self.donor, self.trouble)
        before = len(self.trouble.problems)
        owners = self._owners()
        for module in self.document.modules.values():
            check_slices(module.slices, self.layouts, self.document, self.trouble)
        if len(self.trouble.problems) > before:  # without layers there is nothing more to look at
            self.trouble.check()
        parts = {name: self._parts(module) for name, module in self.document.modules.items()}
        layout = self.layouts[self.donor]
        self._outside(layout.first, owners, parts, last=False)
        layers: dict[str, int] = {}
        taken: dict[str, list[tuple[ModelRef, int]]] = {}
        for prefix, name in owners.items():
            taken[prefix] = list(self._stack(prefix, parts[name]))
            layers[prefix] = len(taken[prefix])
        self._outside(layout.last, owners, parts, last=True)
        self.missing.report(self.trouble)
        check_values(self.outs, self.method, self.document, self.trouble)
        self.trouble.check()
        unused_filters(self.document, self.outs, self.trouble)
        config = planned_config(self.document, self.models, self.donor, layout, taken, self.outs)
        return Plan(
            document=self.document,
            method=self.method,
            models=self.models,
            donor=self.donor,
            tokenizer=tokenizer,
            tensors=tuple(self.outs),
            config=config,
            layers=layers,
            warnings=tuple(self.trouble.warnings),
        )

    def _owners(self) -> dict[str, str]:
        """The module of every stack of the donor."""
        stacks, line = self.layouts[self.donor].stacks, self.document.line
        whole = self.document.modules.get("")
        if whole is not None:
            if whole.slices and len(stacks) != 1:
                must = "slices need a model with one run of layers"
                got = "none" if not stacks else " and ".join(s.prefix.rstrip(".") for s in stacks)
                self.trouble.say(line, "slices", must, got, "Use `modules: {encoder: {slices: …}, decoder: …}`.")
            return {s.prefix: "" for s in stacks}
        owners: dict[str, str] = {}
        for name, module in self.document.modules.items():
            found = stacks_of_module(name, stacks)
            if not found:
                got = ", ".join(s.prefix.rstrip(".") for s in stacks) or "no layers"
                must = "must name a part of the model with layers of its own"
                self.trouble.say(module.line, f"module {name!r}", must, got, "Use a part of one of these names.")
            owners |= {prefix: name for prefix in found if prefix not in owners}
        left = [s.prefix.rstrip(".") for s in stacks if s.prefix not in owners]
        if left:
            must = "must cover every run of layers"
            self.trouble.say(line, "modules", must, f"nothing for {', '.join(left)}", "Add a module for it.")
        return owners

    def _parts(self, module: Module) -> tuple[_Part, ...]:
        """The slices of a module; whole models are one slice, to which a base that is not listed is added."""
        base = self.document.base_model
        if module.slices:
            parts = tuple(_Part(module, s, s.base_model or base) for s in module.slices)
        else:
            added = (Source(base),) if base and base not in [s.model for s in module.models] else ()
            parts = (_Part(module, Slice((*module.models, *added), line=module.line), base),)
        for part in parts:
            check_contract(self.method, part.slice, part.base, self.trouble)
        return parts

    def _stack(self, prefix: str, parts: Sequence[_Part]) -> Iterator[tuple[ModelRef, int]]:
        """Plan the layers of one stack; gives for each the model and layer that lead it."""
        number = 0
        for part in parts:
            stacks = {s.model: self._like(prefix, s.model) for s in part.slice.sources}
            ranges = [s.layers or (0, _count(stacks[s.model])) for s in part.slice.sources]
            count = min(b - a for a, b in ranges)
            if len({b - a for a, b in ranges}) > 1:
                got = ", ".join(f"{b - a} of {s.model}" for (a, b), s in zip(ranges, part.slice.sources, strict=True))
                must = f"models must have equally many layers in {prefix.rstrip('.')}"
                self.trouble.say(part.slice.line, "models", must, got, "Use slices to choose layers of each.")
            for place in range(count):
                t = place / (count - 1) if count > 1 else 1.0
                at = [a + place for a, _ in ranges]
                self._layer(part, prefix, number, stacks, at, t)
                yield part.slice.sources[0].model, at[0]
                number += 1

    def _layer(
        self,
        part: _Part,
        prefix: str,
        number: int,
        stacks: Mapping[ModelRef, Stack | None],
        at: Sequence[int],
        t: float,
    ) -> None:
        held = list(zip(part.slice.sources, at, strict=True))
        own = [(s, stacks[s.model], layer) for s, layer in held]
        suffixes = [x for _, stack, i in own if stack and i < stack.count for x in stack.suffixes[i]]
        for suffix in dict.fromkeys(suffixes):
            names = [stack.name(layer, suffix) if stack else f"{prefix}{layer}{suffix}" for _, stack, layer in own]
            self._tensor(part, f"{prefix}{number}{suffix}", names, t)

    def _like(self, prefix: str, model: ModelRef) -> Stack | None:
        return self.layouts[model].stack(prefix)

    def _outside(
        self, names: Sequence[str], owners: Mapping[str, str], parts: Mapping[str, Sequence[_Part]], *, last: bool
    ) -> None:
        """Tensors outside the layers: parameters are those at t = 0, of the first slice or of the last."""
        first = next(iter(parts))
        for name in names:
            part = parts[module_of(name, owners, first)][-1 if last else 0]
            self._tensor(part, name, [name] * len(part.slice.sources), 0.0)

    def _tensor(self, part: _Part, name: str, names: Sequence[str], t: float) -> None:
        sources = part.slice.sources
        base = None if self.method.base == IGNORED else part.base
        inputs = [(s.model, n) for s, n in zip(sources, names, strict=True)]
        out = out_tensor(name, inputs, base, self.models, self.document, self.missing)
        if out is None:
            return
        around = (part.slice.parameters, part.module.parameters, self.document.parameters)
        shared = {p.name: self._value(p.name, around, name, t) for p in self.method.parameters if p.scope == "shared"}
        each = []
        for source, tensor in zip(sources, names, strict=True):
            mine = [p for p in self.method.parameters if p.scope == "per input"]
            mine += [p for p in self.method.parameters if p.scope == "per task" and source.model != base]
            own = (source.parameters, *around)
            each.append({p.name: self._value(p.name, own, tensor, t, source) for p in mine})
        self.outs.append(out.with_values(shared, each))

    def _value(
        self, name: str, settings: Sequence[Settings | None], tensor: str, t: float, source: Source | None = None
    ) -> Any:
        parameter = self.method.parameter(name)
        assert parameter is not None
        found = resolved(name, settings, tensor, t, parameter.check)
        if found is None and parameter.required:
            self.missing.parameter(name, tensor, source, self.document)
        return parameter.default if found is None else found


def _count(stack: Stack | None) -> int:
    return stack.count if stack else 0
