"""What was measured on a task's data, read from one file: diagonal Fisher values and the Gram matrices of inputs.

A statistics file is a safetensors file with `fisher/NAME` (the shape of tensor NAME, no value below 0) and `gram/NAME`
([in, in] for the linear layer whose weight NAME is stored [out, in]). Its metadata may say `task`, `n` (examples) and
`checkpoint` (the digest of the model it was measured on). `python -m explorer gather` writes such files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from explorer.checkpoints.files import FileStamp
from explorer.checkpoints.handle import Checkpoint
from explorer.checkpoints.opening import open_checkpoint
from explorer.checkpoints.safetensors import read_metadata
from explorer.compute.source import GIVEN_KINDS
from explorer.errors import CheckpointError, sentence

ASYMMETRY = 1e-4
"""How far a Gram matrix may differ from its transpose, as a share of its largest entry: rounding, not a fault."""
_AGAIN = "Run `python -m explorer gather RECIPE OUT_DIR` again."
_LAYOUT = "Give the file that `python -m explorer gather` wrote."
_found: dict[FileStamp, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Given:
    """A statistics file, opened: its header is read, its values only when they are asked for."""

    file: Checkpoint
    task: str
    examples: str
    checkpoint_digest: str

    @property
    def digest(self) -> str:
        """Digest of the file's bytes."""
        return self.file.digest

    def read(self, kind: str, name: str) -> Tensor | None:
        """The statistic of one tensor in its stored dtype, or None where the file has none."""
        key = f"{kind}/{name}"
        return self.file.read(key) if key in self.file.tensors else None

    def size_bytes(self, kind: str, name: str) -> int:
        """Size of what `read` would return; 0 for None."""
        info = self.file.tensors.get(f"{kind}/{name}")
        return info.nbytes if info else 0

    def problems(self, who: str, shapes: Mapping[str, tuple[int, ...]], checkpoint: Checkpoint) -> list[str]:
        """What keeps this file from being used for the merged tensors `shapes` of the task's checkpoint.

        Reads every value once; what was found is remembered for as long as the file stays the same.
        """
        found = _shape_problems(who, self.file, shapes)
        if self.checkpoint_digest and self.checkpoint_digest != checkpoint.digest:
            must = "statistics must be measured on this task's own checkpoint"
            found.append(sentence(who, must, f"those of another one in {self.file.path.name}", _AGAIN))
        return found or [f"{who}: {text}" for text in self._value_problems()]

    def _value_problems(self) -> tuple[str, ...]:
        (stamp,) = self.file.stamps
        if stamp not in _found:
            texts = (value_problem(key, self.file.read(key)) for key in self.file)
            _found[stamp] = tuple(t for t in texts if t)
        return _found[stamp]


def open_given(path: str | Path, *, allowed: Sequence[Path] | None = None) -> Given:
    """Open a statistics file; reads its header only.

    Raises PathError for a file outside `allowed`, CheckpointError when it is no safetensors file or no such file.
    """
    file = open_checkpoint(path, allowed=allowed)
    if file.path.is_dir():
        raise CheckpointError(sentence(str(path), "statistics must be one .safetensors file", "a folder", _LAYOUT))
    other = [key for key in file if key.split("/", 1)[0] not in GIVEN_KINDS or "/" not in key]
    if other:
        must = "a statistics file must hold only fisher/NAME and gram/NAME"
        raise CheckpointError(sentence(str(path), must, ", ".join(other[:3]), _LAYOUT))
    said = read_metadata(file.stamps[0])
    return Given(file, said.get("task", ""), said.get("n", ""), said.get("checkpoint", ""))


def value_problem(key: str, values: Tensor) -> str:
    """What is wrong with the values of one statistic, as a sentence without its subject; empty when nothing is."""
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        return f"{key} must hold finite numbers; got {count} NaN or infinite. {_AGAIN}"
    if key.startswith("fisher/") and values.numel() and bool(values.min() < 0):
        return f"{key} must not be below 0; got {float(values.min()):g}. {_AGAIN}"
    if key.startswith("gram/") and values.numel():
        if values.dim() != 2 or values.shape[0] != values.shape[1]:
            return f"{key} must be a square matrix; got shape {tuple(values.shape)}. {_AGAIN}"
        wide = values.double()
        if bool((wide - wide.T).abs().max() > ASYMMETRY * wide.abs().max()):
            got = f"entries that differ from their mirror images by {float((wide - wide.T).abs().max()):g}"
            return f"{key} must be symmetric; got {got}. {_AGAIN}"
    return ""


def shape_problem(key: str, shape: tuple[int, ...], tensor: tuple[int, ...]) -> str:
    """What is wrong with the shape of one statistic, as a sentence without its subject; empty when nothing is."""
    if key.startswith("fisher/"):
        must = "" if shape == tensor else f"must have the tensor's shape {tensor}"
    elif len(tensor) != 2:
        must = f"must belong to a matrix, not to a tensor of shape {tensor}"
    else:
        must = "" if shape == (tensor[1],) * 2 else f"must be {tensor[1]} × {tensor[1]}, one row per input"
    return f"{key} {must}; got {shape}. {_AGAIN}" if must else ""


def _shape_problems(who: str, file: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    ours = [(key, info, key.split("/", 1)[1]) for key, info in file.tensors.items()]
    fitting = [(key, info, shapes[name]) for key, info, name in ours if name in shapes]
    if not fitting:
        must = "statistics must be of the tensors that are merged"
        return [sentence(who, must, f"none of them in {file.path.name}", _AGAIN)]
    found = []
    for key, info, tensor in fitting:
        text = shape_problem(key, info.shape, tensor)
        text = text or ("" if info.is_float else f"{key} must be floating point; got {info.dtype}. {_AGAIN}")
        found += [f"{who}: {text}"] if text else []
    return found
