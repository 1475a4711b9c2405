"""Checkpoints on disk: opened lazily, checked against each other, written whole or not at all."""

from __future__ import annotations

from explorer.checkpoints.find import find_checkpoints
from explorer.checkpoints.handle import Checkpoint, TensorInfo
from explorer.checkpoints.opening import open_checkpoint

__all__ = ["Checkpoint", "TensorInfo", "find_checkpoints", "open_checkpoint"]
