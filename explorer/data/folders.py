"""A local folder of data: what `datasets` saved, or one file per split."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from explorer.data.reading import DataFile, open_data
from explorer.errors import DataError, PathError, near, sentence

_TABLES = (".parquet", ".jsonl", ".csv", ".tsv", ".json")
_SHARD = re.compile(r"-\d+-of-\d+$")
T = TypeVar("T")
_NO_DATA = ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json")


def open_folder(folder: Path, split: str, encoding: str = "auto", allowed: Sequence[Path] | None = None) -> DataFile:
    """One split of a folder: of a `datasets` dictionary, of a `datasets` folder without splits, of files named after
    their splits (`test.csv`, `data/test-00000-of-00002.parquet`), or of images, one folder per label.

    Raises DataError for an unknown split (near names offered) and a folder without data.
    """
    if (folder / "dataset_dict.json").is_file():
        return _saved(_chosen(folder, {s: folder / s for s in _named_splits(folder)}, split), allowed)
    if (folder / "state.json").is_file():
        return _saved(folder, allowed)
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        files = sorted(place.iterdir()) if place.is_dir() else []
        for file in (f for f in files if f.suffix.lower() in _TABLES and f.name not in _NO_DATA and f.is_file()):
            found.setdefault(_SHARD.sub("", file.stem), []).append(file)
    if not found:
        from explorer.data.pictures import open_pictures

        return open_pictures(folder, split)
    files = _chosen(folder, found, split) if len(found) > 1 or split in found else next(iter(found.values()))
    _require_allowed(folder, files, allowed)
    if len(files) > 1 and files[0].suffix.lower() == ".parquet":
        from explorer.data.arrow import open_parquet

        return open_parquet(*files)
    if len(files) > 1:
        got = ", ".join(f.name for f in files[:5])
        raise DataError(sentence(folder.name, f"must hold one file for {split}", got, "Name the file itself."))
    return open_data(files[0], encoding=encoding)


def _chosen(folder: Path, splits: Mapping[str, T], split: str) -> T:
    if split not in splits:
        raise DataError(
            sentence(folder.name, "split must be one that the folder has", repr(split), near(split, splits))
        )
    return splits[split]


def _named_splits(folder: Path) -> list[str]:
    try:
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = "Save the dataset again with save_to_disk."
        raise DataError(
            sentence(folder.name, "dataset_dict.json must name splits", "something else", advice)
        ) from error
    return [n for n in names if isinstance(n, str) and re.fullmatch(r"\w[\w.-]*", n)]


def _saved(folder: Path, allowed: Sequence[Path] | None) -> DataFile:
    from explorer.data.arrow import open_arrow

    files = sorted(folder.glob("*.arrow"))
    if not files:
        advice = "Save the dataset again with save_to_disk."
        raise DataError(sentence(folder.name, "must hold .arrow files", "none", advice))
    _require_allowed(folder, files, allowed)
    return open_arrow(folder, files)


def _require_allowed(folder: Path, files: Sequence[Path], allowed: Sequence[Path] | None) -> None:
    """Refuse links inside the folder that lead out of the allowed ones."""
    for file in files if allowed is not None else ():
        if not any(file.resolve().is_relative_to(root.resolve()) for root in allowed or ()):
            must, advice = "must lie in an allowed folder", "Copy the file into the folder."
            raise PathError(sentence(f"{folder.name}/{file.name}", must, "a link that leads out of it", advice))
