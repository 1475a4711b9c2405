"""Compiles every loop once, so that it is kept for later starts: `python -m explorer.merging._warm_up`."""

from __future__ import annotations

import os

import torch

from explorer.compute import brackets, readiness, select
from explorer.compute.arena import Row
from explorer.compute.source import Chunk, StateDictSource
from explorer.merging import _fused, merge_into, prepare, survival
from explorer.merging._contributions import contribution_sums, reference_sums
from explorer.merging._fused import Steps


def warm_up() -> None:
    """Small merges and one small selection; the types are those of every other."""
    readiness.wait()
    count = brackets.LEAST
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(count, generator=generator).bfloat16()}
    tuned = {t: {"w": (base["w"] + torch.randn(count, generator=generator)).bfloat16()} for t in ("a", "b")}
    source = StateDictSource(base, tuned)
    out, row = torch.empty(count, dtype=torch.bfloat16), Row({"w": (count,)}, {"w": torch.bfloat16})
    _fused.write(Steps("sum", torch.ones(2)), source, Chunk("w", 0, count), [out])
    for method in ("task_arithmetic", "pcb"):
        merge_into(prepare(method, source), source, row)
    reference_sums(source)
    contribution_sums(source, [row.views()])
    survival(prepare("task_arithmetic", source), source)
    ranked = Steps("sum", torch.ones(2), keep=(0.5, 0.5), spread=(0.1, 0.1), over_chance=True)
    _fused.write(ranked, source, Chunk("w", 0, count), [out], (1, 2))
    brackets.kth_largest(select.scan(source, 0), [count // 5])


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(15)
    warm_up()
