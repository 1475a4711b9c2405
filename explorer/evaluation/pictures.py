"""Pictures of evaluation tasks: one file each, or many in one NumPy file; as red, green and blue.

A picture is named by its file, `cat.png`, or by its place in an `.npz` file, `test.npz#12`, whose array `images` holds
[n, height, width] or [n, height, width, 3] of uint8.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is opened; other readers of Pillow call programs or read formats that hold no photographs."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARRAY_BYTES = 1 << 30
"""The largest array of pictures in one file, unpacked."""


class PictureError(Exception):
    """Why a picture cannot be used, as the end of a sentence: `must …; got …`."""


def file_of(place: str) -> tuple[str, int | None]:
    """The file and the place in it: `("test.npz", 12)` of `test.npz#12`, `("cat.png", None)` of a single picture."""
    file, mark, number = place.rpartition("#")
    return (file, int(number)) if mark and file.endswith(".npz") and number.isdecimal() else (place, None)


def picture_name(place: str) -> str:
    """A picture's name for people: without the folder."""
    file, number = file_of(place)
    return Path(file).name + ("" if number is None else f"#{number}")


class Pictures:
    """Reads pictures by their names; an `.npz` file is read once."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def check(self, place: str) -> None:
        """Raise PictureError where the name, the file's head or the size forbids its use; decodes nothing."""
        file, number = file_of(place)
        if number is not None:
            self._of_array(file, number)
            return
        from PIL import Image

        with _opened(place) as image:
            pixels, most = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if most is not None and pixels > most:
                got = f"{image.width} x {image.height}"
                raise PictureError(f"must have at most {most:,} pixels; got {got}")

    def rgb(self, place: str) -> Image:
        """The picture in RGB, turned as its EXIF orientation says; the first frame of several.

        Transparency is dropped and palettes and grey are widened, as transformers does; of 16 bits of grey the upper
        8 are kept. Raises PictureError.
        """
        from PIL import Image, ImageOps

        file, number = file_of(place)
        if number is not None:
            return Image.fromarray(self._of_array(file, number)).convert("RGB")
        self.check(place)
        try:
            with _opened(place) as image:
                image.load()
                turned = ImageOps.exif_transpose(image)
        except PictureError:
            raise
        except Exception as error:  # a broken file may fail anywhere in a decoder
            raise PictureError(f"must be a whole picture; got {_short(error)}") from error
        return _eight_bits(turned).convert("RGB")

    def _of_array(self, file: str, number: int) -> np.ndarray:
        if file not in self._arrays:
            self._arrays[file] = _array(Path(file))
        array = self._arrays[file]
        if number >= len(array):
            raise PictureError(f"must be one of the {len(array)} pictures of {Path(file).name}; got number {number}")
        return np.ascontiguousarray(array[number])


def _opened(path: str) -> Image:
    """The file, its head read."""
    from PIL import Image

    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise PictureError(f"must have at most {most // 2:,} pixels; got more than twice as many") from error
    except Exception as error:
        known = ", ".join(FORMATS)
        raise PictureError(f"must be a picture ({known}); got {_short(error, path)}") from error


def _eight_bits(image: Image) -> Image:
    from PIL import Image as Pillow

    if image.mode.startswith("I;16"):
        return Pillow.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise PictureError(f"must have 8 or 16 bits per value; got Pillow's mode {image.mode}")
    return image


def _array(path: Path) -> np.ndarray:
    must = "must be an .npz file with an array `images`, uint8, [n, height, width] or [n, height, width, 3]"
    try:
        with zipfile.ZipFile(path) as packed:
            sizes = {i.filename: i.file_size for i in packed.infolist()}
        if sizes.get("images.npy", 0) > ARRAY_BYTES:
            raise PictureError(f"must unpack to at most {ARRAY_BYTES:,} bytes; got {sizes['images.npy']:,}")
        with np.load(path, allow_pickle=False) as arrays:
            array: Any = arrays["images"]
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"{must}; got {_short(error)}") from error
    if array.dtype != np.uint8 or not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)) or not array.size:
        raise PictureError(f"{must}; got {array.dtype} {list(array.shape)}")
    return array


def _short(error: Exception, path: str = "") -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "none of these" if Path(path).stat().st_size else "an empty file"
    return " ".join(str(error).split())[:120] or type(error).__name__
