"""Writing a checkpoint folder: format, shards, modes, checksums; read back by safetensors and by ourselves."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from explorer.checkpoints import open_checkpoint
from explorer.checkpoints.writer import FolderWriter

STATE = {
    "z.bf16": torch.arange(7, dtype=torch.bfloat16),
    "a.f32": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.i64": torch.arange(4),
    "c.bool": torch.tensor([True, False, True]),
    "d.scalar": torch.tensor(2.5, dtype=torch.float64),
    "e.empty": torch.zeros(0, 4),
    "f.f16": torch.arange(3, dtype=torch.float16),
    "ü.u8": torch.tensor([7], dtype=torch.uint8),
}


def plan(state: dict[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {n: (tuple(t.shape), t.dtype) for n, t in state.items()}


def write(out: Path, state: dict[str, torch.Tensor], **options: object) -> FolderWriter:
    with FolderWriter(out, **options) as writer:  # type: ignore[arg-type]
        writer.plan(plan(state))
        for name in reversed(state):  # any order
            writer.add_tensor(name, state[name])
    return writer


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return list(sorted(left)) == list(sorted(right)) and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )


def test_one_file_that_safetensors_reads(tmp_path: Path) -> None:
    write(tmp_path / "out", STATE, metadata={"recipe": "abc"})
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.safetensors"]
    assert same(load_file(tmp_path / "out" / "model.safetensors"), STATE)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt", "recipe": "abc"}
    checkpoint = open_checkpoint(tmp_path / "out")
    assert same({n: checkpoint.read(n) for n in checkpoint}, STATE)


def test_tensors_are_aligned_to_their_elements(tmp_path: Path) -> None:
    write(tmp_path / "out", STATE)
    for info in open_checkpoint(tmp_path / "out").infos:
        assert info.offset_bytes % info.dtype.itemsize == 0, info.name


def test_shards_and_their_index(tmp_path: Path) -> None:
    state = {f"t{i}": torch.full((10,), float(i)) for i in range(5)} | {"big": torch.ones(100)}
    write(tmp_path / "out", state, shard_bytes=80)
    names = [f"model-{i:05}-of-00004.safetensors" for i in range(1, 5)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [*names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(t.nbytes for t in state.values())}
    assert index["weight_map"] == dict(
        zip(
            ["big", "t0", "t1", "t2", "t3", "t4"],
            [names[3], names[0], names[0], names[1], names[1], names[2]],
            strict=True,
        )
    )
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.format == "safetensors, 4 shards"
    assert same({n: checkpoint.read(n) for n in checkpoint}, state)


def test_slices_give_the_same_file_as_whole_tensors(tmp_path: Path) -> None:
    write(tmp_path / "whole", STATE)
    with FolderWriter(tmp_path / "slices") as writer:
        writer.plan(plan(STATE))
        for name, tensor in STATE.items():
            for start in range(0, tensor.numel(), 5):
                writer.write_flat(name, start, tensor.reshape(-1)[start : start + 5])
    files = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "slices")]
    assert files[0] == files[1]


def test_a_view_that_is_not_contiguous_and_needs_grad(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    write(tmp_path / "out", {"a": tensor})
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["a"], tensor)


def test_files_texts_and_checksums(tmp_path: Path) -> None:
    source = tmp_path / "tokenizer.json"
    source.write_bytes(os.urandom(5_000_000))
    source.chmod(0o600)
    with FolderWriter(tmp_path / "out") as writer:
        writer.plan(plan(STATE))
        for name, tensor in STATE.items():
            writer.add_tensor(name, tensor)
        writer.add_file(source)
        writer.add_file(source, "copy.json")
        writer.add_text("README.md", "Grüße\n")
        assert writer.files == ()
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "Grüße\n"
    assert (tmp_path / "out" / "copy.json").read_bytes() == source.read_bytes()
    assert [f.name for f in writer.files] == ["README.md", "copy.json", "model.safetensors", "tokenizer.json"]
    for written in writer.files:
        data = (tmp_path / "out" / written.name).read_bytes()
        assert (written.size_bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_modes_follow_the_umask(tmp_path: Path, umask: int, file_mode: int, folder_mode: int) -> None:
    source = tmp_path / "vocab.txt"
    source.write_text("x")
    source.chmod(0o600)
    before = os.umask(umask)
    try:
        with FolderWriter(tmp_path / "out") as writer:
            writer.plan(plan(STATE))
            for name, tensor in STATE.items():
                writer.add_tensor(name, tensor)
            writer.add_file(source)
            writer.add_text("card.md", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == folder_mode
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()} == {file_mode}


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    with FolderWriter(tmp_path / "out") as writer:
        writer.plan({})
        writer.add_text("a.txt", "x")
        assert not (tmp_path / "out").exists()
        assert [p.name.startswith(".out.") for p in tmp_path.iterdir()] == [True]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_missing_parents_are_made_and_an_empty_target_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "a" / "b" / "out", tmp_path / "empty"):
        write(out, STATE)
        assert (out / "model.safetensors").exists()


def test_overwriting_replaces_the_whole_folder(tmp_path: Path) -> None:
    write(tmp_path / "out", STATE)
    (tmp_path / "out" / "left_over.txt").write_text("x")
    write(tmp_path / "out", {"new": torch.ones(1)}, overwrite=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert list(open_checkpoint(tmp_path / "out").tensors) == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_overwriting_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "out", STATE, overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "misuse", ["unplanned", "shape", "dtype", "order", "beyond", "twice", "file", "hidden", "path", "plan"]
)
def test_misuse_is_a_programming_error_and_leaves_nothing(tmp_path: Path, misuse: str) -> None:
    with pytest.raises(ValueError), FolderWriter(tmp_path / "out") as writer:
        writer.plan({"a": ((4,), torch.float32)})
        if misuse == "unplanned":
            writer.add_tensor("b", torch.ones(4))
        elif misuse == "shape":
            writer.add_tensor("a", torch.ones(2, 2))
        elif misuse == "dtype":
            writer.add_tensor("a", torch.ones(4).half())
        elif misuse == "order":
            writer.write_flat("a", 2, torch.ones(2))
        elif misuse == "beyond":
            writer.write_flat("a", 0, torch.ones(5))
        elif misuse == "plan":
            writer.plan({"b": ((4,), torch.float32)})
        else:
            writer.add_tensor("a", torch.ones(4))
            names = {"file": "model.safetensors", "hidden": ".netrc", "path": "../x", "twice": "a.txt"}
            writer.add_text("a.txt", "x")
            writer.add_text(names[misuse], "x")
    assert list(tmp_path.iterdir()) == []


def test_every_byte_is_on_the_disk_before_the_folder_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_ino), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("renamed"), rename(a, b)))
    write(tmp_path / "out", STATE, shard_bytes=40)
    before = events[: events.index("renamed")]
    inodes = {p.stat().st_ino for p in [tmp_path / "out", *(tmp_path / "out").iterdir()]}
    assert inodes <= set(before) and events[-1] == tmp_path.stat().st_ino
