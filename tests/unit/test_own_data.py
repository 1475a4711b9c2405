"""Reading tables that people bring: formats, encodings, bad rows with their numbers, and bounded memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from explorer.data import BadRow, DataFile, Raw, open_data
from explorer.data.sampling import sample_rows, shares
from explorer.errors import DataError, PathError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def good(data: DataFile) -> list[tuple[int, dict[str, object]]]:
    return [(r.number, dict(r.values)) for r in data.rows() if isinstance(r, Raw)]


def bad(data: DataFile) -> list[tuple[int, str]]:
    return [(r.number, r.why) for r in data.rows() if isinstance(r, BadRow)]


def test_a_quote_may_hold_delimiters_and_line_ends_and_rows_keep_their_first_line(tmp_path: Path) -> None:
    text = 'text,label\r\n"one, ""two""\r\nthree",a\r\n\r\n=HYPERLINK("x"),b\r\n'
    data = open_data(written(tmp_path, "a.csv", text.replace('=HYPERLINK("x")', '"=HYPERLINK(""x"")"')))
    assert data.columns == ("text", "label")
    # A formula is text like any other.
    assert good(data) == [
        (2, {"text": 'one, "two"\nthree', "label": "a"}),
        (5, {"text": '=HYPERLINK("x")', "label": "b"}),
    ]


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "|"), ("a.tsv", "\t")])
def test_the_delimiter_is_found_out(tmp_path: Path, name: str, sign: str) -> None:
    rows = [
        "text,label".replace(",", sign),
        *(f"word {i}; and, more{sign}{i % 2}".replace("; ", " ") for i in range(9)),
    ]
    rows = [r if sign != "," else r.replace(" and,", " and") for r in rows]
    data = open_data(written(tmp_path, name, "\n".join(rows)))
    assert data.columns == ("text", "label") and len(good(data)) == 9 and not bad(data)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read(tmp_path: Path, codec: str) -> None:
    data = open_data(written(tmp_path, "a.csv", "text,label\nfür,ä\n漢字,b\n".encode(codec)))
    assert [v["text"] for _, v in good(data)] == ["für", "漢字"]


def test_a_wrong_encoding_names_the_byte_and_the_line_and_the_way_out(tmp_path: Path) -> None:
    lines = ["text,label", *("plain,a" for _ in range(20_000)), "für,a"]  # beyond the first chunk
    content = "\n".join(lines).encode("latin-1")
    path = written(tmp_path, "a.csv", content)
    data = open_data(path)
    with pytest.raises(DataError) as caught:
        good(data)
    said = str(caught.value)
    assert f"byte 0xfc at position {content.index(0xFC):,} (line 20,002)" in said and "cp1252" in said
    assert good(open_data(path, encoding="cp1252"))[-1] == (20_002, {"text": "für", "label": "a"})
    with pytest.raises(DataError, match="encoding must be one of"):
        open_data(path, encoding="klingon")


def test_utf_16_without_a_mark_is_offered_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label\nfür,a\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="utf-16-le"):
        open_data(path)
    assert good(open_data(path, encoding="utf-16-le")) == [(2, {"text": "für", "label": "a"})]


def test_bad_rows_are_listed_with_their_lines(tmp_path: Path) -> None:
    text = "text,label\na,1\nb\nc,1,2\nd\0,1\ne,2\n"
    data = open_data(written(tmp_path, "a.csv", text))
    assert [n for n, _ in good(data)] == [2, 6]
    assert bad(data) == [
        (3, "must have 2 cells, as the header has; got 1"),
        (4, "must have 2 cells, as the header has; got 3"),
        (5, "must hold text; got a NUL character"),
    ]
    lines = '{"text": "a"}\n[1]\nnot json\n\n{"text": "b"}\n' + "[" * 100_000 + "\n"
    data = open_data(written(tmp_path, "a.jsonl", lines))
    assert [n for n, _ in good(data)] == [1, 5] and [n for n, _ in bad(data)] == [2, 3, 6]


def test_double_and_empty_names_in_the_header_become_different(tmp_path: Path) -> None:
    data = open_data(written(tmp_path, "a.csv", "text,text,,label\na,b,c,d\n"))
    assert data.columns == ("text", "text (2)", "column 3", "label")
    assert any("'text' twice" in note for note in data.notes)


def test_a_json_list_is_read_alone_or_inside_one_object(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 0}, 3, {"text": "b", "label": 1}]
    for number, value in enumerate((rows, {"version": 1, "data": rows})):
        data = open_data(written(tmp_path, f"{number}.json", json.dumps(value, indent=1)))
        assert data.unit == "item" and [n for n, _ in good(data)] == [1, 3] and [n for n, _ in bad(data)] == [2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "an empty file"),
        ("a.csv", b"\n\n", "name the columns"),
        ("a.xlsx", b"PK", "must be one of"),
        ("a.jsonl", b"1\n2\n", "JSON objects"),
        ("a.json", b'[{"a": 1}', "must be JSON"),
        ("a.csv", b"\0" * 5000, "NUL bytes"),
        ("a.csv", b",".join(b"c%d" % i for i in range(1001)), "at most 1,000 columns"),
    ],
)
def test_what_is_no_table_says_why(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_data(written(tmp_path, name, content))


def test_paths_stay_inside_the_allowed_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", written(tmp_path, "secret.csv", "text,label\na,b\n")
    inside.mkdir()
    (inside / "link.csv").symlink_to(outside)
    (inside / "data").mkdir()
    (inside / "data" / "test.csv").symlink_to(outside)
    for path in (outside, inside / ".." / "secret.csv", inside / "link.csv", inside):
        with pytest.raises(PathError, match="allowed folder"):
            open_data(path, allowed=[inside])


def test_a_folder_gives_the_split_that_is_asked_for(tmp_path: Path) -> None:
    written(tmp_path, "train.csv", "text,label\na,0\n")
    written(tmp_path, "test.jsonl", '{"text": "b", "label": 1}\n')
    assert good(open_data(tmp_path))[0][1]["text"] == "b"
    assert good(open_data(tmp_path, split="train"))[0][1]["text"] == "a"
    with pytest.raises(DataError, match="Did you mean 'test'"):
        open_data(tmp_path, split="tests")


def test_an_endless_line_and_an_open_quote_are_bad_rows_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with open(path, "wb") as file:
        file.write(b"text,label\ngood,1\n")
        file.write(b"x" * 20_000_000 + b"\n")
        file.write(b'"never closed,1\n' + b"line,1\n" * 40_000)
    tracemalloc.start()
    try:
        found = list(open_data(path).rows())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refused = [r for r in found if isinstance(r, BadRow)]
    assert isinstance(found[0], Raw) and [r.number for r in refused][:2] == [3, 4]
    assert "quote" in refused[1].why and peak < 12_000_000


def test_two_gigabytes_are_refused_or_read_without_holding_them(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label\nlong enough to look like a text,1\n" * 200)
    os.truncate(path, 2 << 30)  # sparse: nothing is written
    tracemalloc.start()
    try:
        data = open_data(path)
        assert len(data.first(5)) == 5
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_the_sample_is_seeded_keeps_shares_and_says_what_it_read() -> None:
    rows = [Raw(i, {"label": "rare" if i % 100 == 0 else "common", "at": i}) for i in range(1, 10_001)]
    counts = {"common": 9900, "rare": 100}

    def usable(row: Raw) -> tuple[str, object] | str:
        return "odd one" if row.number == 7 else (str(row.values["label"]), row.values["at"])

    drawn = [sample_rows(rows, usable, examples=200, seed=s, counts=counts) for s in (0, 0, 1)]
    assert drawn[0].rows == drawn[1].rows != drawn[2].rows
    assert (drawn[0].n_read, drawn[0].n_bad, len(drawn[0].rows)) == (10_000, 1, 200)
    assert [b.number for b in drawn[0].bad] == [7]
    assert sum(n % 100 == 0 for n, _ in drawn[0].rows) == 2
    # Every row is as likely: the mean place of many draws is the middle.
    places = [n for s in range(40) for n, _ in sample_rows(rows, usable, examples=100, seed=s).rows]
    assert abs(sum(places) / len(places) - 5000) < 3 * 2887 / len(places) ** 0.5


def test_shares_add_up_and_leave_no_label_out() -> None:
    assert shares({"a": 3, "b": 2}, 10) == {"a": 3, "b": 2}
    assert shares({"a": 997, "b": 2, "c": 1}, 10) == {"a": 8, "b": 1, "c": 1}
    assert sum(shares({str(i): i + 1 for i in range(50)}, 100).values()) == 100
    assert len(shares({str(i): 1 for i in range(50)}, 20)) == 20


def test_parquet_and_datasets_folders_bring_their_label_names(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet is read where pyarrow is installed")
    import pyarrow.ipc as ipc
    import pyarrow.parquet as parquet

    features = {"label": {"names": ["ham", "spam"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = arrow.table({"text": [f"t{i}" for i in range(1200)], "label": [i % 2 for i in range(1200)]})
    table = table.replace_schema_metadata(told)
    parquet.write_table(table, tmp_path / "a.parquet")
    saved = tmp_path / "saved" / "test"
    saved.mkdir(parents=True)
    (saved.parent / "dataset_dict.json").write_text('{"splits": ["test"]}')
    (saved / "state.json").write_text("{}")
    with ipc.new_stream(saved / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    for path in (tmp_path / "a.parquet", tmp_path / "saved"):
        data = open_data(path)
        assert data.names == {"label": ("ham", "spam")} and data.unit == "row"
        assert good(data)[-1] == (1200, {"text": "t1199", "label": 1})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(DataError, match="readable table"):
        open_data(tmp_path / "b.parquet")
