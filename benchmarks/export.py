"""What an export costs: against plain copies of the same files, and against mergekit with the same recipe.

    python benchmarks/export.py [--quick] [--methods A,B] [--peer FOLDER] [--repeat N]

Makes a random Llama-shaped base and four fine-tunes (0.5 B parameters each, bfloat16, sharded; 0.1 B with --quick) in
a temporary folder, and removes it. Ours and mergekit run in turns, each as a process of its own, start included, one
thread per library; our loops are compiled before, once, and no digest of an input is known. `--peer` is a folder that
holds mergekit (`pip install --no-deps --target FOLDER mergekit==0.1.5`, and what it asks for). Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch
import yaml
from machine import machine

from explorer.checkpoints.writer import FolderWriter

TASKS = 4
HIDDEN, VOCABULARY, INTERMEDIATE = 1024, 32000, 4096
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("weight_average", {}),
    "task_arithmetic": ("task_arithmetic", {"scale": 0.3}),
    "ties": ("ties", {"density": 0.2, "scope": "tensor"}),
    "breadcrumbs": ("breadcrumbs", {"scale": 0.3}),
    "dare_ties": ("dare", {"density": 0.5, "elect": "mass", "rescale": "l1"}),
    "della": ("della", {"density": 0.7, "density_spread": 0.1}),
}
PEER: dict[str, dict[str, Any]] = {
    "linear": {"weight": 1.0},
    "task_arithmetic": {"weight": 0.3},
    "ties": {"weight": 1.0, "density": 0.2},
    "breadcrumbs": {"weight": 0.3, "density": 0.143, "gamma": 0.007},
    "dare_ties": {"weight": 0.3, "density": 0.5},
    "della": {"weight": 1.0, "density": 0.7, "epsilon": 0.1},
}
TIMES_FASTER = {"linear": 2, "task_arithmetic": 2, "ties": 8, "breadcrumbs": 8, "della": 8, "dare_ties": 8}


def shapes(parameters: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """Tensors of a Llama with about so many parameters and tied embeddings, and its number of layers."""
    layer = {f"self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qkvo"}
    layer |= {f"mlp.{n}_proj.weight": (INTERMEDIATE, HIDDEN) for n in ("gate", "up")}
    layer |= {"mlp.down_proj.weight": (HIDDEN, INTERMEDIATE)}
    layer |= {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,)}
    each = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in layer.values())
    layers = max(1, round((parameters - VOCABULARY * HIDDEN) / each))
    named = {f"model.layers.{i}.{n}": shape for i in range(layers) for n, shape in layer.items()}
    return {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), **named, "model.norm.weight": (HIDDEN,)}, layers


def write_models(folder: Path, parameters: int) -> list[Path]:
    """The base and its fine-tunes, one tensor in memory at a time."""
    named, layers = shapes(parameters)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCABULARY,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": 16,
        "num_key_value_heads": 16, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    }  # fmt: skip
    folders = [folder / "base", *(folder / f"task{t}" for t in range(TASKS))]
    base = torch.Generator()
    for number, out in enumerate(folders):
        own = torch.Generator().manual_seed(number)
        base.manual_seed(1000)
        with FolderWriter(out, shard_bytes=max(10**8, parameters // 2)) as writer:
            writer.plan({name: (shape, torch.bfloat16) for name, shape in named.items()})
            for name, shape in named.items():
                values = torch.randn(shape, generator=base).mul_(0.02)
                if number:
                    values.add_(torch.randn(shape, generator=own), alpha=0.002)
                writer.add_tensor(name, values.bfloat16())
            writer.add_text("config.json", json.dumps(config))
    return folders


def recipes(folder: Path, models: Sequence[Path], name: str) -> tuple[Path, Path]:
    """Ours and mergekit's spelling of one merge."""
    method, parameters = OURS[name]
    tasks = {m.name: {"checkpoint": str(m)} for m in models[1:]}
    ours = folder / f"{name}.ours.yaml"
    ours.write_text(
        yaml.safe_dump({"base": str(models[0]), "tasks": tasks, "method": method, "parameters": parameters})
    )
    peer: dict[str, Any] = {
        "merge_method": name,
        "models": [{"model": str(m), "parameters": PEER[name]} for m in models[1:]],
        "dtype": "bfloat16",
    }
    if name != "linear":
        peer["base_model"] = str(models[0])
    theirs = folder / f"{name}.peer.yaml"
    theirs.write_text(yaml.safe_dump(peer))
    return ours, theirs


def run(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Wall and CPU seconds of a process, and the most anonymous memory seen every 20 ms."""
    begun, before = time.perf_counter(), os.times()
    process = subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], anonymous_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, said = process.communicate()
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{said[-2000:]}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_seconds": time.perf_counter() - begun, "cpu_seconds": used, "peak_bytes": peak[0]}


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is no file's, in bytes; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def copies(models: Sequence[Path], out: Path, out_bytes: int) -> float:
    """Wall seconds to read every input file and to write as many bytes as the output has, synced to the disk."""
    begun, block = time.perf_counter(), bytearray(1 << 22)
    for file in (f for model in models for f in sorted(model.glob("*.safetensors"))):
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(block):
                pass
    with open(out, "wb", buffering=0) as stream:
        for start in range(0, out_bytes, len(block)):
            stream.write(memoryview(block)[: out_bytes - start])
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - begun
    out.unlink()
    return seconds


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median of every figure."""
    return {key: round(statistics.median(r[key] for r in runs), 3) for key in runs[0]}


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure, method by method; ours, plain copies and mergekit take turns."""
    models = write_models(folder, arguments.parameters)
    out_bytes = sum(f.stat().st_size for f in models[0].glob("*.safetensors"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EXPLORER_CACHE": str(arguments.cache or folder / "cache")}
    peer = {**environment, "PYTHONPATH": str(arguments.peer), "HF_HUB_OFFLINE": "1"}
    start = "from mergekit.scripts.run_yaml import main; main()"
    found: dict[str, Any] = {"out_bytes": out_bytes, "methods": {}}
    for name in arguments.methods:
        ours, theirs = recipes(folder, models, name)
        commands: dict[str, Callable[[], dict[str, float]]] = {
            "ours": lambda ours=ours: run(our_command(ours, folder / "out", arguments), environment),  # type: ignore[misc]
            "copies": lambda: {"wall_seconds": copies(models, folder / "copy", out_bytes)},
        }
        if arguments.peer:
            command = [sys.executable, "-c", start, str(theirs), str(folder / "peer")]
            commands["mergekit"] = lambda command=command: run(command, peer)  # type: ignore[misc]
        commands["ours"]()  # compiles its loops, where that is not done yet
        runs: dict[str, list[dict[str, float]]] = {who: [] for who in commands}
        shutil.rmtree(folder / "out")
        for turn in range(arguments.repeat):
            for who in commands if turn % 2 == 0 else reversed(list(commands)):
                shutil.rmtree(Path(environment["EXPLORER_CACHE"]) / "digests", ignore_errors=True)
                runs[who].append(commands[who]())
                shutil.rmtree(folder / "out", ignore_errors=True)
                shutil.rmtree(folder / "peer", ignore_errors=True)
        figures: dict[str, Any] = {who: medians(several) for who, several in runs.items()}
        figures |= ratios(name, figures)
        found["methods"][name] = figures
        print(line(name, figures), flush=True)
    return found


def our_command(recipe: Path, out: Path, arguments: argparse.Namespace) -> list[str]:
    """Our command line; mergekit reads nothing back, so neither do we unless asked to."""
    command = [sys.executable, "-m", "explorer", "merge", str(recipe), str(out)]
    return command if arguments.verify else [*command, "--no-verify"]


def ratios(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Ours against copies and against mergekit."""
    ours, peer = figures["ours"], figures.get("mergekit")
    made: dict[str, Any] = {"wall_over_copies": round(ours["wall_seconds"] / figures["copies"]["wall_seconds"], 2)}
    if peer:
        made |= {f"{k}_times_less": round(peer[k] / ours[k], 2) for k in ("wall_seconds", "cpu_seconds", "peak_bytes")}
        made["target_times"] = TIMES_FASTER[name]
    return made


def line(name: str, figures: Mapping[str, Any]) -> str:
    """One row of the table."""
    words = [f"{name:16}"]
    for who in ("ours", "mergekit"):
        if who in figures:
            f = figures[who]
            words.append(
                f"{who} {f['wall_seconds']:6.1f} s {f['cpu_seconds']:6.1f} CPU s {f['peak_bytes'] / 1e6:6.0f} MB"
            )
    words.append(f"copies {figures['copies']['wall_seconds']:5.1f} s")
    if "cpu_seconds_times_less" in figures:
        words.append(f"CPU {figures['cpu_seconds_times_less']:.1f}x less (target {figures['target_times']})")
    return "  ".join(words)


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=lambda n: int(float(n)), default=500_000_000, help="default 5e8")
    parser.add_argument("--quick", action="store_true", help="0.1 B parameters")
    parser.add_argument("--methods", default=",".join(OURS), help="names, separated by commas")
    parser.add_argument("--peer", type=Path, help="folder that holds mergekit 0.1.5")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, of which the median counts (default 3)")
    parser.add_argument("--cache", type=Path, help="where compiled loops are kept (default: in the temporary folder)")
    parser.add_argument("--verify", action="store_true", help="ours also reads the output back and loads the model")
    parser.add_argument("--folder", type=Path, help="where to make the models (default: the system's temporary folder)")
    arguments = parser.parse_args()
    arguments.parameters = 100_000_000 if arguments.quick else arguments.parameters
    arguments.methods = [name.strip() for name in arguments.methods.split(",")]
    arguments.peer = arguments.peer and arguments.peer.resolve()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(Path(folder), arguments)
    described = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k != "peer"}
    print(json.dumps({"machine": machine(), **described, **found}))


if __name__ == "__main__":
    main()
