"""What turns pictures into what a model takes: the image settings of a checkpoint folder, with a digest.

transformers' own image processor resizes and crops, through Pillow; the result stays uint8, a quarter of the memory.
Rescaling and normalising map each of 256 levels of a channel to a number, whatever its neighbours, so they are a table
[3, 256], read off the same processor and applied when a batch is answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explorer.errors import CheckpointError, DataError, all_problems, sentence
from explorer.evaluation._api import Example, Field, Row
from explorer.evaluation._locks import TRANSFORMERS
from explorer.evaluation.pictures import PictureError, Pictures, picture_name
from explorer.seeds import digest_of

IMAGE = Field(
    "image", "image", "the picture: a file beside the split's, or one of many: test.npz#12",
    ("image", "img", "picture", "file", "file_name", "filename", "path"),
)  # fmt: skip
PATCH = 256
"""Pixels that count as one token in the size of a batch: a patch of 16 x 16."""
DECODED_BYTES = 2 << 30
"""The most that the pictures of one split may take at the model's size, as uint8."""
_SHOWN_AT_MOST = 20
_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, eq=False)
class Images:
    """Image settings: equal digests give equal numbers. `levels` [3, 256] float32: what a channel's level becomes."""

    processor: Any
    levels: Tensor
    digest: str

    @property
    def call(self) -> Images:
        """What a kind's hooks are handed."""
        return self

    def pixels(self, places: Sequence[str]) -> np.ndarray:
        """Pictures at the model's size, uint8 [n, 3, height, width].

        Raises DataError naming every picture that cannot be used, pictures that end up with different sizes (settings
        that resize one edge and do not crop), and more than DECODED_BYTES of them.
        """
        pictures, problems = Pictures(), []
        decoded: np.ndarray | None = None
        for row, place in enumerate(places):
            try:
                shaped = _shaped(self.processor, pictures.rgb(place))
            except PictureError as error:
                problems.append(f"row {row + 1}: {picture_name(place)} {error}. Mend or remove the row.")
                continue
            if decoded is None:
                _require_room(len(places), shaped.nbytes)
                decoded = np.empty((len(places), *shaped.shape), dtype=np.uint8)
            if shaped.shape != decoded.shape[1:]:
                must = "the model's image settings must give all pictures one size"
                got = f"{_size(decoded[0])} and {_size(shaped)}"
                raise DataError(sentence("images", must, got, "Set size to {height, width}, or do_center_crop."))
            decoded[row] = shaped
        if problems:
            more = [f"… and {len(problems) - _SHOWN_AT_MOST} more"] if len(problems) > _SHOWN_AT_MOST else []
            raise DataError(all_problems("images", [*problems[:_SHOWN_AT_MOST], *more]))
        return decoded if decoded is not None else np.empty((0, 3, 1, 1), dtype=np.uint8)


def load_images(folder: Path | str) -> Images:
    """The image settings of a checkpoint folder, read from its own files only.

    Raises CheckpointError when it has none, or such as do more than resize, crop, rescale and normalise.
    """
    folder = Path(folder)
    advice = "Copy preprocessor_config.json from the base's folder."
    if not any((folder / name).is_file() for name in _FILES):
        raise CheckpointError(sentence(str(folder), "needs image settings to score pictures", "none", advice))
    try:
        with TRANSFORMERS:
            from transformers import AutoImageProcessor

            processor = AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, backend="pil"
            )
        levels = _levels(processor)
        plain = _is_plain(processor, levels)
    except Exception as error:
        got = " ".join(str(error).split())[:300] or type(error).__name__
        must = "must hold image settings that transformers can read"
        raise CheckpointError(sentence(str(folder), must, got, advice)) from error
    if not plain:
        must = "image settings must resize, crop, rescale and normalise, and nothing else"
        advice = "Use a model whose pictures are prepared by these steps."
        raise CheckpointError(sentence(str(folder), must, type(processor).__name__, advice))
    settings = {k: v for k, v in processor.to_dict().items() if not k.startswith("_")}
    known = json.dumps(settings, sort_keys=True, default=str)
    return Images(processor, torch.from_numpy(levels), digest_of(known, levels.tobytes().hex()))


def _shaped(processor: Any, picture: Any) -> np.ndarray:
    """[3, height, width] uint8: resized and cropped only."""
    off = {k: False for k in ("do_rescale", "do_normalize", "include_top") if hasattr(processor, k)}
    return np.asarray(processor(images=picture, **off)["pixel_values"][0])


def _levels(processor: Any) -> np.ndarray:
    """[3, 256] float32: what the processor makes of every level of every channel."""
    every = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256)).copy()
    off = {k: False for k in ("do_resize", "do_center_crop", "do_pad") if hasattr(processor, k)}
    made = processor(images=every, input_data_format="channels_first", **off)["pixel_values"][0]
    return np.ascontiguousarray(np.asarray(made, dtype=np.float32)[:, 0])


def _is_plain(processor: Any, levels: np.ndarray) -> bool:
    """Whether the table and the shape together are all that the processor does, tried on a picture of noise."""
    from PIL import Image

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (67, 90, 3), dtype=np.uint8))
    shaped, whole = _shaped(processor, noise), np.asarray(processor(images=noise)["pixel_values"][0])
    if shaped.dtype != np.uint8 or shaped.shape != whole.shape or len(shaped) != 3:
        return False
    return bool(np.array_equal(np.stack([levels[c][shaped[c]] for c in range(3)]), whole))


def _require_room(count: int, each: int) -> None:
    if count * each > DECODED_BYTES:
        got = f"{count:,} of {each:,} bytes each"
        must = f"pictures of a split must take at most {DECODED_BYTES >> 30} GiB at the model's size"
        raise DataError(sentence("images", must, got, f"Take a subset of {DECODED_BYTES // each:,}."))


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[2]} x {picture.shape[1]}"


def prepared_images(rows: Sequence[Row], images: Images) -> list[Example]:
    """Rows with an `image` as examples of uint8 [3, height, width]. Raises DataError as `Images.pixels`."""
    return [Example(p, max(1, p[0].size // PATCH)) for p in images.pixels([row["image"] for row in rows])]


def image_batch(examples: Sequence[Example], images: Images) -> dict[str, Tensor]:
    """`pixels` [n, 3, height, width] uint8 and `levels` [3, 256]."""
    return {"pixels": torch.from_numpy(np.stack([e.values for e in examples])), "levels": images.levels}


def pixel_values(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """[n, 3, height, width] in the module's dtype: the numbers that transformers' image processor gives."""
    levels, pixels = batch["levels"], batch["pixels"].int()
    dtype = next(module.parameters()).dtype
    return torch.stack([levels[c][pixels[:, c]] for c in range(3)], dim=1).to(dtype)


def answered(module: nn.Module, batch: Mapping[str, Tensor], **others: Tensor) -> Any:
    """The module's output for a batch of pictures. Raises DataError for a size that the module does not take."""
    values = pixel_values(module, batch)
    try:
        return module(pixel_values=values, **others)
    except ValueError as error:
        if "image size" not in str(error):
            raise
        must = "preprocessor_config.json must give pictures of the size that config.json says"
        got = f"{values.shape[3]} x {values.shape[2]}"
        advice = f"Take both files from the same base. {str(error).rstrip('.')}."
        raise DataError(sentence("images", must, got, advice)) from error


def image_problem(row: Row) -> str | None:
    """What is wrong with a row's `image` as it is written, or None; the file itself is looked at later."""
    image = row.get("image")
    if not isinstance(image, str):
        return f"image must name a file; got {'nothing' if image is None else type(image).__name__}"
    return None if image.strip() else "image must name a file; got an empty text"
