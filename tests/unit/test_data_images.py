"""Sets of pictures that people bring: what is found, what is refused, and what a hostile zip cannot do."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explorer.data.images import Limits, copy_images, images_in
from explorer.errors import DataError, OutputError


def png(value: int = 0, side: int = 4) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8)).save(made, "PNG")
    return made.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


SET = {"train/cat/2.png": png(1), "train/cat/1.PNG": png(2), "test/dog/a b.png": png(3), "notes.txt": b"hello",
       ".DS_Store": b"", "__MACOSX/cat/._1.png": b"", "root.png": png(4), "train/dog/broken.png": b"\x89PNG\r\nno",
       "train/dog/text.png": b"this is a text", "train/dog/empty.png": b""}  # fmt: skip


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_tree_gives_labels_splits_and_every_problem(kind: str, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "set", SET) if kind == "folder" else zipped(tmp_path / "set.zip", SET)
    found = images_in(path)
    names = [(r.name, r.label, r.split) for r in found.rows]
    assert names[0] == ("test/dog/a b.png", "dog", "test")
    assert [n for n, _, _ in names[1:]] == [
        "train/cat/1.PNG", "train/cat/2.png", "train/dog/broken.png", "train/dog/text.png"]  # fmt: skip
    assert found.labels == ("cat", "dog")
    copied = copy_images(found, tmp_path / "task")
    assert [r["image"] for r in copied.rows] == ["images/000001.png", "images/000002.png", "images/000003.png"]
    assert [(r["label"], r["split"]) for r in copied.rows] == [("dog", "test"), ("cat", "train"), ("cat", "train")]
    assert sorted(p.name for p in (tmp_path / "task" / "images").iterdir()) == [
        "000001.png",
        "000002.png",
        "000003.png",
    ]
    assert (tmp_path / "task" / "images" / "000001.png").read_bytes() == SET["test/dog/a b.png"]
    said = "\n".join(copied.problems)
    assert "notes.txt: must be a picture" in said and "root.png: must lie in a folder named after its label" in said
    assert "train/dog/empty.png: must have 1 to" in said and "train/dog/text.png: must be a picture" in said
    assert "train/dog/broken.png: must be a picture" in said and len(copied.problems) == 5
    with pytest.raises(OutputError, match="must not be there yet"):
        copy_images(found, tmp_path / "task")


def test_a_zip_cannot_reach_outside_nor_link(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", {"cat/ok.png": png(), "../cat/up.png": png(), "/etc/cat/root.png": png(),
                                         "C:/cat/drive.png": png(), "cat/..\\..\\back.png": png()})  # fmt: skip
    with zipfile.ZipFile(path, "a") as packed:
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
    found = images_in(path)
    assert [r.name for r in found.rows] == ["cat/ok.png"]
    assert len(found.problems) == 5 and sum("leads elsewhere" in p for p in found.problems) == 4
    assert any("cat/link.png: must be a file; got a link" in p for p in found.problems)
    copy_images(found, tmp_path / "task")
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == ["000001.png"]


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    folder_of(tmp_path / "set", {"cat/1.png": png()})
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "set" / "cat" / "2.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "set" / "cat")
    found = images_in(tmp_path / "set")
    assert [r.name for r in found.rows] == ["cat/1.png"]
    assert found.problems == tuple(f"{n}: must not be a link; got one. Mend it or leave it out." for n in (
        "cat/2.png", "dog"))  # fmt: skip


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {"cat/1.png": png(), "cat/zeros.png": bytes(8 << 20)})
    found = images_in(bomb)
    assert [r.name for r in found.rows] == ["cat/1.png"] and "at most 200 times its size" in found.problems[0]
    many = {f"cat/{i}.png": png(i) for i in range(12)}
    with pytest.raises(DataError, match="must hold at most 10 pictures"):
        images_in(zipped(tmp_path / "many.zip", many), limits=Limits(pictures=10))
    with pytest.raises(DataError, match="must unpack to at most 200 bytes"):
        images_in(zipped(tmp_path / "large.zip", many), limits=Limits(total_bytes=200))
    wide = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(wide, "PNG")  # 110 kB that say 900 million pixels
    copied = copy_images(images_in(zipped(tmp_path / "wide.zip", {"cat/1.png": png(), "cat/w.png": wide.getvalue()})),
                         tmp_path / "task")  # fmt: skip
    assert len(copied.rows) == 1 and "must have at most 89,478,485 pixels" in copied.problems[0]


def test_a_zip_that_lies_about_sizes_or_is_damaged_loses_that_picture_only(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", {"cat/1.png": png(1), "cat/2.png": png(2, side=40)})
    content = bytearray(path.read_bytes())
    place = content.index(b"cat/2.png") + len(b"cat/2.png") + 8
    content[place : place + 20] = bytes(20)
    path.write_bytes(content)
    copied = copy_images(images_in(path), tmp_path / "task")
    assert [r["image"] for r in copied.rows] == ["images/000001.png"] and "cat/2.png" in copied.problems[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.zip", b"no zip", "must be a zip that can be read"),
        ("a.tar", b"", "must be a folder, a .zip or a .parquet file of pictures; got a .tar file"),
        ("none.zip", None, "got nothing of that name"),
    ],
)
def test_what_is_no_set_is_refused(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        images_in(tmp_path / name)


def test_a_set_without_usable_pictures_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold pictures; got none that can be used; 1.png: must lie in a folder"):
        images_in(zipped(tmp_path / "flat.zip", {"1.png": png()}))


def test_parquet_as_datasets_writes_it(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    images = [{"bytes": png(1), "path": "../x.png"}, {"bytes": None, "path": "y.png"}, {"bytes": png(2), "path": None}]
    table = arrow.table({"image": images, "label": [1, 0, 0]})
    path = tmp_path / "set.parquet"
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    found = images_in(path)
    assert [(r.name, r.label) for r in found.rows] == [("row 1", "dog"), ("row 3", "cat")]
    assert found.labels == ("cat", "dog")
    copied = copy_images(found, tmp_path / "task")
    assert (tmp_path / "task" / copied.rows[1]["image"]).read_bytes() == png(2)
    assert copied.problems == ("row 2: must hold the picture's bytes; got nothing. Mend it or leave it out.",)
    with pytest.raises(DataError, match="must have a column 'picture'"):
        images_in(path, image="picture")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="must be a Parquet file that can be read"):
        images_in(tmp_path / "broken.parquet")
