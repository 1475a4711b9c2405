"""PyTorch files (`torch.save`): where each tensor's bytes lie, learned without running or loading anything.

Such a file is a zip: one pickle that says which tensors there are, and one uncompressed member per storage. The
pickle is read by `torch.load(weights_only=True)`, which knows tensors and plain values only and refuses every other
name, and under a FakeTensorMode, which makes tensors without bytes and notes where their bytes are. What it says is
checked against the zip's own directory; weights are read later from the file itself, as safetensors are.
"""

from __future__ import annotations

import re
import struct
import sys
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from explorer.checkpoints.files import FileStamp, read_into
from explorer.checkpoints.safetensors import CODES, Entry
from explorer.errors import CheckpointError, all_problems, sentence

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Names under which training programs keep the weights, in the order they are looked for."""
_PREFIXES = ("module.", "_orig_mod.")
"""Written by data-parallel and compiled models in front of every name."""
_MAX_PICKLE_BYTES = 64 << 20
_MAX_MEMBERS = 1 << 20
_SHOWN, _SHOWN_PROBLEMS = 3, 10
_LOCAL_HEADER_BYTES = 30
_AGAIN = "Download or copy the file again."
_SAVE_AGAIN = "Where you trust the file, load it and save its weights: torch.save(model.state_dict(), path)."
_NOT_WEIGHTS = re.compile(r"(?:adapter_model|optimizer|scheduler|scaler|training_args|rng_state|random_states).*", re.I)
_SHARD = re.compile(r".*-\d+-of-\d+")
_lock = threading.Lock()


@dataclass(frozen=True)
class Pickled:
    """The tensors of one file; `taken` says in a few words which part of it they are."""

    entries: tuple[Entry, ...]
    taken: str


@lru_cache(maxsize=64)
def read_pickled(stamp: FileStamp, *, strip: bool = True) -> Pickled:
    """Every tensor that a PyTorch file holds, in ascending name order; remembered while the file stays the same.

    The weights are the file's own dictionary, or the one under a name of WRAPPERS; optimizer states and plain values
    are left out. `strip` takes `module.` (or `_orig_mod.`) away where every name begins with it.
    Raises CheckpointError for anything but a zip of tensors and plain values: nothing in it is ever executed.
    """
    who = str(stamp.path)
    storages = _storages(who, stamp)
    content = _unpickled(who, stamp)
    chosen, taken = _weights(who, content)
    found, problems = _entries(who, chosen, storages)
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise CheckpointError(all_problems(who, problems[:_SHOWN_PROBLEMS] + more))
    prefix = next((p for p in _PREFIXES if strip and found and all(e[0].startswith(p) for e in found)), "")
    entries = sorted((name.removeprefix(prefix), shape, dtype, place) for name, shape, dtype, place in found)
    parts = [taken, f"'{prefix}' stripped" if prefix else "", _left_out(content, chosen)]
    return Pickled(tuple(entries), ", ".join(p for p in parts if p))


def _storages(who: str, stamp: FileStamp) -> dict[int, int]:
    """Start -> stop in the file of every storage, by the zip's checked directory. Raises CheckpointError."""
    start = bytearray(min(8, stamp.size_bytes))
    read_into(stamp, 0, memoryview(start), who="beginning")
    if bytes(start) == b"version ":
        must = "must be a zip written by torch.save"
        raise CheckpointError(sentence(who, must, "a Git LFS pointer", "Run `git lfs pull` to get the weights."))
    if start[:4] != b"PK\x03\x04":
        old = start[:1] == b"\x80"
        got = "a plain pickle or a file older than torch 1.6" if old else "something else"
        must = "must be a zip written by torch.save"
        raise CheckpointError(sentence(who, must, f"{got}; it was not run", _SAVE_AGAIN if old else _AGAIN))
    try:
        with zipfile.ZipFile(stamp.path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise CheckpointError(sentence(who, "must be a whole zip file", _reason(error), _AGAIN)) from error
    _check_members(who, stamp, infos)
    spans = {i.filename.partition("/")[2] or i.filename: _span(who, stamp, i) for i in infos}
    if len(spans) != len(infos):
        raise CheckpointError(sentence(who, "must hold each member once", "one twice", "Do not use this file."))
    _check_kind(who, stamp, spans)
    return {start: stop for name, (start, stop) in spans.items() if name.startswith("data/")}


def _check_members(who: str, stamp: FileStamp, infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > _MAX_MEMBERS:
        must = f"must have at most {_MAX_MEMBERS} members"
        raise CheckpointError(sentence(who, must, len(infos), "Do not use this file."))
    packed = [i for i in infos if i.compress_type != zipfile.ZIP_STORED or i.flag_bits & 1]
    if packed:
        must = "must keep its members uncompressed, as torch.save does"
        raise CheckpointError(sentence(who, must, f"{packed[0].filename} compressed", _SAVE_AGAIN))
    total = sum(i.file_size for i in infos)
    if total > stamp.size_bytes:
        must = f"members of {total} bytes must lie inside the file"
        raise CheckpointError(sentence(who, must, f"{stamp.size_bytes} bytes", "Do not use this file."))


def _span(who: str, stamp: FileStamp, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a member's bytes begin and end: its local header has a length of its own."""
    header = bytearray(_LOCAL_HEADER_BYTES)
    read_into(stamp, info.header_offset, memoryview(header), who=f"member {info.filename}")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    stop = start + info.file_size
    if header[:4] != b"PK\x03\x04" or stop > stamp.size_bytes:
        must = f"member {info.filename} must lie inside the file"
        raise CheckpointError(sentence(who, must, f"bytes {start} to {stop} of {stamp.size_bytes}", _AGAIN))
    return start, stop


def _check_kind(who: str, stamp: FileStamp, spans: Mapping[str, tuple[int, int]]) -> None:
    """A file of torch.save, not of torch.jit.save, from a machine that writes numbers the same way round."""
    if "constants.pkl" in spans or "data.pkl" not in spans:
        got = "a TorchScript program" if "constants.pkl" in spans else "a zip without data.pkl"
        raise CheckpointError(sentence(who, "must be written by torch.save", f"{got}; it was not run", _SAVE_AGAIN))
    start, stop = spans["data.pkl"]
    if stop - start > _MAX_PICKLE_BYTES:
        must = f"its list of tensors must have at most {_MAX_PICKLE_BYTES} bytes"
        raise CheckpointError(sentence(who, must, stop - start, _SAVE_AGAIN))
    start, stop = spans.get("byteorder", (0, 0))
    order = bytearray(min(stop - start, 16))
    read_into(stamp, start, memoryview(order), who="byteorder")
    if order and bytes(order) != sys.byteorder.encode():
        got = repr(order.decode("latin-1"))
        raise CheckpointError(sentence(who, f"its bytes must be in {sys.byteorder} order", got, _SAVE_AGAIN))


def _unpickled(who: str, stamp: FileStamp) -> object:
    """What the file holds, with tensors that have a place in the file and no bytes in memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with _lock, FakeTensorMode():  # one at a time: entering the mode sets a flag that all threads share
            content = torch.load(stamp.path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.search(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) (\S+)|Unsupported (operand \d+)", str(error))
        if refused is None and "Weights only" not in str(error):
            raise CheckpointError(sentence(who, "must hold plain tensors", _reason(error), _SAVE_AGAIN)) from error
        what = next((g for g in (refused.groups() if refused else ()) if g), "other objects")
        got = f"more than tensors ({what[:80]}); it was not run"
        raise CheckpointError(sentence(who, "must hold tensors and plain values only", got, _SAVE_AGAIN)) from error
    stamp.check()
    return content


def _reason(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _weights(who: str, content: object) -> tuple[Mapping[Any, Any], str]:
    """The dictionary of weights in a file's content, and what to call it. Raises CheckpointError."""
    if isinstance(content, Mapping):
        for name in WRAPPERS:
            if _holds_tensors(content.get(name)):
                return content[name], f"its {name}"
        if _holds_tensors(content):
            return content, ""
    keys = ", ".join(str(k)[:40] for k in list(content)[:_SHOWN]) if isinstance(content, Mapping) else ""
    got = f"the entries {keys}" if keys else f"a {type(content).__name__}"
    must = f"must hold a dictionary of tensors, itself or under {', '.join(WRAPPERS)}"
    raise CheckpointError(sentence(who, must, got, "Save model.state_dict() alone."))


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


def _left_out(content: object, chosen: Mapping[Any, Any]) -> str:
    """What beside the weights is not read, such as optimizer states."""
    assert isinstance(content, Mapping)
    outer = () if chosen is content else (k for k in content if content[k] is not chosen)
    names = [str(k)[:40] for k in (*outer, *(k for k, v in chosen.items() if not isinstance(v, Tensor)))]
    if not names:
        return ""
    return "without " + ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _entries(who: str, weights: Mapping[Any, Any], storages: Mapping[int, int]) -> tuple[list[Entry], list[str]]:
    """Where every tensor lies, and a sentence for each that cannot be read."""
    found: list[Entry] = []
    problems = []
    for name, value in weights.items():
        if not isinstance(name, str) or _holds_tensors(value):
            got = f"the key {name!r}"[:80] if not isinstance(name, str) else f"a dictionary under {name}"
            problems.append(sentence(who, "must map names to tensors, one level deep", got, _SAVE_AGAIN))
        elif isinstance(value, Tensor):
            place = _place(value, storages)
            if isinstance(place, str):
                problems.append(
                    sentence(who, f"tensor {name} must lie in the file in one plain piece", place, _SAVE_AGAIN)
                )
            else:
                found.append((name, tuple(value.shape), value.dtype, place))
    return found, problems


def _place(tensor: Tensor, storages: Mapping[int, int]) -> int | str:
    """The offset of a tensor's first byte in the file, or what keeps it from being read from there."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in CODES:
        return f"{tensor.layout} {kind}".replace("torch.", "")
    if tensor.is_conj() or tensor.is_neg():
        return "a conjugated or negated view"
    if not tensor.is_contiguous():
        return f"strides {tuple(tensor.stride())} for shape {tuple(tensor.shape)}"
    if tensor.numel() == 0:
        return 0
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if not isinstance(start, int) or start not in storages:
        return "a storage that the zip does not have"
    skipped = int(tensor.storage_offset()) * tensor.element_size()
    need = tensor.numel() * tensor.element_size()
    if skipped < 0 or start + skipped + need > storages[start]:
        return f"{skipped + need} bytes in a storage of {storages[start] - start}"
    return start + skipped


def is_pickled(name: str) -> bool:
    """Whether a file of this name may hold weights that `read_pickled` reads; companions of a training run do not."""
    return name.lower().endswith(SUFFIXES) and not _NOT_WEIGHTS.fullmatch(name)


def pickled_weights(names: Sequence[str]) -> list[str]:
    """The PyTorch files that make up a folder's weights where no index names them; several when it is not clear.

    `pytorch_model.bin` comes first, as in transformers; then numbered shards; then whatever else there is.
    """
    if "pytorch_model.bin" in names:
        return ["pytorch_model.bin"]
    found = [n for n in names if is_pickled(n)]
    return [n for n in found if _SHARD.fullmatch(n.rpartition(".")[0])] or found
