"""Sets of pictures as tables: one row per picture, with its label; no picture is in memory until it is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from explorer.data.images import Found, ImageSet, images_in, write_image
from explorer.data.reading import BadRow, DataFile, Raw
from explorer.errors import DataError, near, sentence
from explorer.evaluation.pictures import PictureError

FOLDER = "images"
COLUMNS = ("image", "label")


def open_pictures(path: Path, split: str = "test", *, image: str = "image", label: str = "label") -> DataFile:
    """A zip or a folder of images, or a Parquet file with a column of them; where folders name splits, one of these.

    Raises DataError where there are none, for a set that passes a limit (a zip bomb), and for an unknown split.
    """
    found = images_in(path, image=image, label=label)
    splits = sorted({row.split for row in found.rows if row.split})
    if splits and split not in splits:
        must = "split must be one that the folders name"
        raise DataError(sentence(path.name, must, repr(split), near(split, splits)))
    kept = {i: row for i, row in enumerate(found.rows, start=1) if row.split in ("", split)}
    notes = [f"{len(kept):,} of {len(found.rows):,} images are of the split {split}"] if splits else []
    kind = "zip of images" if path.suffix.lower() == ".zip" else "images"
    rows = partial(_rows, found, kept)
    pictures = partial(_contents, found, kept)
    return DataFile(path, kind, COLUMNS, rows, unit="image", notes=tuple(notes), pictures=pictures)


def _rows(found: ImageSet, kept: Mapping[int, Found]) -> Iterator[Raw | BadRow]:
    for number, row in kept.items():
        yield Raw(number, {"image": row.name, "label": row.label})
    for number, problem in enumerate(found.problems, start=len(found.rows) + 1):
        yield BadRow(number, problem.removesuffix("."))


def _contents(found: ImageSet, kept: Mapping[int, Found]) -> Iterator[tuple[int, bytes]]:
    return ((n, content) for n, content in enumerate(found.contents(), start=1) if n in kept)


def copy_pictures(data: DataFile, numbers: set[int], folder: Path) -> tuple[dict[int, str], list[BadRow]]:
    """Copies the chosen images into `folder/images` under new names, one after the other: number -> path from there.

    What is no picture by its content is listed instead.
    """
    (folder / FOLDER).mkdir()
    copied: dict[int, str] = {}
    refused: list[BadRow] = []
    for number, content in data.pictures() if data.pictures else ():
        if number not in numbers:
            continue
        try:
            copied[number] = f"{FOLDER}/{write_image(content, folder / FOLDER, f'{number:06d}')}"
        except PictureError as error:
            refused.append(BadRow(number, str(error)))
    return copied, refused
