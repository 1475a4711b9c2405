"""What merging costs: every fused method against one multiply-add pass over the same bytes, and against mergekit.

    python benchmarks/methods.py [--parameters N] [--tasks T] [--methods A,B] [--peer]

Everything is in memory before the clock starts. Nothing else should run on the machine meanwhile. Prints a table, and
ends with one line of JSON that holds every figure and describes the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch
from machine import machine
from torch import Tensor

from explorer.compute import readiness
from explorer.compute.arena import Row
from explorer.compute.source import StateDictSource
from explorer.executor import ThreadExecutor
from explorer.merging import METHODS, merge_into, prepare
from explorer.store import Store

WIDTH = 1024
TARGETS = {"task_arithmetic": 2.0}
TARGETS |= dict.fromkeys(("ties", "breadcrumbs", "dare", "della", "consensus"), 6.0)
PEER_FASTER = 8.0
OTHERS = ("weight_average", "tall_masks")
PEER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "task_arithmetic": ("task_arithmetic", {"weight": 0.3}),
    "weight_average": ("linear", {"weight": 1.0}),
    "ties": ("ties", {"weight": 1.0, "density": 0.2}),
    "breadcrumbs": ("breadcrumbs", {"weight": 0.3, "density": 0.143, "gamma": 0.007}),
    "dare": ("dare_linear", {"weight": 0.3, "density": 0.5}),
    "della": ("della", {"weight": 1.0, "density": 0.7, "epsilon": 0.1}),
}
"""mergekit's name of each method and its spelling of our defaults."""


def models(parameters: int, tasks: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """A base and its fine-tunes: matrices of 4096 rows, an embedding of a fifth of the model, and short vectors."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (max(1, parameters // 5 // WIDTH), WIDTH)}
    left = parameters - shapes["embedding"][0] * WIDTH
    for index in range(left // (4096 * WIDTH)):
        shapes |= {f"layer.{index:03}.weight": (4096, WIDTH), f"layer.{index:03}.norm": (WIDTH,)}
    shapes["rest"] = (max(1, left % (4096 * WIDTH) // WIDTH), WIDTH)

    def model(around: Mapping[str, Tensor] | None, spread: float) -> dict[str, Tensor]:
        made = {}
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator).mul_(spread)
            made[name] = (values if around is None else values.add_(around[name])).to(dtype)
        return made

    base = model(None, 0.02)
    return base, {f"task{t}": model(base, 0.002) for t in range(tasks)}


def median_seconds(function: Callable[[], Any], repeat: int) -> float:
    """Median wall time of several calls, after one that does not count."""
    taken = []
    for _ in range(repeat + 1):
        begun = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def multiply_add_seconds(size: int, tasks: int, dtype: torch.dtype, repeat: int) -> float:
    """Seconds of one torch.add(y, x, alpha=a, out=y) that moves as many bytes as a merge: (T + 2) · size elements."""
    count = (tasks + 2) * size // 3
    x, y = torch.ones(count, dtype=dtype), torch.ones(count, dtype=dtype)
    return median_seconds(lambda: torch.add(y, x, alpha=0.5, out=y), repeat)


def ours(name: str, source: StateDictSource, threads: int, repeat: int) -> dict[str, float]:
    """Seconds from scratch, thresholds included, and with the thresholds of an earlier setting at hand."""
    method, executor = METHODS.get(name), ThreadExecutor(threads)
    shapes = {n: source.shape(n) for n in source.names}
    dtypes = {n: source.dtype(n) for n in source.names}
    rows = [Row(shapes, dtypes) for _ in range(len(source.tasks) if method.output == "per_task" else 1)]

    def merge(cache: Store | None) -> None:
        merge_into(prepare(method, source, executor=executor, cache=cache), source, rows, executor=executor)

    kept = Store()
    return {
        "seconds": median_seconds(lambda: merge(None), repeat),
        "prepared_seconds": median_seconds(lambda: merge(kept), repeat),
    }


def peer_seconds(name: str, base: Any, tasks: Any, repeat: int) -> float | None:
    """mergekit's kernel of the same name on the same tensors; None when it has none."""
    from mergekit.merge_methods.api import merge_state_dicts

    if name not in PEER_NAMES:
        return None
    method, parameters = PEER_NAMES[name]
    based = method != "linear"
    given = {"base": base, **tasks} if based else tasks

    def merge() -> None:
        with torch.no_grad():
            merge_state_dicts(given, method, parameters=parameters, base="base" if based else None)

    return median_seconds(merge, repeat)


def peer_is_there() -> bool:
    """Whether mergekit can be imported; says so when it cannot."""
    try:
        import mergekit.merge_methods.api  # noqa: F401
    except ImportError as error:
        print(f"mergekit is not compared: it cannot be imported here ({error}).")
        return False
    return True


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure, by method; a line is printed as soon as it is known."""
    readiness.wait()
    dtype = getattr(torch, arguments.dtype)
    base, tasks = models(arguments.parameters, arguments.tasks, dtype)
    source = StateDictSource(base, tasks)
    size = sum(t.numel() for t in base.values())
    peer = arguments.peer and peer_is_there()
    unit = multiply_add_seconds(size, arguments.tasks, dtype, arguments.repeat)
    floor_bytes = (arguments.tasks + 2) * size * dtype.itemsize
    print(f"{size / 1e6:.1f} M parameters, {arguments.tasks} tasks, {arguments.dtype}, {arguments.threads} threads;")
    print(f"bytes to move {floor_bytes / 1e9:.2f} GB; multiply-add {unit:.4f} s, {floor_bytes / unit / 1e9:.1f} GB/s")
    print(
        f"{'method':18}{'seconds':>9}{'ratio':>8}{'prepared':>10}{'ratio':>8}{'target':>8}{'mergekit':>10}{'faster':>8}"
    )
    found: dict[str, Any] = {
        "parameters": size,
        "floor_bytes": floor_bytes,
        "multiply_add_seconds": unit,
        "methods": {},
    }
    for name in arguments.methods:
        figures: dict[str, Any] = ours(name, source, arguments.threads, arguments.repeat)
        figures["ratio"] = figures["seconds"] / unit
        figures["prepared_ratio"] = figures["prepared_seconds"] / unit
        figures["target_ratio"] = TARGETS.get(name)
        figures["mergekit_seconds"] = peer_seconds(name, base, tasks, arguments.peer_repeat) if peer else None
        if figures["mergekit_seconds"]:
            figures["times_faster"] = figures["mergekit_seconds"] / figures["seconds"]
        found["methods"][name] = figures
        print(line(name, figures), flush=True)
        gc.collect()
    found["multiply_add_seconds_after"] = multiply_add_seconds(size, arguments.tasks, dtype, arguments.repeat)
    return found


def line(name: str, figures: Mapping[str, Any]) -> str:
    """One row of the table."""
    target, peer = figures["target_ratio"], figures["mergekit_seconds"]
    row = f"{name:18}{figures['seconds']:9.3f}{figures['ratio']:8.2f}"
    row += f"{figures['prepared_seconds']:10.3f}{figures['prepared_ratio']:8.2f}{target or '-':>8}"
    return row + (f"{peer:10.2f}{figures['times_faster']:8.1f}" if peer else f"{'-':>10}{'-':>8}")


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=lambda n: int(float(n)), default=500_000_000, help="default 5e8")
    parser.add_argument("--tasks", type=int, default=4, help="fine-tuned models (default 4)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of merging (default 2)")
    parser.add_argument("--methods", default=",".join((*TARGETS, *OTHERS)), help="names, separated by commas")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of which the median counts (default 5)")
    parser.add_argument("--peer", action="store_true", help="also time mergekit, where it is installed")
    parser.add_argument("--peer-repeat", type=int, default=1, help="timed runs of mergekit (default 1)")
    arguments = parser.parse_args()
    arguments.methods = [METHODS.get(name.strip()).name for name in arguments.methods.split(",")]
    torch.set_num_threads(arguments.threads)
    described = {k: v for k, v in vars(arguments).items() if k != "parameters"}
    print(json.dumps({"machine": machine(), **described, **measure(arguments)}))


if __name__ == "__main__":
    main()
