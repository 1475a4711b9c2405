"""The safetensors format: an 8-byte length, a JSON header, then the tensors' bytes without gaps.

Read strictly: whatever a header claims is checked against the file before a single weight is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from explorer.checkpoints.files import FileStamp, read_into
from explorer.errors import CheckpointError, all_problems, sentence

MAX_HEADER_BYTES = 100_000_000
_MAX_ELEMENTS = 1 << 48
_AGAIN = "Download or copy the file again."
_SHOWN_PROBLEMS = 10

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

Entry = tuple[str, tuple[int, ...], torch.dtype, int]
"""Name, shape, dtype and absolute offset in the file of one tensor."""


def read_header(stamp: FileStamp) -> list[Entry]:
    """Every tensor that a safetensors file holds, in ascending name order.

    Raises CheckpointError when the file is truncated, its header is no safetensors header, or the header claims
    other bytes than the file has.
    """
    header, data_start = _header(stamp)
    header.pop("__metadata__", None)
    return _entries(str(stamp.path), header, data_start=data_start, size_bytes=stamp.size_bytes)


def read_metadata(stamp: FileStamp) -> dict[str, str]:
    """The text values in a safetensors file's header. Raises CheckpointError as `read_header`."""
    said = _header(stamp)[0].get("__metadata__")
    return {str(k): str(v) for k, v in said.items()} if isinstance(said, dict) else {}


def _header(stamp: FileStamp) -> tuple[dict[str, Any], int]:
    """The header's JSON object, and the offset at which the tensors' bytes begin."""
    who = str(stamp.path)
    length = bytearray(8)
    if stamp.size_bytes < 8:
        got = f"{stamp.size_bytes} bytes"
        raise CheckpointError(sentence(who, "a safetensors file must have at least 8 bytes", got, _AGAIN))
    read_into(stamp, 0, memoryview(length), who="header")
    _refuse_pointer(who, bytes(length))
    header_bytes = int.from_bytes(length, "little")
    if header_bytes > MAX_HEADER_BYTES:
        must = f"a safetensors header must have at most {MAX_HEADER_BYTES} bytes"
        raise CheckpointError(sentence(who, must, header_bytes, "This is no safetensors file. " + _AGAIN))
    if header_bytes > stamp.size_bytes - 8:
        must = f"the header states a length of {header_bytes} bytes and must have them"
        raise CheckpointError(sentence(who, must, f"{stamp.size_bytes - 8} bytes", "It is truncated. " + _AGAIN))
    text = bytearray(header_bytes)
    read_into(stamp, 8, memoryview(text), who="header")
    return _parse(who, bytes(text)), 8 + header_bytes


def _refuse_pointer(who: str, first: bytes) -> None:
    if first == b"version ":
        must = "must be a safetensors file"
        raise CheckpointError(sentence(who, must, "a Git LFS pointer", "Run `git lfs pull` to get the weights."))


def _parse(who: str, text: bytes) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            raise ValueError("a name that occurs twice")
        return made

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=pairs)
        if not isinstance(header, dict):
            raise ValueError(type(header).__name__)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        must = "a safetensors header must be a JSON object"
        raise CheckpointError(sentence(who, must, f"no such thing ({reason})", _AGAIN)) from error
    return header


def _entries(who: str, header: dict[str, Any], *, data_start: int, size_bytes: int) -> list[Entry]:
    entries, spans, problems = [], [], []
    for name, field in sorted(header.items()):
        problem = _field_problem(who, name, field)
        if problem:
            problems.append(problem)
            continue
        start, stop = field["data_offsets"]
        spans.append((start, stop, name))
        entries.append((name, tuple(field["shape"]), DTYPES[field["dtype"]], data_start + start))
    problems += [] if problems else _layout_problems(who, spans, size_bytes - data_start)
    if problems:
        raise CheckpointError(all_problems(who, problems[:_SHOWN_PROBLEMS]))
    return entries


def _whole(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < _MAX_ELEMENTS for v in values)


def _field_problem(who: str, name: str, field: Any) -> str | None:
    """What is wrong with one tensor's header entry, or None."""
    if not isinstance(field, dict) or not _whole(field.get("shape")) or not _whole(field.get("data_offsets")):
        must = f"tensor {name} must have a dtype, a shape and data_offsets"
        return sentence(who, must, repr(field)[:80], _AGAIN)
    if not isinstance(field.get("dtype"), str) or field["dtype"] not in DTYPES:
        must = f"tensor {name} must have a dtype out of {', '.join(DTYPES)}"
        return sentence(who, must, repr(field.get("dtype"))[:40], "Convert it to float16, bfloat16 or float32.")
    offsets = field["data_offsets"]
    need = math.prod(field["shape"]) * DTYPES[field["dtype"]].itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != need:
        must = f"tensor {name} of shape {tuple(field['shape'])} must have {need} bytes"
        return sentence(who, must, f"data_offsets {offsets}", _AGAIN)
    return None


def _layout_problems(who: str, spans: list[tuple[int, int, str]], have_bytes: int) -> list[str]:
    """Tensors must follow one another without gaps and fill the file exactly."""
    position, problems = 0, []
    for start, stop, name in sorted(spans):
        if start != position:
            must = f"tensor {name} must begin where the one before it ends, at {position}"
            problems.append(sentence(who, must, start, _AGAIN))
        position = stop
    if not problems and position > have_bytes:
        must = f"the header states {position} bytes of tensors and the file must have them"
        problems.append(sentence(who, must, f"{have_bytes} bytes", "It is truncated. " + _AGAIN))
    if not problems and position < have_bytes:
        must = f"the header states {position} bytes of tensors and the file must end there"
        problems.append(sentence(who, must, f"{have_bytes} bytes", _AGAIN))
    return problems


def write_header(
    plan: Sequence[tuple[str, Sequence[int], torch.dtype]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The header of a file that will hold these tensors, and the absolute offset of each.

    Wider dtypes come first, so that every tensor is aligned to its element; padded with blanks to 8 bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offsets, position = {}, 0
    for name, shape, dtype in sorted(plan, key=lambda p: (-p[2].itemsize, p[0])):
        stop = position + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [position, stop]}
        offsets[name] = position
        position = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    data_start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {n: data_start + o for n, o in offsets.items()}
