"""Writes a checkpoint folder that appears whole or not at all.

    with FolderWriter(out_dir) as writer:
        writer.plan({name: (shape, dtype)})
        writer.add_tensor(name, tensor)          # any order; or write_flat, slice by slice
        writer.add_file(base / "tokenizer.json")
        writer.add_text("README.md", card)

Everything goes into a hidden folder beside the target and is renamed at the end. Shapes are known up front, so
headers are written first and each tensor goes straight to its place: memory is bounded by one slice. Several threads
may write pieces of tensors at once. With `resume_key`, what a killed run of the same key had written is taken up.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from explorer.checkpoints.safetensors import CODES, write_header
from explorer.checkpoints.shards import Plan, Slot, WrittenFile, split, write_all, written
from explorer.checkpoints.staging import Staging
from explorer.errors import OutputError, near, sentence

SHARD_BYTES = 5 * 10**9
FILE_MODE = 0o644
"""Whoever serves a model is often another user than the one who made it; the umask may still take rights away."""
_BLOCK_BYTES = 1 << 22
_SYNC_BYTES = 1 << 28  # after so many bytes the disk gets to work, so that not all is left for the end
_SPARE_BYTES = 1 << 20  # for config, tokenizer, card; a full disk is noticed later all the same
_PLAIN_NAME = re.compile(r"[^\s./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}")
_INDEX = ".safetensors.index.json"


class FolderWriter:
    """A context manager that writes one checkpoint folder; `write_piece` and `read_back` from any thread.

    `overwrite`: replace an earlier checkpoint folder at the end; a target that holds anything else is refused.
    `shard_bytes`: a file is closed before it would pass this; a larger tensor gets a file of its own.
    `stem`: what weight files are called, such as "adapter_model".
    `metadata`: text values for the header of every weight file, beside {"format": "pt"}.
    `resume_key`: names everything that the weights depend on. What a run of the same key left that was killed is taken
    up: `resumed` is then True, and `notes` hold what that run had noted of its pieces.
    Leaving the `with` block by any exception removes what was written; an earlier folder stays as it was.
    Raises OutputError when the target is taken, the disk is or becomes full, or a planned tensor is missing.
    """

    def __init__(
        self,
        out_dir: Path | str,
        *,
        overwrite: bool = False,
        shard_bytes: int = SHARD_BYTES,
        stem: str = "model",
        metadata: Mapping[str, str] | None = None,
        resume_key: str | None = None,
    ) -> None:
        self.shard_bytes = shard_bytes
        self._stem = stem
        self._metadata = {"format": "pt", **(metadata or {})}
        self._staging = Staging(Path(out_dir), overwrite=overwrite, resume_key=resume_key)
        self._slots: dict[str, Slot] = {}
        self._open: dict[str, BinaryIO] = {}
        self._names: list[str] = []
        self._lock = threading.Lock()
        self._unsynced_bytes = 0
        self._finished = False

    @property
    def out_dir(self) -> Path:
        """The folder that will appear."""
        return self._staging.target

    @property
    def folder(self) -> Path:
        """The hidden folder, while it is being filled."""
        return self._staging.folder

    @property
    def names(self) -> tuple[str, ...]:
        """The files begun so far."""
        return tuple(self._names)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a killed run of the same key noted; nothing for a new folder."""
        return self._staging.notes

    def note(self, text: str) -> None:
        """Note one line for a later run of the same key; nothing without a key."""
        self._staging.note(text)

    @property
    def files(self) -> tuple[WrittenFile, ...]:
        """Every file of the finished folder with its checksum, read now; nothing before the end."""
        names = sorted(self._names) if self._finished else ()
        return tuple(written(self.out_dir / name) for name in names)

    def __enter__(self) -> FolderWriter:
        self._staging.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._close()
            self._staging.discard()  # nothing left to discard after a successful finish

    def plan(self, tensors: Plan) -> None:
        """Declare every tensor's shape and dtype, in the order in which shards fill; checks the free space.

        Raises OutputError when they do not fit on the disk; ValueError (a programming error) for a second plan or
        a dtype that safetensors cannot hold.
        """
        unknown = sorted({str(dtype) for _, dtype in tensors.values() if dtype not in CODES})
        if self._slots or unknown:
            raise ValueError(f"plan must be given once, with dtypes of safetensors; got {unknown or 'a second plan'}")
        with self._staging.guard("the weights"):
            shards = split(tensors, self.shard_bytes)
            total_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values())
            self._staging.require_space(total_bytes + _SPARE_BYTES)
            for number, names in enumerate(shards, start=1):
                part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
                file = f"{self._stem}{part}.safetensors"
                self._begin_shard(file, {n: tensors[n] for n in names})
        if len(shards) > 1:
            weight_map = {n: self._slots[n].shard for n in sorted(self._slots)}
            index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
            self.add_text(f"{self._stem}{_INDEX}", json.dumps(index, indent=1, ensure_ascii=False) + "\n")

    def _begin_shard(self, file: str, tensors: Plan) -> None:
        header, offsets = write_header([(n, shape, dtype) for n, (shape, dtype) in tensors.items()], self._metadata)
        stream = self._create(file)
        self._open[file] = stream
        write_all(stream.fileno(), memoryview(header), 0)
        for name, (shape, dtype) in tensors.items():
            self._slots[name] = Slot(file, tuple(shape), dtype, offsets[name])

    def add_tensor(self, name: str, tensor: Tensor) -> None:
        """Write one whole tensor, of the planned shape and dtype. Raises as `write_flat`."""
        slot = self._slot(name)
        if tuple(tensor.shape) != slot.shape:
            raise ValueError(f"{name} must have the planned shape {slot.shape}; got {tuple(tensor.shape)}")
        self.write_flat(name, 0, tensor.reshape(-1))

    def write_flat(self, name: str, start: int, values: Tensor) -> None:
        """Write elements [start, start + n) of one tensor, flattened; slices of a tensor come in ascending order.

        Raises OutputError when it cannot be written; ValueError (a programming error) for a tensor that was not
        planned, another dtype, or a slice that does not continue the one before.
        """
        slot = self._slot(name)
        if values.dtype != slot.dtype or values.dim() != 1:
            raise ValueError(f"{name} must be flat {slot.dtype} as planned; got {values.dim()}-D {values.dtype}")
        if start != slot.written or start + values.numel() > slot.numel:
            must = f"{name} must continue at {slot.written} and end by {slot.numel}"
            raise ValueError(f"{must}; got [{start}, {start + values.numel()})")
        self._put(name, slot, start, values)

    def write_piece(self, name: str, start: int, values: Tensor) -> None:
        """Write elements [start, start + n) of one tensor, flattened; in any order, from any thread, each once.

        Raises as `write_flat`.
        """
        slot = self._slot(name)
        if values.dtype != slot.dtype or values.dim() != 1 or not 0 <= start <= slot.numel - values.numel():
            raise ValueError(f"{name} must be flat {slot.dtype} within {slot.numel}; got {start} + {values.numel()}")
        if start in slot.starts:
            raise ValueError(f"{name} must be written once; got [{start}, …) again")
        self._put(name, slot, start, values)

    def _put(self, name: str, slot: Slot, start: int, values: Tensor) -> None:
        raw = values.detach().cpu().contiguous().view(torch.uint8).numpy()
        handle = self._open[slot.shard].fileno()
        with self._staging.guard(f"tensor {name}"):
            write_all(handle, raw.data, slot.offset_bytes + start * slot.dtype.itemsize)
            if self._count(slot, start, values.numel()):
                os.fsync(handle)

    def _count(self, slot: Slot, start: int, elements: int) -> bool:
        """Remember that these elements are there; whether it is time for the disk to have them."""
        with self._lock:
            slot.starts.add(start)
            slot.written += elements
            self._unsynced_bytes += elements * slot.dtype.itemsize
            due = self._unsynced_bytes >= _SYNC_BYTES
            self._unsynced_bytes = 0 if due else self._unsynced_bytes
        return due

    def read_back(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of elements [start, stop) as they lie on the disk now; fewer where the file is shorter."""
        slot = self._slot(name)
        size = slot.dtype.itemsize
        with self._staging.guard(f"tensor {name}"):
            return os.pread(self._open[slot.shard].fileno(), (stop - start) * size, slot.offset_bytes + start * size)

    def keep(self, name: str, start: int, stop: int) -> None:
        """Count elements that a killed run has written, and that were read back and found right."""
        self._count(self._slot(name), start, stop - start)

    def _slot(self, name: str) -> Slot:
        if name not in self._slots:
            raise ValueError(f"tensor {name!r} was not planned. {near(name, self._slots)}")
        return self._slots[name]

    def add_file(self, source: Path, name: str | None = None) -> None:
        """Copy a file's bytes (not its mode) into the folder, under `name` or its own name. Raises OutputError."""
        name = name or source.name
        try:
            reader = open(source, "rb")  # noqa: SIM115 - closed below; only opening it is the source's fault
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            advice = "Check the path. Nothing half-written remains."
            raise OutputError(sentence(str(source), "must be readable to be copied", reason, advice)) from error
        with reader, self._staging.guard(f"file {name}"), self._create(name) as stream:
            offset = 0
            while block := reader.read(_BLOCK_BYTES):
                write_all(stream.fileno(), memoryview(block), offset)
                offset += len(block)
            os.fsync(stream.fileno())

    def add_text(self, name: str, text: str) -> None:
        """Write a UTF-8 text file into the folder. Raises OutputError."""
        with self._staging.guard(f"file {name}"), self._create(name) as stream:
            write_all(stream.fileno(), memoryview(text.encode("utf-8")), 0)
            os.fsync(stream.fileno())

    def _create(self, name: str) -> BinaryIO:
        if not _PLAIN_NAME.fullmatch(name) or name in self._names:
            raise ValueError(f"a file needs a plain name that is not taken yet; got {name!r}")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        again = self._staging.notes and name.endswith(".safetensors")  # the weights of a killed run
        handle = os.open(self._staging.folder / name, flags | (0 if again else os.O_EXCL), FILE_MODE)
        self._names.append(name)
        return open(handle, "r+b", buffering=0)

    def _finish(self) -> None:
        missing = [n for n, slot in self._slots.items() if slot.written < slot.numel]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            must = "every planned tensor must be written in full before the folder is finished"
            raise OutputError(
                sentence(str(self.out_dir), must, f"{shown} incomplete", "This is a fault of the caller.")
            )
        self.sync()
        self._close()
        self._staging.publish()
        self._finished = True

    def sync(self) -> None:
        """Wait until all weights are on the disk; reading them back then reads the disk, where the system can."""
        with self._staging.guard("the weights"):
            for stream in self._open.values():
                os.fsync(stream.fileno())
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
