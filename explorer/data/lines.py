"""Lines of a text file in bounded memory, with the exact place of the first byte that is no text."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from explorer.errors import DataError, sentence

ENCODINGS = ("auto", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1")
"""What a file may be read as. auto: what its byte order mark says, else UTF-8."""
MAX_LINE = 1 << 20
"""Characters of one line that are kept; a longer line is cut, and its row counts as bad."""
_CHUNK_BYTES = 1 << 16
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Line:
    """One line without its end; `cut` where it was longer than MAX_LINE."""

    number: int
    text: str
    cut: bool = False


def encoding_of(path: Path, encoding: str = "auto") -> str:
    """The codec to read a file with. Raises DataError for a file that is no text, or an unknown encoding."""
    if encoding not in ENCODINGS:
        must = "encoding must be one of " + ", ".join(ENCODINGS)
        raise DataError(sentence(path.name, must, repr(encoding), "The default is auto."))
    with open(path, "rb") as file:
        head = file.read(4096)
    if encoding != "auto":
        return "utf-8-sig" if encoding == "utf-8" else encoding
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return codec
    if head.count(0) > len(head) // 4:
        got = f"{head.count(0):,} NUL bytes among the first {len(head):,}"
        advice = "If it is UTF-16 without a byte order mark, choose the encoding utf-16-le or utf-16-be."
        raise DataError(sentence(path.name, "must be text", got, advice))
    return "utf-8-sig"


def lines_of(path: Path, codec: str) -> Iterator[Line]:
    """Every line of a text file, numbered from 1; line ends may be \\n, \\r\\n or \\r.

    A line and a chunk are in memory. Raises DataError naming the byte and the line where the bytes are
    no text of this encoding.
    """
    number, held = 1, ""
    for text in _decoded(path, codec):
        first, *others = text.split("\n")
        held = held + first[: MAX_LINE + 1 - len(held)]  # one more than is kept says that it was cut
        for line in others:
            yield _line(number, held)
            number, held = number + 1, line[: MAX_LINE + 1]
    if held:
        yield _line(number, held)


def _line(number: int, text: str) -> Line:
    return Line(number, text[:MAX_LINE], cut=len(text) > MAX_LINE)


def _decoded(path: Path, codec: str) -> Iterator[str]:
    """The text in chunks, every line end as \\n."""
    plain = codecs.getincrementaldecoder(codec)()
    decoder = io.IncrementalNewlineDecoder(plain, translate=True)
    offset = line = 0
    with open(path, "rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            waiting = len(plain.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                before = _newlines(error, codec)
                raise _no_text(path, codec, error, offset - waiting, line + before + 1) from error
            yield text
            if not chunk:
                return
            offset, line = offset + len(chunk), line + text.count("\n")


def _newlines(error: UnicodeDecodeError, codec: str) -> int:
    """Line ends in the part of the chunk that could be read; UTF-16 remembers its byte order elsewhere."""
    good = bytes(error.object[: error.start])
    return good.count(b"\n") if "16" not in codec else good.count(b"\n\x00") or good.count(b"\x00\n")


def _no_text(path: Path, codec: str, error: UnicodeDecodeError, start: int, line: int) -> DataError:
    name = "UTF-8" if codec.startswith("utf-8") else codec.upper()
    byte = start + error.start
    got = f"byte 0x{error.object[error.start]:02x} at position {byte:,} (line {line:,}), which is none"
    advice = "Choose the encoding cp1252 (Windows) or latin-1, look at the first rows, or save the file as UTF-8."
    return DataError(sentence(path.name, f"must be {name} text", got, advice))
