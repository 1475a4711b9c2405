"""Opens a folder or a file as a checkpoint, or says in one sentence why it is none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from explorer.checkpoints.adapter import CONFIG_FILE, Adapter
from explorer.checkpoints.files import FileStamp
from explorer.checkpoints.handle import Checkpoint, TensorInfo
from explorer.checkpoints.pickled import SUFFIXES as PICKLED
from explorer.checkpoints.pickled import pickled_weights, read_pickled
from explorer.checkpoints.safetensors import Entry, read_header
from explorer.errors import CheckpointError, PathError, all_problems, near, sentence

PICKLE_SUFFIXES = (".pkl", ".pickle")
WEIGHT_SUFFIXES = (".safetensors", *PICKLED)
_CONVERT = (
    "Pickle files can run code when they are read, so they are never opened. Convert it to safetensors: "
    "load it where you trust it and call save_pretrained(folder, safe_serialization=True)."
)
_MAX_JSON_BYTES = 64 << 20
_SHOWN_PROBLEMS = 10
_ADAPTER = re.compile(r"adapter_model.*\.safetensors")


def open_checkpoint(path: str | Path, *, allowed: Sequence[Path] | None = None) -> Checkpoint:
    """Open a Hugging Face folder, a PEFT adapter's, or one weight file: safetensors or PyTorch; reads headers only.

    `allowed`: folders inside which every file must really lie, symbolic links resolved; None allows any.
    In a folder, `model.safetensors` comes first, then an index of shards, then every .safetensors file there is, then
    the same for `pytorch_model.bin`: the order in which transformers looks, so both open the same weights.
    Raises PathError for a file outside `allowed`, CheckpointError for anything that is no usable checkpoint.
    """
    path = _existing(path, allowed)
    if path.is_dir():
        files, index = _weight_files(path, allowed)
        folder, name = path, path.resolve().name
    else:
        files, index = [_weight_file(path)], {}
        folder, name = path.parent, path.parent.name if path.stem in ("model", "pytorch_model") else path.stem
    if files and all(_ADAPTER.fullmatch(f.name) for f in files):
        return _adapter(_assemble(path, folder.resolve().name, files, {}, {}, allowed), allowed)
    config = _config(folder / "config.json", allowed)
    return _assemble(path, name, files, index, config, allowed)


def _adapter(file: Checkpoint, allowed: Sequence[Path] | None) -> Checkpoint:
    """The LoRA whose weight file was opened, with the adapter_config.json beside it."""
    path = file.stamps[0].path.parent / CONFIG_FILE
    if not path.is_file():
        must = f"a PEFT adapter must have its {CONFIG_FILE} beside it"
        raise CheckpointError(sentence(str(file.path), must, "none", "Copy the whole folder of the adapter."))
    _check_allowed(path, allowed)
    stamped = replace(file, stamps=(*file.stamps, FileStamp.of(path)))  # its bytes decide the weights as well
    return Adapter.of(stamped, _json_object(path))


def _existing(given: str | Path, allowed: Sequence[Path] | None) -> Path:
    """The absolute path of something that is there, and that may be opened."""
    must = "must be a folder or a file that exists"
    try:
        path = Path(given).expanduser().absolute()
        _check_allowed(path, allowed)
        if path.exists():
            return path
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, a loop of links, no permission
        raise CheckpointError(sentence(repr(str(given)[:200]), must, str(error)[:200], "Check the path.")) from error
    matches = [name for name in siblings if not name.startswith(".")]
    hint = near(path.name, matches) if 0 < len(matches) <= 50 else "Check the spelling."
    raise CheckpointError(sentence(str(path), must, "nothing there", hint))


def _check_allowed(path: Path, allowed: Sequence[Path] | None) -> None:
    """Raise PathError unless the file that `path` really leads to lies inside an allowed folder."""
    if allowed is None:
        return
    real = path.resolve()
    if any(real.is_relative_to(Path(folder).resolve()) for folder in allowed):
        return
    folders = ", ".join(str(f) for f in allowed) or "none"
    must = "must lie inside an allowed folder"
    advice = f"Allowed: {folders}. Move it there, or start with another folder allowed."
    raise PathError(sentence(str(path), must, "a path outside", advice))


def _weight_file(path: Path) -> Path:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(sentence(str(path), "must be a safetensors file", f"a {path.suffix} file", _CONVERT))
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        got = f"a {path.suffix} file" if path.suffix else "a file without suffix"
        advice = f"Give the folder of the checkpoint, or its weights ({', '.join(WEIGHT_SUFFIXES)})."
        raise CheckpointError(sentence(str(path), "must be a folder or a .safetensors file", got, advice))
    return path


def _weight_files(folder: Path, allowed: Sequence[Path] | None) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a folder in name order, and the index (tensor -> shard), empty where there is none."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single], {}
    try:
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise CheckpointError(sentence(str(folder), "must be readable", error.strerror, "Check its mode.")) from error
    indexes = [n for n in names if n.endswith(".safetensors.index.json")]
    if indexes:
        chosen = "model.safetensors.index.json" if "model.safetensors.index.json" in indexes else indexes[0]
        return _indexed(folder / chosen, allowed)
    weights = [n for n in names if n.endswith(".safetensors")]
    if weights and all(_ADAPTER.fullmatch(n) for n in weights):
        return [folder / n for n in weights], {}
    plain = [n for n in weights if not _ADAPTER.fullmatch(n)]
    if plain:
        return [folder / n for n in plain], {}
    return _pickled_files(folder, names, allowed)


def _pickled_files(folder: Path, names: list[str], allowed: Sequence[Path] | None) -> tuple[list[Path], dict[str, str]]:
    """The PyTorch files of a folder without safetensors, and their index."""
    indexes = [n for n in names if n.endswith(".bin.index.json")]
    if indexes and "pytorch_model.bin" not in names:
        return _indexed(folder / indexes[0], allowed)
    found = pickled_weights(names)
    if not found:
        raise CheckpointError(_no_weights(folder, names))
    if len(found) > 1 and any("-of-" not in n for n in found):
        got = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
        raise CheckpointError(sentence(str(folder), "must hold one file of weights", got, "Give one of these files."))
    return [folder / n for n in found], {}


def _indexed(path: Path, allowed: Sequence[Path] | None) -> tuple[list[Path], dict[str, str]]:
    """The shards that an index names, and tensor -> shard."""
    _check_allowed(path, allowed)
    index = _index(path)
    return [path.parent / n for n in sorted(set(index.values()))], index


def _no_weights(folder: Path, names: list[str]) -> str:
    pickles = [n for n in names if Path(n).suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        return sentence(str(folder), "must hold safetensors weights", f"only {pickles[0]}", _CONVERT)
    shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
    advice = "Give the folder that holds model.safetensors."
    return sentence(str(folder), "must hold weights (*.safetensors)", f"no such file ({shown or 'empty'})", advice)


def _json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file. Raises CheckpointError."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        advice = "Mend it or copy it again."
        raise CheckpointError(sentence(str(path), "must be a JSON object", reason, advice)) from error
    return data


def _config(path: Path, allowed: Sequence[Path] | None) -> dict[str, Any]:
    if not path.is_file():
        return {}
    _check_allowed(path, allowed)
    return _json_object(path)


def _index(path: Path) -> dict[str, str]:
    """tensor -> shard of an index file; refuses shards that lie outside the index's own folder."""
    mapping = _json_object(path).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(v, str) for v in mapping.values()):
        must = "weight_map must name a shard for every tensor"
        raise CheckpointError(sentence(str(path), must, repr(mapping)[:80], "Copy the index again."))
    outside = [s for s in sorted(set(mapping.values())) if _leaves_folder(s)]
    if outside:
        must = "shards must lie beside the index, named without '..' and not absolute"
        raise CheckpointError(sentence(str(path), must, ", ".join(map(repr, outside[:5])), "Do not use this file."))
    own = PICKLED if path.name.endswith(".bin.index.json") else (".safetensors",)
    for shard in sorted(set(mapping.values())):
        _weight_file(path.parent / shard)
        if not shard.lower().endswith(own):
            must = f"shards must be {' or '.join(own)} files, as the index itself is called"
            raise CheckpointError(sentence(str(path), must, repr(shard), "Do not use this file."))
    return mapping


def _leaves_folder(shard: str) -> bool:
    posix, windows = PurePosixPath(shard), PureWindowsPath(shard)
    return posix.is_absolute() or bool(windows.anchor) or ".." in windows.parts or "\x00" in shard


def _assemble(
    path: Path,
    name: str,
    files: list[Path],
    index: dict[str, str],
    config: dict[str, Any],
    allowed: Sequence[Path] | None,
) -> Checkpoint:
    found: dict[str, TensorInfo] = {}
    stamps, problems, formats = [], [], []
    for file in files:
        _check_allowed(file, allowed)
        if not file.exists():
            held = sum(1 for shard in index.values() if path / shard == file)
            must = f"must hold the shard {file.name} with {held} tensors that its index names"
            problems.append(sentence(str(path), must, "no such file", "Download or copy it."))
            continue
        stamp = FileStamp.of(file)
        stamps.append(stamp)
        entries, taken = _read(stamp, sharded=bool(index))
        formats.append(taken)
        for tensor, shape, dtype, offset in entries:
            if tensor in found:
                must = f"tensor {tensor} must be in one file"
                got = f"{found[tensor].file.name} and {file.name}"
                problems.append(sentence(str(path), must, got, "Remove the file that does not belong."))
            found[tensor] = TensorInfo(tensor, shape, dtype, file, offset)
    problems += [] if problems else _index_problems(path, index, found)
    if not found and not problems:
        problems.append(sentence(str(path), "must hold at least one tensor", "none", "Save the model again."))
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise CheckpointError(all_problems(str(path), problems[:_SHOWN_PROBLEMS] + more))
    format = formats[0] if len(files) == 1 else f"{formats[0]}, {len(files)} shards"
    infos = tuple(found[n] for n in sorted(found))
    return Checkpoint(path, name, format, infos, tuple(stamps), config)


def _read(stamp: FileStamp, *, sharded: bool) -> tuple[Sequence[Entry], str]:
    """What one weight file holds, and its format in words."""
    if stamp.path.suffix.lower() not in PICKLED:
        return read_header(stamp), "safetensors"
    found = read_pickled(stamp, strip=not sharded)  # an index knows the names as they are stored
    return found.entries, f"PyTorch ({found.taken})" if found.taken else "PyTorch"


def _index_problems(path: Path, index: dict[str, str], found: dict[str, TensorInfo]) -> list[str]:
    """Tensors that the index promises in a shard and that the shard lacks."""
    return [
        sentence(str(path), f"shard {shard} must hold tensor {tensor}, as its index says", "none", "Copy it again.")
        for tensor, shard in sorted(index.items())
        if tensor not in found or found[tensor].file != path / shard
    ]
