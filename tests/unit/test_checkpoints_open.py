"""Opening and reading checkpoints: the formats, laziness, what a handle is, where it may lie."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import explorer
from explorer.checkpoints import files, find_checkpoints, open_checkpoint
from explorer.checkpoints.source import CheckpointSource
from explorer.compute.source import Chunk, StateDictSource, chunks, deltas
from explorer.errors import AlignmentError, CheckpointError, PathError

SAMPLE = Path(__file__).resolve().parents[2] / "sample_checkpoints" / "base"

EVERY_DTYPE = {
    "a.f64": torch.tensor([1.5, -0.0, float("nan")], dtype=torch.float64),
    "b.f32": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "c.f16": torch.arange(5, dtype=torch.float16),
    "d.bf16": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "e.i64": torch.arange(4),
    "f.bool": torch.tensor([True, False, True]),
    "g.u8": torch.arange(3, dtype=torch.uint8),
    "h.scalar": torch.tensor(2.5),
    "i.empty": torch.zeros(0, 4),
    "j.f8": torch.arange(4, dtype=torch.float32).to(torch.float8_e4m3fn),
}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_shards(folder: Path, *shards: dict[str, torch.Tensor], index: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def single(tmp_path: Path) -> Path:
    folder = tmp_path / "spam"
    folder.mkdir()
    save_file(EVERY_DTYPE, folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    return folder


def test_every_dtype_and_shape_reads_bit_for_bit(single: Path) -> None:
    checkpoint = open_checkpoint(single)
    assert list(checkpoint.tensors) == sorted(EVERY_DTYPE)
    for name, expected in EVERY_DTYPE.items():
        got = checkpoint.read(name)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert bits(got) == bits(expected)


def test_facts_of_a_checkpoint(single: Path) -> None:
    checkpoint = open_checkpoint(single)
    assert (checkpoint.name, checkpoint.format, checkpoint.architecture) == ("spam", "safetensors", "BertModel")
    assert checkpoint.total_bytes == sum(t.nbytes for t in EVERY_DTYPE.values())
    assert checkpoint.parameter_count == 3 + 12 + 5 + 6 + 1
    assert checkpoint.dtypes["float32"] == 13
    info = checkpoint.info("b.f32")
    assert (info.shape, info.numel, info.nbytes, info.is_float) == ((3, 4), 12, 48, True)
    assert [n for n in checkpoint if not checkpoint.info(n).is_float] == ["e.i64", "f.bool", "g.u8", "j.f8"]


@pytest.mark.parametrize(
    ("config", "architecture"),
    [({"model_type": "bert"}, "bert"), ({}, "unknown"), ({"architectures": None}, "unknown")],
)
def test_architecture_falls_back(tmp_path: Path, config: dict, architecture: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path).architecture == architecture


def test_a_slice_equals_the_slice_of_the_whole(single: Path) -> None:
    checkpoint = open_checkpoint(single)
    assert torch.equal(checkpoint.read_flat("b.f32", 3, 9), EVERY_DTYPE["b.f32"].reshape(-1)[3:9])
    assert checkpoint.read_flat("b.f32", 5, 5).numel() == 0
    with pytest.raises(ValueError, match=r"b\.f32: slice must lie in \[0, 12\]; got \[3, 13\]"):
        checkpoint.read_flat("b.f32", 3, 13)


def test_what_is_read_belongs_to_the_caller(single: Path) -> None:
    checkpoint = open_checkpoint(single)
    checkpoint.read("b.f32").zero_()
    assert torch.equal(checkpoint.read("b.f32"), EVERY_DTYPE["b.f32"])


def test_unknown_tensor_offers_near_names(single: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got 'b\.f23'\. Did you mean 'b\.f32'"):
        open_checkpoint(single).read("b.f23")


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_and_without_index(tmp_path: Path, index: bool) -> None:
    folder = write_shards(tmp_path / "m", {"z": torch.ones(2)}, {"a": torch.zeros(3)}, index=index)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "safetensors, 2 shards"
    assert list(checkpoint.tensors) == ["a", "z"]
    assert torch.equal(checkpoint.read("z"), torch.ones(2))


def test_single_file_wins_over_shards_as_in_transformers(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", {"a": torch.ones(2)}, {"b": torch.zeros(3)})
    save_file({"only": torch.zeros(1)}, folder / "model.safetensors")
    assert list(open_checkpoint(folder).tensors) == ["only"]


def test_single_file_path(single: Path) -> None:
    checkpoint = open_checkpoint(single / "model.safetensors")
    assert (checkpoint.name, checkpoint.architecture) == ("spam", "BertModel")
    (single / "model.safetensors").rename(single / "mine.safetensors")
    assert open_checkpoint(str(single / "mine.safetensors")).name == "mine"


def test_hashable_equal_and_picklable_without_open_files(single: Path) -> None:
    one, two = open_checkpoint(single), open_checkpoint(single)
    assert one == two and hash(one) == hash(two) and len({one, two}) == 1
    _ = one.tensors, one.read("b.f32")
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one and torch.equal(copy.read("b.f32"), one.read("b.f32"))
    assert copy.tensors == one.tensors and len(pickle.dumps(one)) < 20_000


def test_digest_follows_content_not_place(single: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((single / "model.safetensors").read_bytes())
    first = open_checkpoint(single)
    assert first.digest == open_checkpoint(copy).digest
    changed = {**EVERY_DTYPE, "g.u8": torch.zeros(3, dtype=torch.uint8)}
    save_file(changed, copy / "model.safetensors")
    os.utime(copy / "model.safetensors", ns=(0, 0))  # a clock may tick only every few milliseconds
    assert first.digest != open_checkpoint(copy).digest


def test_digest_reads_the_files_once(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(single)
    digest = checkpoint.digest
    monkeypatch.setattr(files, "read_into", lambda *a, **k: pytest.fail("read again"))
    assert checkpoint.digest == digest


def test_few_files_stay_open_and_threads_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_HANDLES", 3)
    count = 8
    shards = [{f"t{i}": torch.full((1000,), float(i))} for i in range(count)]
    checkpoint = open_checkpoint(write_shards(tmp_path / "m", *shards))
    wrong: list[int] = []

    def read_all() -> None:
        for _ in range(20):
            wrong.extend(i for i in range(count) if not bool((checkpoint.read(f"t{i}") == i).all()))

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(files._handles) <= 3


def test_the_sample_opens_in_milliseconds_and_agrees_with_safetensors() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        checkpoint = explorer.open_checkpoint(SAMPLE)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05
    assert (checkpoint.parameter_count, checkpoint.architecture) == (8_446_080, "BertModel")
    for shard in sorted(SAMPLE.glob("*.safetensors")):
        for name, expected in load_file(shard).items():
            assert torch.equal(checkpoint.read(name), expected)


def test_allowed_folders(single: Path, tmp_path: Path) -> None:
    assert open_checkpoint(single, allowed=[tmp_path]).name == "spam"
    assert open_checkpoint(single, allowed=[tmp_path / "other", single]).name == "spam"
    other = tmp_path / "other"
    other.mkdir()
    for path in (single, tmp_path / "other" / ".." / "spam", tmp_path / "nothing", single / "model.safetensors"):
        with pytest.raises(
            PathError, match=r"must lie inside an allowed folder; got a path outside\. Allowed: .*other"
        ):
            open_checkpoint(path, allowed=[other])
    with pytest.raises(PathError, match="Allowed: none"):
        open_checkpoint(single, allowed=[])
    (tmp_path / "spam-2").mkdir()
    with pytest.raises(PathError):  # a name that only begins like the allowed folder's
        open_checkpoint(tmp_path / "spam-2", allowed=[single])


@pytest.mark.parametrize("linked", ["folder", "model.safetensors", "config.json", "shard", "index"])
def test_links_out_of_the_allowed_folder_are_refused(tmp_path: Path, linked: str) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    write_shards(outside, {"a": torch.zeros(1)}, {"b": torch.zeros(1)})
    save_file({"a": torch.zeros(1)}, outside / "model.safetensors")
    (outside / "config.json").write_text("{}")
    inside.mkdir()
    folder = inside / "m"
    if linked == "folder":
        folder.symlink_to(outside)
    elif linked in ("shard", "index"):
        write_shards(folder, {"a": torch.zeros(1)}, {"b": torch.zeros(1)})
        name = "model-00002-of-00002.safetensors" if linked == "shard" else "model.safetensors.index.json"
        (folder / name).unlink()
        (folder / name).symlink_to(outside / name)
    else:
        folder.mkdir()
        save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
        (folder / linked).unlink(missing_ok=True)
        (folder / linked).symlink_to(outside / linked)
    assert open_checkpoint(folder)
    with pytest.raises(PathError, match="must lie inside an allowed folder"):
        open_checkpoint(folder, allowed=[inside])


def test_find_checkpoints(tmp_path: Path) -> None:
    write_shards(tmp_path / "zoo" / "sharded", {"a": torch.zeros(1)}, {"b": torch.zeros(1)})
    for place in ("single", "a/b/deep", "a/b/c/too_deep", ".hidden", "tasks/spam"):
        (tmp_path / place).mkdir(parents=True)
        save_file({"a": torch.zeros(1)}, tmp_path / place / "model.safetensors")
    (tmp_path / "tasks" / "spam" / "task.json").write_text("{}")
    (tmp_path / "loose").mkdir()
    for name in ("x", "y"):
        save_file({"a": torch.zeros(1)}, tmp_path / "loose" / f"{name}.safetensors")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_checkpoints(tmp_path)
    names = [str(p.relative_to(tmp_path)) for p in found]
    assert names == ["a/b/deep", "loose/x.safetensors", "loose/y.safetensors", "single", "zoo/sharded"]
    assert all(open_checkpoint(p) for p in found)
    assert len(find_checkpoints(tmp_path, limit=2)) == 2
    assert find_checkpoints(tmp_path / "nothing") == []


def test_find_leaves_out_files_that_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "in" / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert find_checkpoints(tmp_path / "in") == []


def test_source_from_files_equals_source_in_memory(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    states = {
        name: {"w": torch.randn(7, 5, generator=generator).half(), "b": torch.randn(3, generator=generator)}
        for name in ("base", "spam", "movies")
    }
    for name, state in states.items():
        save_file(state, tmp_path / f"{name}.safetensors")
    opened = {name: open_checkpoint(tmp_path / f"{name}.safetensors") for name in states}
    base, tasks = opened.pop("base"), opened
    source = CheckpointSource(base, tasks, ["w", "b"])
    memory = StateDictSource(states["base"], {t: states[t] for t in tasks})
    assert (source.tasks, source.names, source.shape("w")) == (("spam", "movies"), ("b", "w"), (7, 5))
    assert source.dtype("w") == torch.float16
    assert list(chunks(source, 4)) == list(chunks(memory, 4))
    for chunk in chunks(source, 4):
        assert torch.equal(deltas(source, chunk), deltas(memory, chunk))
    assert deltas(source, Chunk("w", 3, 9)).shape == (2, 6)
    swapped = CheckpointSource(base, dict(reversed(tasks.items())), ["w", "b"])
    again = CheckpointSource(base, tasks, ["b", "w"])
    digests = {source.digest, swapped.digest, CheckpointSource(base, tasks, ["w"]).digest}
    assert len(digests) == 3 and again.digest == source.digest


def test_source_refuses_names_that_are_not_aligned(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2), "n": torch.arange(2)}, tmp_path / "a.safetensors")
    save_file({"w": torch.zeros(3)}, tmp_path / "b.safetensors")
    base, task = open_checkpoint(tmp_path / "a.safetensors"), open_checkpoint(tmp_path / "b.safetensors")
    with pytest.raises(AlignmentError) as caught:
        CheckpointSource(base, {"spam": task}, ["w", "n"])
    assert "base: n must be a float tensor" in str(caught.value)
    assert "spam: w must be a float tensor of the base's shape; got torch.float32, (3,)." in str(caught.value)
