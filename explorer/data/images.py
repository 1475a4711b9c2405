"""Sets of labelled pictures that people bring: a folder tree, a zip, or a Parquet file.

    found = images_in(Path("pets.zip"))              # lists them; reads no picture
    copied = copy_images(found, task_folder)         # writes images/000001.png, … and says what each row is

The label of a picture is the name of the folder it lies in; folders above it named train, test, … are its split.
Nothing of a picture's own name reaches the disk: it is untrusted text. What cannot be used is listed, never dropped in
silence; a set that is no set, or breaks a limit, is refused whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from explorer.errors import DataError, OutputError, sentence
from explorer.evaluation.pictures import ENDINGS, PictureError, Pictures
from explorer.executor import CancelToken

SPLITS = ("train", "training", "tune", "val", "valid", "validation", "dev", "test", "testing", "eval")
_LITTER = ("thumbs.db", "desktop.ini", "__macosx")
_MAGIC = (
    (b"\x89PNG\r\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
    (b"II*\x00", ".tif"), (b"MM\x00*", ".tif"),
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a set may hold at most: pictures, bytes of all and of one unpacked, and how far one may have been packed."""

    pictures: int = 100_000
    total_bytes: int = 4 << 30
    picture_bytes: int = 64 << 20
    ratio: int = 200


@dataclass(frozen=True)
class Found:
    """One picture: its name in the set, its label and split ("" where the set names none)."""

    name: str
    label: str
    split: str = ""


@dataclass(frozen=True)
class ImageSet:
    """Pictures in a fixed order, what is wrong with others, and how to get at the bytes.

    `labels`: in the order that the set gives them, else sorted. `contents()` yields every row's bytes in order, empty
    for a picture that cannot be unpacked.
    """

    rows: tuple[Found, ...]
    problems: tuple[str, ...]
    contents: Callable[[], Iterator[bytes]] = field(repr=False)
    named: tuple[str, ...] = ()
    limits: Limits = Limits()

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label once."""
        return self.named or tuple(sorted({row.label for row in self.rows}))


@dataclass(frozen=True)
class Copied:
    """Rows of a split's file, each {"image": "images/000001.png", "label": text, "split": text}, and all problems."""

    rows: tuple[dict[str, str], ...]
    problems: tuple[str, ...]


def images_in(path: Path, *, limits: Limits = Limits(), image: str = "image", label: str = "label") -> ImageSet:
    """The set at `path`: a folder, a `.zip` or a `.parquet` file; `image` and `label` name a Parquet file's columns.

    Raises DataError for anything else, for a set without pictures, and for one that passes a limit.
    """
    from explorer.data import parquet_images, zipped_images

    kinds: dict[str, Callable[[], ImageSet]] = {
        ".zip": lambda: zipped_images.images_in_zip(path, limits),
        ".parquet": lambda: parquet_images.images_in_parquet(path, limits, image, label),
    }
    if path.is_dir():
        found = images_in_folder(path, limits)
    elif path.suffix.lower() in kinds and path.is_file():
        found = kinds[path.suffix.lower()]()
    else:
        got = f"a {path.suffix} file" if path.is_file() else "nothing of that name"
        must, advice = "must be a folder, a .zip or a .parquet file of pictures", "Give one of these."
        raise DataError(sentence(path.name, must, got, advice))
    if not found.rows:
        got = f"none that can be used; {found.problems[0]}" if found.problems else "none"
        advice = "Put each picture in a folder named after its label, such as cat/1.png."
        raise DataError(sentence(path.name, "must hold pictures", got.rstrip("."), advice))
    return found


def images_in_folder(root: Path, limits: Limits = Limits()) -> ImageSet:
    """Pictures of a folder tree in the order of their names; links are not followed."""
    rows, problems, total = [], [], 0
    for path in _files(root):
        name = path.relative_to(root).as_posix()
        if is_litter(name):
            continue
        size = path.lstat().st_size
        wrong = "must not be a link; got one" if path.is_symlink() else picture_problem(name, size, limits)
        if wrong:
            problems.append(problem(name, wrong))
            continue
        total += size
        rows.append(named_by_folders(name))
        require_limits(root.name, len(rows), total, limits)
    return ImageSet(tuple(rows), tuple(problems), lambda: ((root / r.name).read_bytes() for r in rows), limits=limits)


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir(), key=lambda p: p.name):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def is_litter(name: str) -> bool:
    """Whether an operating system left this: it is passed over."""
    parts = PurePosixPath(name).parts
    return any((p.startswith(".") and not p.startswith("..")) or p.lower() in _LITTER for p in parts)


def named_by_folders(name: str) -> Found:
    """Label and split of a picture from the folders it lies in."""
    *above, label = PurePosixPath(name).parent.parts
    return Found(name, label, next((p.lower() for p in reversed(above) if p.lower() in SPLITS), ""))


def picture_problem(name: str, size: int, limits: Limits) -> str | None:
    """What name and size say against a picture, or None."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in ENDINGS:
        return f"must be a picture ({', '.join(ENDINGS)}); got {path.suffix or 'no ending'}"
    if len(path.parts) < 2:
        return "must lie in a folder named after its label; got no folder"
    if not 0 < size <= limits.picture_bytes:
        return f"must have 1 to {limits.picture_bytes:,} bytes; got {size:,}"
    return None


def problem(name: str, wrong: str) -> str:
    """One picture's problem as a line."""
    return f"{name}: {wrong}. Mend it or leave it out."


def require_limits(who: str, pictures: int, total_bytes: int, limits: Limits) -> None:
    """Raise DataError where a whole set is too large."""
    if pictures > limits.pictures:
        must = f"must hold at most {limits.pictures:,} pictures"
        raise DataError(sentence(who, must, "more", "Take a part of them: a few hundred per label say enough."))
    if total_bytes > limits.total_bytes:
        must = f"must unpack to at most {limits.total_bytes:,} bytes"
        raise DataError(sentence(who, must, "more", "Take a part of them, or make the pictures smaller."))


def copy_images(found: ImageSet, folder: Path, *, cancel: CancelToken | None = None) -> Copied:
    """Copies the pictures into `folder/images` under new names; each is checked by its content, none is decoded.

    The folder `images` must not be there yet; nothing of it remains when this raises: OutputError where it cannot be
    written, DataError where the contents turn out larger than the set said, Cancelled.
    """
    target = folder / "images"
    try:
        target.mkdir(parents=True)
        return _copied(found, target, cancel)
    except FileExistsError as error:
        raise OutputError(sentence(str(target), "must not be there yet", "a folder", "Choose a new one.")) from error
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        reason = (error.strerror or str(error)).lower()
        raise OutputError(sentence(str(target), "must be writable", reason, "Free some space, try again.")) from error
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _copied(found: ImageSet, target: Path, cancel: CancelToken | None) -> Copied:
    rows: list[dict[str, str]] = []
    problems, total = list(found.problems), 0
    for row, content in zip(found.rows, found.contents(), strict=True):
        if cancel:
            cancel.check("copying pictures")
        total += len(content)
        require_limits("pictures", 0, total, found.limits)
        try:
            name = write_image(content, target, f"{len(rows) + 1:06d}")
        except PictureError as error:
            problems.append(problem(row.name, str(error)))
            continue
        rows.append({"image": f"{target.name}/{name}", "label": row.label, "split": row.split})
    return Copied(tuple(rows), tuple(problems))


def write_image(content: bytes, folder: Path, stem: str) -> str:
    """Writes one picture as `folder/stem` with the ending that its content has; the file's name.

    Raises PictureError, and leaves no file, where the content is no picture, or says that it has too many pixels.
    """
    ending = ending_of(content)
    if not ending:
        raise PictureError(f"must be a picture ({', '.join(ENDINGS)}); got other content")
    file = folder / f"{stem}{ending}"
    file.write_bytes(content)
    try:
        Pictures().check(str(file))
    except PictureError:
        file.unlink()
        raise
    return file.name


def ending_of(content: bytes) -> str:
    """The ending that fits a picture's first bytes; empty for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((ending for magic, ending in _MAGIC if content.startswith(magic)), "")
