"""How soon a matrix opens as tiles, zooms and lists its most disputed weights, against reading its bytes once.

    python benchmarks/tiles.py [--rows N] [--cols N] [--tasks T] [--repeat R]

Random bfloat16 weights, base and tasks in memory. Prints every figure, and ends with one line of JSON.
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

import numpy as np
import torch
from machine import machine

from explorer.compute.matrix_view import MatrixView
from explorer.compute.source import StateDictSource
from explorer.single_weights import strongest
from explorer.tiles import Pyramid

TARGET_SECONDS = 2.0
BLOCKS = 128


def models(rows: int, cols: int, tasks: int) -> StateDictSource:
    """A random base and fine-tunes of it; each task changes about every weight by a thousandth."""
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(rows, cols, generator=generator)
    tuned = {}
    for number in range(tasks):
        change = 1e-3 * torch.randn(rows, cols, generator=generator)
        tuned[f"task {number}"] = {"w": (base + change).bfloat16()}
    return StateDictSource({"w": base.bfloat16()}, tuned)


def median_seconds(function: Callable[[], Any], times: int) -> float:
    """Median wall time of several calls."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begun)
    return round(statistics.median(taken), 4)


def read_once(source: StateDictSource, size: int) -> None:
    """Read every byte of base and tasks once and sum it as int64, on all of torch's threads."""
    for values in [source.base("w", 0, size), *(source.task(t, "w", 0, size) for t in range(len(source.tasks)))]:
        values[: size // 4 * 4].view(torch.int64).sum()


def measure(rows: int, cols: int, tasks: int, repeat: int) -> dict[str, Any]:
    """Every figure."""
    source, size = models(rows, cols, tasks), rows * cols
    view = MatrixView(source, "w", tuple(range(tasks)))
    trimmed = MatrixView(source, "w", view.tasks, (1e-3,) * tasks)
    opened = lambda v: Pyramid(v).window((0, rows), (0, cols), BLOCKS)  # noqa: E731
    found: dict[str, Any] = {"floor_seconds": median_seconds(lambda: read_once(source, size), repeat)}
    before = time.process_time()
    found["open_seconds"] = median_seconds(lambda: opened(view), repeat)
    found["open_cpu_seconds"] = round((time.process_time() - before) / repeat, 4)
    found["open_trimmed_seconds"] = median_seconds(lambda: opened(trimmed), repeat)
    found["open_over_floor"] = round(found["open_seconds"] / found["floor_seconds"], 1)
    pyramid = Pyramid(view)
    orders = (np.argsort(-c, kind="stable") for c in (pyramid.row_conflict, pyramid.col_conflict))
    sorted_view = MatrixView(source, "w", view.tasks, None, *orders)
    found["open_sorted_seconds"] = median_seconds(lambda: opened(sorted_view), 1)
    for share in (2, 8, 32, 128):
        high, wide = max(1, rows // share), max(1, cols // share)
        look = lambda h=high, w=wide: pyramid.window((rows // 3, rows // 3 + h), (cols // 3, cols // 3 + w), BLOCKS)  # noqa: E731
        found[f"zoom_{share}_seconds"] = median_seconds(look, repeat)
    found["strongest_seconds"] = median_seconds(lambda: strongest(view), repeat)
    found["pyramid_bytes"] = pyramid.size_bytes
    return found


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 4096), ("cols", 14336), ("tasks", 4), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    given = vars(parser.parse_args())
    found = {"machine": machine(), **given, **measure(**given)}
    for name, value in found.items():
        met = (
            f"   target {TARGET_SECONDS}: {'met' if value <= TARGET_SECONDS else 'MISSED'}"
            if name == "open_seconds"
            else ""
        )
        print(f"{name:24} {value}{met}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
