"""Sums of tensors as files: several tensors in a part, one flat array per dtype, checked when read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from explorer.interference._survey import Sums

_KINDS = "biuf"
_STALE_SECONDS = 3600


def packed(tensors: Mapping[str, Sums], key: str) -> bytes:
    """Sums by tensor as the bytes of an .npz: one flat array per dtype, and a table of what lies where."""
    flat: dict[str, list[np.ndarray]] = {}
    table = []
    for name, sums in tensors.items():
        for label, array in sums.items():
            if array.dtype.kind not in _KINDS:
                raise ValueError(f"{label}: must be numbers; got {array.dtype}")
            flat.setdefault(array.dtype.str[1:], []).append(np.ascontiguousarray(array).reshape(-1))
            table.append([name, label, array.dtype.str[1:], list(array.shape)])
        if not sums:
            table.append([name, "", "", []])
    header = np.frombuffer(json.dumps({"key": key, "table": table}).encode(), dtype=np.uint8)
    arrays = {f"of_{dtype}": np.concatenate(several) for dtype, several in flat.items()}
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, header=header, **arrays)
    return out.getvalue()


def write_part(folder: Path, part: bytes) -> None:
    """Write a part, whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
    partial = folder / f"{name}.part"
    try:
        partial.write_bytes(part)
        os.replace(partial, folder / f"{name}.npz")
    finally:
        partial.unlink(missing_ok=True)


def read_part(path: Path, key: str) -> dict[str, Sums]:
    """The sums in one part, by tensor; none, and the file removed, where it is not what was written."""
    try:
        with np.load(path, allow_pickle=False) as held:
            header = json.loads(held["header"].tobytes())
            arrays = {dtype.removeprefix("of_"): held[dtype] for dtype in held.files if dtype != "header"}
        if header["key"] != key:
            raise ValueError("another survey's")
        return _unpacked(header["table"], arrays)
    except FileNotFoundError:  # another process made room
        return {}
    except Exception:  # whatever is wrong with it: damaged bytes can raise anything
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return {}


def _unpacked(table: Sequence[Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Sums]:
    found: dict[str, Sums] = {}
    places = dict.fromkeys(arrays, 0)
    for name, label, dtype, shape in table:
        sums = found.setdefault(name, {})
        if not dtype:
            continue
        start = places[dtype]
        places[dtype] = stop = start + int(np.prod(shape, dtype=np.int64))
        sums[label] = arrays[dtype][start:stop].reshape(shape)
    if places != {dtype: len(array) for dtype, array in arrays.items()}:
        raise ValueError("more or fewer numbers than the table says")
    return found


def forget_stale(folder: Path) -> None:
    """Remove what a process that was killed left half-written."""
    for partial in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                partial.unlink()
