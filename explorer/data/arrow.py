"""Parquet files and saved folders of `datasets`, through pyarrow, which is loaded on first use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from explorer.data.reading import BadRow, DataFile, Raw
from explorer.errors import DataError, sentence
from explorer.evaluation import LABEL

_BATCH_ROWS = 512


def open_parquet(*paths: Path) -> DataFile:
    """One table in one Parquet file or several. Raises DataError where they cannot be read."""
    parquet = _pyarrow(paths[0], "parquet")
    with _readable(paths[0]):
        schema = parquet.ParquetFile(paths[0]).schema_arrow
    if image := _image_column(schema):
        from explorer.data.pictures import open_pictures

        return open_pictures(paths[0], image=image, label=_label_column(schema, image))
    rows = partial(_numbered, partial(_parquet_batches, paths))
    return DataFile(paths[0], "parquet", tuple(schema.names), rows, unit="row", names=_names(schema.metadata))


def open_arrow(folder: Path, files: Sequence[Path]) -> DataFile:
    """A split that `datasets` saved with save_to_disk. Raises DataError where it cannot be read."""
    ipc = _pyarrow(folder, "ipc")
    with _readable(files[0]), open(files[0], "rb") as file:
        schema = ipc.open_stream(file).schema
    rows = partial(_numbered, partial(_arrow_batches, files))
    return DataFile(folder, "datasets folder", tuple(schema.names), rows, unit="row", names=_names(schema.metadata))


def _parquet_batches(paths: Sequence[Path]) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    for path in paths:
        with _readable(path):
            yield from parquet.ParquetFile(path).iter_batches(_BATCH_ROWS)


def _arrow_batches(files: Sequence[Path]) -> Iterator[Any]:
    import pyarrow.ipc as ipc

    for path in files:
        with _readable(path), open(path, "rb") as file:
            for batch in ipc.open_stream(file):
                yield from (batch.slice(start, _BATCH_ROWS) for start in range(0, batch.num_rows, _BATCH_ROWS))


def _numbered(batches: Any) -> Iterator[Raw | BadRow]:
    number = 0
    for batch in batches():
        for values in batch.to_pylist():
            number += 1
            yield Raw(number, values)


def _image_column(schema: Any) -> str:
    """The column that holds pictures: bytes alone, or beside a path as `datasets` keeps them; empty for none."""
    found = [f.name for f in schema if str(f.type).startswith(("binary", "large_binary", "struct<bytes: binary"))]
    return found[0] if found else ""


def _label_column(schema: Any, image: str) -> str:
    """The column that goes by a usual name for labels, or the first other one."""
    others = [n for n in schema.names if n != image]
    return next((n for n in others if n.lower() in LABEL.names), others[0] if others else "label")


def _names(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """What whole numbers stand for, from the features that `datasets` keeps with a table; nothing where it does not."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        names = inner.get("names") if isinstance(inner, dict) else None
        if isinstance(names, list) and all(isinstance(n, str) for n in names):
            found[column] = tuple(names)
    return found


def _pyarrow(path: Path, part: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"pyarrow.{part}")
    except ImportError as error:
        must, advice = "needs pyarrow to be read", "Install it with `pip install pyarrow`, or bring CSV or JSON lines."
        raise DataError(sentence(path.name, must, "a Python without it", advice)) from error


class _readable:  # noqa: N801 - reads as a word
    """Turns what pyarrow raises into a DataError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        if isinstance(error, (pyarrow.ArrowException, OSError)):
            got = " ".join(str(error).split())[:200]
            advice = "Write the file again, or bring CSV or JSON lines."
            raise DataError(sentence(self._path.name, "must be a readable table", got, advice)) from error
