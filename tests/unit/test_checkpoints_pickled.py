"""PyTorch files: the same tensors as torch.load gives, read in place; anything else refused, and never executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from workbench_zoo import make_bench, make_models, recipe_of

import explorer
from explorer.checkpoints import find_checkpoints, open_checkpoint
from explorer.checkpoints.pickled import _MAX_PICKLE_BYTES, read_pickled
from explorer.checkpoints.tied import tied_tensors
from explorer.errors import CheckpointError

AGAIN = "Where you trust the file, load it and save its weights: torch.save(model.state_dict(), path)."
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64,
)  # fmt: skip


def state() -> dict[str, torch.Tensor]:
    """Tensors of every dtype, a scalar, an empty one, two names on one storage, a part of a larger storage."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{i}.weight": torch.randint(0, 2, (3, 4 + i)).to(d) for i, d in enumerate(DTYPES)}
    large = torch.randn(10, 4, generator=generator)
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "part": large[2:5]}
    return {**tensors, "embed_tokens.weight": large, "lm_head.weight": large}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value)


def rewritten(
    path: Path, change: Callable[[str, bytes], bytes | None], *, compression: int = zipfile.ZIP_STORED
) -> Path:
    """The file with its members changed (None: left out), or compressed."""
    with zipfile.ZipFile(path) as old:
        members = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in members.items():
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)
    return path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.PTH", "model.ckpt"])
def test_every_dtype_and_shape_reads_bit_for_bit(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, state())
    expected = torch.load(path, weights_only=True)
    for checkpoint in (open_checkpoint(path), open_checkpoint(tmp_path)):
        assert list(checkpoint) == sorted(expected) and checkpoint.format == "PyTorch"
        for tensor, value in expected.items():
            got = checkpoint.read(tensor)
            assert (got.dtype, got.shape) == (value.dtype, value.shape)
            assert got.reshape(-1).view(torch.uint8).equal(value.reshape(-1).view(torch.uint8))
    part = checkpoint.read_flat("part", 3, 7)
    assert torch.equal(part, expected["part"].reshape(-1)[3:7])


def test_no_weights_are_loaded_to_open_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "m.pt", {"a": torch.zeros(1 << 20), "b": torch.ones(1 << 20)})
    read = []
    from explorer.checkpoints import pickled

    def counted(stamp: Any, offset: int, buffer: memoryview, *, who: str) -> None:
        read.append(len(buffer))
        original(stamp, offset, buffer, who=who)

    original = pickled.read_into
    monkeypatch.setattr(pickled, "read_into", counted)
    monkeypatch.setattr(torch.UntypedStorage, "from_file", lambda *a: pytest.fail("the file was mapped"))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.total_bytes == 2 << 22 and sum(read) < 1000
    assert bool((checkpoint.read("b") == 1).all())


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(2)})
    hits = read_pickled.cache_info().hits
    open_checkpoint(path)
    first = open_checkpoint(path)
    assert read_pickled.cache_info().hits == hits + 1
    saved(tmp_path / "new", {"a": torch.ones(3)})
    os.replace(tmp_path / "new", path)
    assert open_checkpoint(path).info("a").shape == (3,)
    with pytest.raises(CheckpointError, match="must stay as it was when it was opened"):
        first.read("a")


def test_tied_tensors_are_two_names_and_known_as_tied(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved(tmp_path / "m.bin", state()))
    offsets = {checkpoint.info(n).offset_bytes for n in ("embed_tokens.weight", "lm_head.weight")}
    assert len(offsets) == 1 and tied_tensors(checkpoint) == ("lm_head.weight",)


WEIGHTS = {"a": torch.ones(2), "b": torch.zeros(3)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
WRAPPED: dict[str, tuple[Any, str]] = {
    "raw": (WEIGHTS, "PyTorch"),
    "ordered": (OrderedDict(WEIGHTS), "PyTorch"),
    "parameters": ({n: torch.nn.Parameter(t) for n, t in WEIGHTS.items()}, "PyTorch"),
    "raw with numbers": ({**WEIGHTS, "epoch": 3}, "PyTorch (without epoch)"),
    "lightning": (
        {"epoch": 3, "global_step": 9, "state_dict": WEIGHTS, "optimizer_states": [OPTIMIZER], "lr_schedulers": []},
        "PyTorch (its state_dict, without epoch, global_step, optimizer_states and 1 more)",
    ),
    "model": ({"model": WEIGHTS, "optimizer": OPTIMIZER}, "PyTorch (its model, without optimizer)"),
    "module": ({"module": WEIGHTS}, "PyTorch (its module)"),
    "two": (
        {"model": {"x": torch.ones(1)}, "state_dict": WEIGHTS},
        "PyTorch (its state_dict, without model)",
    ),
    "data parallel": ({f"module.{n}": t for n, t in WEIGHTS.items()}, "PyTorch ('module.' stripped)"),
    "compiled": (
        {"model": {f"_orig_mod.{n}": t for n, t in WEIGHTS.items()}},
        "PyTorch (its model, '_orig_mod.' stripped)",
    ),
    "extra state": (
        {"state_dict": {**WEIGHTS, "x._extra_state": None}},
        "PyTorch (its state_dict, without x._extra_state)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_what_is_taken_and_what_is_said_of_it(tmp_path: Path, case: str) -> None:
    content, format = WRAPPED[case]
    checkpoint = open_checkpoint(saved(tmp_path / "m.ckpt", content))
    assert list(checkpoint) == ["a", "b"] and checkpoint.format == format
    assert torch.equal(checkpoint.read("a"), WEIGHTS["a"])


def test_a_prefix_that_not_every_name_has_stays(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved(tmp_path / "m.pt", {"module.a": torch.ones(1), "b": torch.ones(1)}))
    assert list(checkpoint) == ["b", "module.a"]


@pytest.mark.parametrize("index", [True, False])
def test_shards(tmp_path: Path, index: bool) -> None:
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    saved(tmp_path / names[0], {"module.a": torch.ones(2)})
    saved(tmp_path / names[1], {"module.b": torch.zeros(3)})
    saved(tmp_path / "optimizer.bin", OPTIMIZER)
    if index:
        weight_map = {"module.a": names[0], "module.b": names[1]}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint) == (["module.a", "module.b"] if index else ["a", "b"])
    assert checkpoint.format.startswith("PyTorch") and checkpoint.format.endswith(", 2 shards")


def test_an_index_that_names_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    assert message(tmp_path) == (
        f"{path}: shards must be .bin or .pt or .pth or .ckpt files, as the index itself is called; "
        "got 'm.safetensors'. Do not use this file."
    )


def test_safetensors_come_first_as_in_transformers(tmp_path: Path) -> None:
    saved(tmp_path / "pytorch_model.bin", {"a": torch.zeros(2)})
    saved(tmp_path / "other.pt", {"a": torch.zeros(2)})
    assert bool((open_checkpoint(tmp_path).read("a") == 0).all())
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "safetensors" and bool((checkpoint.read("a") == 1).all())


def test_a_folder_with_two_files_that_are_no_shards(tmp_path: Path) -> None:
    for name in ("best.pt", "last.pt", "optimizer.pt", "training_args.bin"):
        saved(tmp_path / name, WEIGHTS)
    assert message(tmp_path) == (
        f"{tmp_path}: must hold one file of weights; got best.pt, last.pt. Give one of these files."
    )
    (tmp_path / "best.pt").unlink()
    assert [s.path.name for s in open_checkpoint(tmp_path).stamps] == ["last.pt"]


# ---------------------------------------------------------------- refused, and never executed


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["alone", "beside weights", "as a key", "in the state dict"])
def test_a_malicious_file_is_refused_and_not_run(tmp_path: Path, zipped: bool, where: str) -> None:
    bomb = Bomb(tmp_path / "exploded")
    content: Any = {
        "alone": bomb,
        "beside weights": {"state_dict": WEIGHTS, "hyper_parameters": bomb},
        "as a key": {(bomb,): WEIGHTS},
        "in the state dict": {**WEIGHTS, "c": bomb},
    }[where]
    path = saved(tmp_path / "m.ckpt", content, _use_new_zipfile_serialization=zipped)
    text = message(path)
    assert not (tmp_path / "exploded").exists()
    if zipped:
        assert re.fullmatch(
            re.escape(f"{path}: must hold tensors and plain values only; got more than tensors (")
            + r"\S*mkdir"
            + re.escape(f"); it was not run. {AGAIN}"),
            text,
        )
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "exploded").exists(), "the bomb works where it is run"


def test_an_object_of_another_library(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.ckpt", {"state_dict": WEIGHTS, "hyper_parameters": Namespace(lr=1)})
    assert message(path) == (
        f"{path}: must hold tensors and plain values only; got more than tensors (argparse.Namespace); "
        f"it was not run. {AGAIN}"
    )


def test_a_whole_pickled_model(tmp_path: Path) -> None:
    assert "more than tensors (torch.nn.modules.linear.Linear)" in message(
        saved(tmp_path / "m.pt", torch.nn.Linear(2, 2))
    )


def test_files_of_other_kinds(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.pt", WEIGHTS, _use_new_zipfile_serialization=False)
    assert message(old) == (
        f"{old}: must be a zip written by torch.save; got a plain pickle or a file older than torch 1.6; "
        f"it was not run. {AGAIN}"
    )
    (tmp_path / "text.bin").write_text("hello")
    assert "must be a zip written by torch.save; got something else; it was not run. Download" in message(
        tmp_path / "text.bin"
    )
    (tmp_path / "empty.bin").write_bytes(b"")
    assert "must be a zip written by torch.save" in message(tmp_path / "empty.bin")
    with zipfile.ZipFile(tmp_path / "plain.pt", "w") as archive:
        archive.writestr("notes.txt", "x")
    assert "must be written by torch.save; got a zip without data.pkl" in message(tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl"):
            archive.writestr(name, "x")
    assert "got a TorchScript program; it was not run" in message(tmp_path / "script.pt")


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n")
    assert message(path) == (
        f"{path}: must be a zip written by torch.save; got a Git LFS pointer. Run `git lfs pull` to get the weights."
    )


def test_files_open_in_threads_while_others_compute(tmp_path: Path) -> None:
    """Tensors of other threads stay real, and every file gives its own numbers."""
    paths = [saved(tmp_path / f"{i}.pt", {"a": torch.full((3,), float(i))}) for i in range(12)]

    def work(i: int) -> tuple[float, bool]:
        value = open_checkpoint(paths[i]).read("a")
        return float(value.sum()), type(torch.ones(2) + 1) is torch.Tensor

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(12))) == [(3.0 * i, True) for i in range(12)]


@pytest.mark.parametrize("kept", [3, 40, 400, -30, -1])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:kept])
    assert message(path).startswith(f"{path}: must be a") and message(path).endswith("Download or copy the file again.")


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_gives_a_checkpoint_error_or_tensors(tmp_path: Path, seed: int) -> None:
    path = saved(tmp_path / "m.pt", WEIGHTS)
    data = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for place in torch.randint(0, len(data), (12,), generator=generator).tolist():
        data[place] = int(torch.randint(0, 256, (1,), generator=generator))
    path.write_bytes(data)
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint:
            checkpoint.read(name)
    except CheckpointError as error:
        assert str(error).startswith(str(path))


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(100)})
    rewritten(path, lambda n, d: b"\0" * 10_000_000 if n.endswith("data.pkl") else d, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert message(path) == (
        f"{path}: must keep its members uncompressed, as torch.save does; got m/data.pkl compressed. {AGAIN}"
    )


def test_members_that_claim_more_than_the_file_has(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(100)})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"m/data/0"))
    data[at + 20 : at + 28] = (1 << 30).to_bytes(4, "little") * 2
    path.write_bytes(data)
    assert re.search(r"members of \d{10} bytes must lie inside the file; got \d+ bytes. Do not use", message(path))


def test_a_list_of_tensors_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.checkpoints.pickled._MAX_PICKLE_BYTES", 10)
    text = message(saved(tmp_path / "m.pt", WEIGHTS))
    assert "its list of tensors must have at most 10 bytes; got " in text and _MAX_PICKLE_BYTES == 64 << 20


def test_a_storage_shorter_than_its_tensor(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(100)})
    rewritten(path, lambda n, d: d[:40] if n.endswith("data/0") else d)
    assert message(path) == (
        f"{path}: tensor a must lie in the file in one plain piece; got 400 bytes in a storage of 40. {AGAIN}"
    )


def test_a_member_that_is_there_twice_or_not_at_all(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(100)})
    rewritten(path, lambda n, d: None if n.endswith("data/0") else d)
    assert message(path).startswith(f"{path}: must hold plain tensors; got ")
    data = io.BytesIO()
    torch.save(WEIGHTS, data)
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(path, "w") as new:
        for folder in ("one", "two"):
            for name in old.namelist():
                new.writestr(f"{folder}/{name.partition('/')[2]}", old.read(name))
    assert message(path) == f"{path}: must hold each member once; got one twice. Do not use this file."


def test_the_other_byte_order(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", WEIGHTS)
    rewritten(path, lambda n, d: b"big" if n.endswith("byteorder") else d)
    assert message(path) == f"{path}: its bytes must be in little order; got 'big'. {AGAIN}"


MISPLACED: dict[str, tuple[Any, str]] = {
    "transposed": (torch.zeros(2, 3).t(), "strides (1, 3) for shape (3, 2)"),
    "expanded": (torch.zeros(1, 3).expand(2, 3), "strides (0, 1) for shape (2, 3)"),
    "conjugated": (torch.zeros(2, dtype=torch.complex64).conj(), "a conjugated or negated view"),
    "complex128": (torch.zeros(2, dtype=torch.complex128), "strided complex128"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_tensors_that_are_not_in_one_piece_are_all_named(tmp_path: Path, case: str) -> None:
    tensor, got = MISPLACED[case]
    path = saved(tmp_path / "m.pt", {"x": tensor, **WEIGHTS, "y": tensor})
    lines = [f"{path}: tensor {n} must lie in the file in one plain piece; got {got}. {AGAIN}" for n in "xy"]
    assert message(path) == f"{path}: 2 problems\n  - {lines[0]}\n  - {lines[1]}"


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.zeros(2, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_bytes(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = saved(tmp_path / "m.pt", {"x": tensor})
    assert re.match(re.escape(str(path)) + ": (must hold plain tensors|tensor x must lie in the file)", message(path))


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ({}, "a dict"),
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2), "a FakeTensor"),
        ({"epoch": 3, "encoder": {"x": {"y": torch.zeros(2)}}}, "the entries epoch, encoder"),
    ],
)
def test_a_file_without_a_dictionary_of_tensors(tmp_path: Path, content: Any, got: str) -> None:
    path = saved(tmp_path / "m.pt", content)
    assert message(path) == (
        f"{path}: must hold a dictionary of tensors, itself or under state_dict, model_state_dict, model, module; "
        f"got {got}. Save model.state_dict() alone."
    )


@pytest.mark.parametrize(
    ("content", "got"),
    [({1: torch.zeros(2)}, "the key 1"), ({**WEIGHTS, "encoder": WEIGHTS}, "a dictionary under encoder")],
)
def test_weights_in_several_dictionaries(tmp_path: Path, content: Any, got: str) -> None:
    path = saved(tmp_path / "m.pt", content)
    assert message(path) == f"{path}: must map names to tensors, one level deep; got {got}. {AGAIN}"


# ---------------------------------------------------------------- in the whole program


def pickled_zoo(folder: Path) -> Path:
    """`make_models` with the weights of every model in a pytorch_model.bin instead."""
    make_models(folder)
    for path in list(folder.glob("*/model.safetensors")):
        saved(path.with_name("pytorch_model.bin"), load_file(path))
        path.unlink()
    return folder


def test_merging_pytorch_files_gives_the_same_bits_as_safetensors(tmp_path: Path) -> None:
    make_models(tmp_path / "safe")
    pickled_zoo(tmp_path / "zoo")
    first = explorer.run_recipe(recipe_of(tmp_path / "safe", method="ties"), tmp_path / "one")
    second = explorer.run_recipe(recipe_of(tmp_path / "zoo", method="ties"), tmp_path / "two")
    mine, theirs = (load_file(e.path / "model.safetensors") for e in (first, second))
    assert list(mine) == list(theirs) and all(torch.equal(mine[n], theirs[n]) for n in mine)


def test_the_picker_finds_them_and_uploads_are_checked_alike(tmp_path: Path) -> None:
    zoo = pickled_zoo(tmp_path / "zoo")
    (zoo / "loose").mkdir()
    saved(zoo / "loose" / "a.ckpt", WEIGHTS)
    saved(zoo / "loose" / "optimizer.pt", OPTIMIZER)
    expected = [zoo / n for n in ("base", "colours", "loose/a.ckpt", "numbers")]
    assert find_checkpoints(zoo) == expected
    bench = make_bench(zoo, tmp_path / "exports")
    folder = bench.receive("a", [zoo / "colours" / n for n in ("pytorch_model.bin", "config.json")])
    assert open_checkpoint(folder).format == "PyTorch"
    bomb = saved(tmp_path / "pytorch_model.bin", Bomb(tmp_path / "exploded"))
    before = sorted(bench.scratch.rglob("*"))
    with pytest.raises(CheckpointError, match="it was not run"):
        bench.receive("a", [bomb])
    assert sorted(bench.scratch.rglob("*")) == before and not (tmp_path / "exploded").exists()
