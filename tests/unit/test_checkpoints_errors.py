"""Everything that is no usable checkpoint is refused with one sentence that says what to do."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from explorer.checkpoints import open_checkpoint
from explorer.errors import CheckpointError


def raw_file(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(stop: int, *, start: int = 0, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value)


def shards(folder: Path, weight_map: dict[str, str], **files: dict[str, torch.Tensor]) -> Path:
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    assert message(tmp_path) == (
        f"{tmp_path}: must hold weights (*.safetensors); got no such file (README.md). "
        "Give the folder that holds model.safetensors."
    )


def test_path_that_does_not_exist_offers_near_names(tmp_path: Path) -> None:
    (tmp_path / "movies").mkdir()
    expected = f"{tmp_path}/movie: must be a folder or a file that exists; got nothing there. Did you mean 'movies'?"
    assert message(tmp_path / "movie") == expected


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~nobody-of-this-name/x"])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(CheckpointError, match="must be a folder or a file that exists"):
        open_checkpoint(path)


def test_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "must be a folder or a file that exists" in message(tmp_path / "a")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "a", allowed=[tmp_path])


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_truncated_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    text = message(path)
    assert text.startswith(f"{path}: ") and text.endswith("Download or copy the file again.")
    if kept in (40, -1):
        assert "It is truncated." in text


def test_header_that_claims_more_bytes_than_the_file_has(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", {"a": entry(8)}, b"\0" * 4)
    assert message(path) == (
        f"{path}: the header states 8 bytes of tensors and the file must have them; got 4 bytes. "
        "It is truncated. Download or copy the file again."
    )


def test_header_length_beyond_the_file(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", {"a": entry(8)}, b"\0" * 8, length=5000)
    assert "the header states a length of 5000 bytes and must have them; got " in message(path)


def test_huge_header_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", {}, length=2**63)
    assert "a safetensors header must have at most 100000000 bytes; got 9223372036854775808." in message(path)


BAD_HEADERS: dict[str, tuple[object, bytes, str]] = {
    "garbage": (b"\xff\xfe\x00garbage", b"", "a safetensors header must be a JSON object"),
    "list": ([1, 2], b"", "must be a JSON object; got no such thing (list)"),
    "deep": (b"[" * 100_000, b"", "must be a JSON object"),
    "trailing bytes": ({"a": entry(8)}, b"\0" * 9, "the file must end there; got 9 bytes"),
    "twice": (b'{"a": 1, "a": 2}', b"", "a name that occurs twice"),
    "overlap": (
        {"a": entry(8), "b": entry(12, start=4)},
        b"\0" * 12,
        "tensor b must begin where the one before it ends",
    ),
    "gap": (
        {"a": entry(8), "b": entry(20, start=12)},
        b"\0" * 20,
        "tensor b must begin where the one before it ends, at 8",
    ),
    "wrong size": (
        {"a": entry(8, shape=(3,))},
        b"\0" * 8,
        "tensor a of shape (3,) must have 12 bytes; got data_offsets [0, 8]",
    ),
    "negative": ({"a": entry(8, shape=(-2,))}, b"\0" * 8, "must have a dtype, a shape and data_offsets"),
    "overflow": ({"a": entry(8, shape=(2**63, 2**63))}, b"\0" * 8, "must have a dtype, a shape and data_offsets"),
    "no number": ({"a": entry(8, shape=("2",))}, b"\0" * 8, "must have a dtype, a shape and data_offsets"),  # type: ignore[arg-type]
    "no object": ({"a": 3}, b"", "must have a dtype, a shape and data_offsets; got 3"),
    "dtype": ({"a": entry(8, dtype="F4")}, b"\0" * 8, "tensor a must have a dtype out of F64, F32"),
    "dtype list": ({"a": {**entry(8), "dtype": ["F32"]}}, b"\0" * 8, "tensor a must have a dtype"),
    "no tensor": ({"__metadata__": {"format": "pt"}}, b"", "must hold at least one tensor; got none"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_header(tmp_path: Path, case: str) -> None:
    header, data, expected = BAD_HEADERS[case]
    path = raw_file(tmp_path / "m.safetensors", header, data)
    text = message(path)
    assert text.startswith(str(path)) and expected in text


def test_every_bad_entry_is_reported(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "m.safetensors", {"a": 3, "b": 4})
    assert "2 problems" in message(path) and "tensor b must have" in message(path)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n")
    assert message(path) == (
        f"{path}: must be a safetensors file; got a Git LFS pointer. Run `git lfs pull` to get the weights."
    )


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    text = message(tmp_path)
    assert (
        f"{tmp_path}: must hold the shard one.safetensors with 1 tensors that its index names; got no such file" in text
    )
    assert "the shard two.safetensors with 2 tensors" in text


def test_index_that_names_a_tensor_the_shard_lacks(tmp_path: Path) -> None:
    shards(tmp_path, {"a": "one.safetensors", "b": "one.safetensors"}, one={"a": torch.zeros(1)})
    assert message(tmp_path) == (
        f"{tmp_path}: shard one.safetensors must hold tensor b, as its index says; got none. Copy it again."
    )


@pytest.mark.parametrize("index", [True, False])
def test_tensor_in_two_shards(tmp_path: Path, index: bool) -> None:
    a = {"a": torch.zeros(1)}
    shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one=a, two={**a, "b": torch.ones(1)})
    if not index:
        (tmp_path / "model.safetensors.index.json").unlink()
    expected = "tensor a must be in one file; got one.safetensors and two.safetensors."
    assert expected in message(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "/outside.safetensors",
        "C:\\outside.safetensors",
        "..\\outside.safetensors",
    ],
)
def test_index_that_leaves_its_folder(tmp_path: Path, shard: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "m"
    folder.mkdir()
    shards(folder, {"a": shard})
    assert "shards must lie beside the index, named without '..' and not absolute; got " in message(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "{}"])
def test_broken_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json: " in message(tmp_path)


def test_index_that_names_a_pickle(tmp_path: Path) -> None:
    shards(tmp_path, {"a": "pytorch_model.bin"})
    assert message(tmp_path) == (
        f"{tmp_path}/model.safetensors.index.json: shards must be .safetensors files, as the index itself is called; "
        "got 'pytorch_model.bin'. Do not use this file."
    )
    shards(tmp_path, {"a": "weights.pkl"})
    assert "weights.pkl: must be a safetensors file; got a .pkl file. Pickle files can run code" in message(tmp_path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pickle", "WEIGHTS.PKL"])
def test_pickles_are_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    for path in (folder, folder / name):
        text = message(path)
        assert (
            "Pickle files can run code when they are read, so they are never opened. Convert it to safetensors" in text
        )
    assert not (tmp_path / "exploded").exists()


def test_pickle_under_a_safetensors_name(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert message(tmp_path).startswith(f"{tmp_path}/model.safetensors: ")
    assert not (tmp_path / "exploded").exists()


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "must be a folder or a .safetensors file; got a .txt file" in message(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "must be a regular file; got something else" in message(tmp_path / "pipe.safetensors")


def test_adapter_only(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert message(tmp_path).endswith(
        "a PEFT adapter must have its adapter_config.json beside it; got none. Copy the whole folder of the adapter."
    )


@pytest.mark.parametrize("text", ['{"model_type": ', "[]", "\xff"])
def test_broken_config(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert message(tmp_path).startswith(f"{tmp_path}/config.json: must be a JSON object; got ")


@pytest.mark.parametrize("change", ["removed", "truncated", "replaced", "grown", "folder"])
def test_file_that_changed_after_it_was_opened(tmp_path: Path, change: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(10_000)}, path)
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.read("a")
    if change == "removed":
        path.unlink()
    elif change == "truncated":
        os.truncate(path, 1000)
    elif change == "grown":
        os.truncate(path, 100_000)
    elif change == "folder":
        path.unlink()
        path.mkdir()
    else:
        stat = path.stat()
        save_file({"a": torch.ones(10_000)}, tmp_path / "new")
        os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "new").rename(path)
    for use in (lambda: checkpoint.read("a"), lambda: checkpoint.read_flat("a", 0, 1), lambda: checkpoint.digest):
        with pytest.raises(
            CheckpointError, match=r"model\.safetensors: must (stay as it was when it was opened|be a re)"
        ):
            use()
    if change == "replaced":
        assert bool((open_checkpoint(tmp_path).read("a") == 1).all())


def test_file_truncated_during_a_read_is_an_error_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from explorer.checkpoints.files import FileStamp

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(10_000)}, path)
    checkpoint = open_checkpoint(tmp_path)
    monkeypatch.setattr(FileStamp, "check", lambda self: os.truncate(path, 1000))
    with pytest.raises(
        CheckpointError, match=r"tensor a: must be all there; got the end of the file after \d+ of 40000"
    ):
        checkpoint.read("a")
