"""Images that people bring, as the rows of a table: an image and the label that its folder names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from explorer.data.reading import DataFile
from explorer.errors import DataError, sentence


def open_pictures(path: Path) -> DataFile:
    """A zip or a folder of images, one folder per label. Raises DataError where there are none."""
    advice = "Bring CSV, TSV, JSON lines or Parquet."
    raise DataError(sentence(path.name, "must hold rows of data", "nothing that can be read", advice))


def write_picture(image: Any, folder: Path, name: str) -> str:
    """Keeps one image beside the split; its path from there."""
    raise DataError(sentence(name, "must be an image", type(image).__name__, "Bring a zip of images."))
