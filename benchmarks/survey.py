"""What a survey costs: every elementwise metric against merely reading and summing the same bytes, and MergeLens.

    python benchmarks/survey.py [--parameters N] [--tasks T] [--folder F] [--quick] [--peer]

Writes a random-weight Llama-shaped base and its fine-tunes as safetensors shards (into a temporary folder unless one is
given), reads them once, and measures with the files in the page cache. Prints every figure, and ends with one line of
JSON that holds them all and describes the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch
from machine import machine
from safetensors.torch import save_file

from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.align import align
from explorer.checkpoints.source import CheckpointSource
from explorer.compute import readiness
from explorer.compute.source import chunks
from explorer.executor import ThreadExecutor
from explorer.interference import DEFAULT_MEMORY_BYTES, DENSITIES, METRICS, Survey, collect, fit_memory

FLOOR_TARGET, PEER_TARGET, MEMORY_TARGET = 6.0, 20.0, 1 << 30
PARTS = {
    "cosine, norms": ["cosine", "norm_profile"],
    "signs": ["sign_conflict", "sign_agreement"],
    "minority mass": ["minority_mass"],
    "masks": ["mask_overlap", "mask_agreement", "mask_patterns"],
    "sizes": ["redundancy", "conflict_map"],
}
LIKE_PEER = ["cosine", "sign_conflict"]
"""What corresponds to the two metrics MergeLens is asked for."""


def shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama-shaped model of about this size: 16 layers, 4 heads for each of keys, 32,000 rows at 5e8."""
    width = max(64, round(math.sqrt(parameters / 212) / 64) * 64)
    inner, few = width * 8 // 3 // 64 * 64, width // 3 // 16 * 16
    found: dict[str, tuple[int, ...]] = {"lm_head.weight": (width * 62 // 3, width), "model.norm.weight": (width,)}
    found["model.embed_tokens.weight"] = found["lm_head.weight"]
    for layer in range(16):
        name = f"model.layers.{layer}."
        for part, size in {"q": width, "k": few, "v": few, "o": width}.items():
            found[f"{name}self_attn.{part}_proj.weight"] = (size, width)
        found[f"{name}mlp.gate_proj.weight"] = found[f"{name}mlp.up_proj.weight"] = (inner, width)
        found[f"{name}mlp.down_proj.weight"] = (width, inner)
        found[f"{name}input_layernorm.weight"] = found[f"{name}post_attention_layernorm.weight"] = (width,)
    return dict(sorted(found.items()))


def write_models(folder: Path, parameters: int, tasks: int) -> int:
    """The base and its fine-tunes, unless they are there; returns the number of weights."""
    layout = shapes(parameters)
    for index in range(tasks + 1):
        place = folder / ("base" if index == 0 else f"task{index}")
        if (place / "model.safetensors.index.json").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        where, names = {}, list(layout)
        for shard in range(3):
            file = f"model-{shard + 1:05}-of-00003.safetensors"
            part = {n: _values(n, layout[n], index) for n in names[shard::3]}
            save_file(part, place / file, metadata={"format": "pt"})
            where |= dict.fromkeys(part, file)
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 16}
        (place / "config.json").write_text(json.dumps(config))
        (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return sum(math.prod(s) for s in layout.values())


def _values(name: str, shape: tuple[int, ...], index: int) -> torch.Tensor:
    """Weights of one model: the base's, and for a fine-tune N(0, 0.002) added to a random 40 % of them."""
    seed = sum(name.encode()) * 7919 + len(name)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(0.02).bfloat16()
    if index:
        generator = torch.Generator().manual_seed(seed * 31 + index)
        change = torch.randn(shape, generator=generator).mul_(0.002)
        change *= torch.rand(shape, generator=generator) < 0.4
        values = (values + change).bfloat16()
    return values


class Memory:
    """The most anonymous memory of this process while it runs (RssAnon of /proc/self/status, asked every 5 ms), above
    what it was before; file pages, which the system may drop at any time, do not count.
    """

    def __enter__(self) -> Memory:
        self.before = self.most = _anonymous_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, _anonymous_bytes())


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def read_and_sum(source: CheckpointSource, executor: ThreadExecutor, elements: int) -> None:
    """The floor: every byte of every model read once, in the same slices, and summed by torch."""

    def total(chunk: Any) -> float:
        parts = [source.base(chunk.name, chunk.start, chunk.stop)]
        parts += [source.task(t, chunk.name, chunk.start, chunk.stop) for t in range(len(source.tasks))]
        return sum(float(p.sum(dtype=torch.float32)) for p in parts)

    for _ in executor.map(total, list(chunks(source, elements))):
        pass


def seconds_of(function: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """Median wall and processor seconds of several calls."""
    walls, cpus = [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def slider_seconds(survey: Survey) -> float:
    """Median time of one new trim density at every level of one metric, from the sums held."""
    return statistics.median(
        seconds_of(lambda d=d: survey.finish("sign_conflict", trim_density=d), 1)[0] for d in DENSITIES
    )


def like_peer(source: CheckpointSource, **work: Any) -> None:
    """The metrics MergeLens is asked for, with our nulls, for every tensor, layer, kind and the model."""
    found = collect(source, LIKE_PEER, **work)
    for name in LIKE_PEER:
        found.finish(name)


def peer_seconds(folder: Path, tasks: int) -> tuple[float, float] | None:
    """`mergelens compare` on the same files with its two cheapest metrics, in a process of its own; None without it."""
    program = (
        "import sys, time; from mergelens import compare_models; begun = time.perf_counter(), time.process_time(); "
        "compare_models(sys.argv[2:], base_model=sys.argv[1], metrics=['cosine_similarity', 'sign_disagreement_rate'], "
        "show_progress=False); print(time.perf_counter() - begun[0], time.process_time() - begun[1])"
    )
    models = [str(folder / f"task{t + 1}") for t in range(tasks)]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "base"), *models], capture_output=True, text=True
    )
    if done.returncode:
        print(f"MergeLens is not compared: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return None
    wall, cpu = (float(part) for part in done.stdout.split()[-2:])
    return wall, cpu


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure; a line is printed as soon as it is known."""
    size = write_models(folder, arguments.parameters, arguments.tasks)
    base = open_checkpoint(folder / "base")
    tuned = {f"task{t + 1}": open_checkpoint(folder / f"task{t + 1}") for t in range(arguments.tasks)}
    source = CheckpointSource(base, tuned, align(base, tuned).names)
    executor, repeat = ThreadExecutor(arguments.threads), arguments.repeat
    elements = fit_memory(DEFAULT_MEMORY_BYTES, arguments.tasks, arguments.threads).chunk_elements
    work: dict[str, Any] = {"executor": executor, "chunk_elements": elements}  # as the command and the page do
    readiness.wait()
    found: dict[str, Any] = {"parameters": size, "read_bytes": 2 * size * (arguments.tasks + 1)}

    def note(key: str, pair: tuple[float, float]) -> None:
        found[key], found[f"{key}_cpu"] = pair
        floor = found["floor_seconds"], found["floor_seconds_cpu"]
        print(
            f"{key:28}{pair[0]:9.2f} s{pair[0] / floor[0]:7.2f}x{pair[1]:9.2f} CPU-s{pair[1] / floor[1]:7.2f}x",
            flush=True,
        )

    print(f"{size / 1e6:.1f} M parameters, {arguments.tasks} tasks, bfloat16, {arguments.threads} threads")
    found["digest_seconds"] = seconds_of(lambda: source.digest, 1)[0]
    whole = [name for name in METRICS.names() if METRICS.get(name).on in ("raw", "trimmed")]
    collect(source, whole, held=DENSITIES, **work)  # compiled and in the page cache from here on
    note("floor_seconds", seconds_of(lambda: read_and_sum(source, executor, elements), repeat))
    with Memory() as memory:
        note("survey_seconds", seconds_of(lambda: collect(source, whole, **work), repeat))
    found["survey_peak_bytes"] = memory.most - memory.before
    note(
        "survey_trimmed_seconds",
        seconds_of(lambda: collect(source, whole, trim_density=0.2, **work), repeat),
    )
    with Memory() as memory:
        held: list[Survey] = []
        note(
            "survey_held_seconds",
            seconds_of(lambda: held.append(collect(source, whole, held=DENSITIES, **work)), repeat),
        )
    found["survey_held_peak_bytes"] = memory.most - memory.before
    found["slider_seconds"] = slider_seconds(held[-1])
    for part, names in PARTS.items():
        note(f"{part} alone", seconds_of(lambda n=names: collect(source, n, **work), repeat))
    note("like_mergelens_seconds", seconds_of(lambda: like_peer(source, **work), repeat))
    note("floor_seconds_after", seconds_of(lambda: read_and_sum(source, executor, elements), repeat))
    found["over_floor"] = found["survey_seconds"] / found["floor_seconds"]
    print(f"over the floor {found['over_floor']:.2f} (target {FLOOR_TARGET:g}); peak anonymous memory above the start "
          f"{found['survey_peak_bytes'] / 2**20:.0f} MiB, and with densities held "
          f"{found['survey_held_peak_bytes'] / 2**20:.0f} MiB (target {MEMORY_TARGET >> 20}); "
          f"a moved slider {1000 * found['slider_seconds']:.0f} ms")  # fmt: skip
    if arguments.peer and (peer := peer_seconds(folder, arguments.tasks)):
        found["mergelens_seconds"], found["mergelens_seconds_cpu"] = peer
        found["times_faster"] = peer[0] / found["survey_seconds"]
        found["times_faster_like_for_like"] = peer[0] / found["like_mergelens_seconds"]
        cpu = f"{peer[1]:.1f} CPU-s, {peer[1] / found['survey_seconds_cpu']:.1f} times ours"
        alike = f"{found['times_faster_like_for_like']:.1f} times our like two"
        alike += f" ({peer[1] / found['like_mergelens_seconds_cpu']:.1f} times their CPU-s)"
        print(f"MergeLens, two metrics: {peer[0]:.1f} s, {found['times_faster']:.1f} times all of ours ({cpu}); "
              f"{alike}; target {PEER_TARGET:g}")  # fmt: skip
    return found


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=lambda n: int(float(n)), default=500_000_000, help="default 5e8")
    parser.add_argument("--tasks", type=int, default=4, help="fine-tuned models (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of the survey (default 2)")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of which the median counts (default 3)")
    parser.add_argument("--folder", type=Path, help="where the models are, or are written and left")
    parser.add_argument("--quick", action="store_true", help="2e7 parameters and one run, for a first impression")
    parser.add_argument("--peer", action="store_true", help="also time MergeLens, where it is installed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.parameters, arguments.repeat = min(arguments.parameters, 20_000_000), 1
    torch.set_num_threads(1)  # chunks run side by side, in the floor as in the survey
    described = {k: v for k, v in vars(arguments).items() if k not in ("parameters", "folder")}
    with tempfile.TemporaryDirectory() as made:
        figures = measure(arguments.folder or Path(made), arguments)
    print(json.dumps({"machine": machine(), **described, **figures}))


if __name__ == "__main__":
    main()
