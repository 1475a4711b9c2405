"""A checkpoint: a small immutable handle; tensors are read one name, or one slice, at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from explorer.checkpoints.files import FileStamp, file_digest, known_digest, read_into
from explorer.errors import CheckpointError, near, sentence
from explorer.seeds import digest_of

MERGEABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes whose stored values are the weights themselves. 8-bit floats need scales kept elsewhere, so they are not."""


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies and what it is; `offset_bytes` counts from the beginning of `file`."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    offset_bytes: int

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.numel * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """True for 16-, 32- and 64-bit floats: values that can be subtracted and added."""
        return self.dtype in MERGEABLE_DTYPES


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint on disk. Holds no open file and no weights; hashable and picklable.

    Two are equal when they are the same path with the same unchanged files. Reading from a file that was removed,
    truncated or replaced since it was opened raises CheckpointError: what was inspected is what is merged.
    """

    path: Path
    name: str
    format: str
    infos: tuple[TensorInfo, ...]
    stamps: tuple[FileStamp, ...]
    config: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and (self.path, self.stamps) == (other.path, other.stamps)

    def __hash__(self) -> int:
        return hash((self.path, self.stamps))

    def __reduce__(self) -> tuple[Any, ...]:
        # Cached properties stay behind: a mapping proxy cannot be pickled, and they are cheap to make again.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {self.format}, {len(self.infos)} tensors)"

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """What it holds, tensor name -> TensorInfo, in ascending name order."""
        return MappingProxyType({info.name: info for info in self.infos})

    @property
    def on_disk(self) -> Checkpoint:
        """What lies at `path`: itself, or the adapter alone for an adapter that was put on its base."""
        return self

    @cached_property
    def _stamp_of(self) -> dict[Path, FileStamp]:
        return {stamp.path: stamp for stamp in self.stamps}

    @property
    def digest(self) -> str:
        """Digest of the weight files' bytes: reads them once, then remembered while they stay the same."""
        return digest_of("checkpoint", *[file_digest(stamp) for stamp in self.stamps])

    @property
    def known_digest(self) -> str | None:
        """The digest where it is remembered, else None: reads no weights."""
        parts = [known_digest(stamp) for stamp in self.stamps]
        return None if None in parts else digest_of("checkpoint", *parts)

    def file_digest(self, file: Path) -> str:
        """Digest of the bytes of one of its weight files."""
        return file_digest(self._stamp_of[file])

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.infos)

    @property
    def parameter_count(self) -> int:
        """Elements of all float tensors."""
        return sum(info.numel for info in self.infos if info.is_float)

    @property
    def architecture(self) -> str:
        """The config's first architecture, else its model_type, else "unknown"."""
        named = self.config.get("architectures")
        if isinstance(named, list) and named and isinstance(named[0], str):
            return named[0]
        model_type = self.config.get("model_type")
        return model_type if isinstance(model_type, str) and model_type else "unknown"

    @property
    def dtypes(self) -> dict[str, int]:
        """Elements per dtype, such as {"float16": 8446080}, most frequent first."""
        counts: Counter[str] = Counter()
        for info in self.infos:
            counts[str(info.dtype).removeprefix("torch.")] += info.numel
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def info(self, name: str) -> TensorInfo:
        """What is known of one tensor. Raises CheckpointError with near names."""
        if name not in self.tensors:
            must = "must be asked for a tensor that it holds"
            raise CheckpointError(sentence(str(self.path), must, repr(name), near(name, self.tensors)))
        return self.tensors[name]

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype and shape; fresh memory, so the caller may keep it.

        Raises CheckpointError for an unknown name, or a file that is no longer what was opened.
        """
        info = self.info(name)
        return self._read(info, 0, info.numel).reshape(info.shape)

    def read_flat(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of one tensor, flattened, stored dtype; only these bytes are read.

        Raises CheckpointError as `read`; ValueError (a programming error) for a slice outside the tensor.
        """
        info = self.info(name)
        if not 0 <= start <= stop <= info.numel:
            raise ValueError(f"{name}: slice must lie in [0, {info.numel}]; got [{start}, {stop}]")
        return self._read(info, start, stop)

    def _read(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        size = info.dtype.itemsize
        raw = torch.empty((stop - start) * size, dtype=torch.uint8)
        view = raw.numpy().data
        read_into(self._stamp_of[info.file], info.offset_bytes + start * size, view, who=f"tensor {info.name}")
        return raw.view(info.dtype)
