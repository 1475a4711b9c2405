"""What an evaluation costs: against plain forward passes over the same batches, and a second time.

    python benchmarks/evaluate.py [--tasks NAME ...] [--repeat R]

The bundled base on held-out texts of the bundled tasks, tokenized before the clock starts. The unit is nothing but the
module called with each batch, on as many threads: one thread per batch as the evaluation does, and all threads on one
batch after the other; the faster of the two counts. Runs of ours and of the unit take turns. Prints every figure, and
ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch
from machine import machine
from torch import nn

from explorer.evaluation import Batch, Evaluator, find_tasks, load_module, load_task
from explorer.evaluation._pool import map_batches
from explorer.samples import FOLDER
from explorer.store import Store

THROUGHPUT_TARGET, AGAIN_TARGET_SECONDS = 0.8, 0.05


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def plain(module: nn.Module, batches: list[Batch], *, together: bool) -> None:
    """The module called with every batch, and nothing else."""

    def forward(batch: Batch) -> None:
        with torch.inference_mode():
            module(**batch.inputs)

    if together:
        map_batches(forward, batches)
    else:
        for batch in batches:
            forward(batch)


def measure(tasks: list[str], repeat: int) -> dict[str, Any]:
    """Every figure."""
    known = find_tasks(FOLDER / "tasks")
    evaluator = Evaluator([load_task(known[name]) for name in tasks], FOLDER / "base")
    module, store = load_module(FOLDER / "base"), Store()
    batches = [b for name in tasks for block in evaluator.plan(name).blocks for b in block]
    ours = lambda: list(evaluator.run(module, key=""))  # noqa: E731
    kept = lambda: list(evaluator.run(module, key="base", store=store))  # noqa: E731
    ours()
    taken: dict[str, list[float]] = {"evaluation": [], "plain, a batch a thread": [], "plain, one batch at a time": []}
    for _ in range(repeat):
        taken["evaluation"].append(seconds(ours))
        taken["plain, a batch a thread"].append(seconds(lambda: plain(module, batches, together=True)))
        taken["plain, one batch at a time"].append(seconds(lambda: plain(module, batches, together=False)))
    found: dict[str, Any] = {f"{name} seconds": round(statistics.median(t), 4) for name, t in taken.items()}
    fastest = min(v for name, v in found.items() if name.startswith("plain"))
    kept()
    again = statistics.median(seconds(kept) for _ in range(max(repeat, 20)))
    examples = sum(evaluator.tasks[name].n for name in tasks)
    found |= {"examples": examples, "batches": len(batches)}
    found |= {"examples_per_second": round(examples / found["evaluation seconds"], 1)}
    found |= {"throughput_of_plain": round(fastest / found["evaluation seconds"], 3)}
    return found | {"second_evaluation_seconds": round(again, 4)}


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["movies", "newsgroups"], metavar="NAME", help="sample tasks")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of which the median counts (default 5)")
    given = vars(parser.parse_args())
    found = {"machine": machine(), **given, **measure(**given)}
    for name, value in found.items():
        print(f"{name:34} {value}", flush=True)
    fast, soon = found["throughput_of_plain"] >= THROUGHPUT_TARGET, found["second_evaluation_seconds"]
    print(f"at least {THROUGHPUT_TARGET} of plain forward passes: {'met' if fast else 'MISSED'}; a second evaluation "
          f"under {AGAIN_TARGET_SECONDS} s: {'met' if soon < AGAIN_TARGET_SECONDS else 'MISSED'}")  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
