"""Reads documents from one file: text, or JSON lines; gzipped or not."""

import collections
import dataclasses
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from famjax.data.corpus_files import CorpusFile
from famjax.data.json_objects import BadRecordError, how_to_skip, json_object
from famjax.data.task_config import Documents
from famjax.errors import DataError

_JSON_LINES = (".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
      text: of the whole document.
      line: where it begins in its file, counted from 1.
    """

    text: str
    line: int


class _BadRecordError(Exception):
    """A record that cannot be used: why, on which line, and under which name it is counted."""

    def __init__(self, reason: str, line: int, kind: str) -> None:
        super().__init__(reason)
        self.line, self.kind = line, kind


def read_documents(file: CorpusFile, config: Documents, skipped: collections.Counter[str]) -> Iterator[Document]:
    """Yields the documents of a file in order.

    Args:
      file: what is read.
      config: says what a bad record does, and which field of a JSON record is its text.
      skipped: bad records that are left out are counted here, by kind.

    Raises:
      DataError: names the file and the line.
    """
    is_json = file.path.removesuffix(".gz").endswith(_JSON_LINES)
    try:
        with gzip.open(file.path) if file.path.endswith(".gz") else Path(file.path).open("rb") as stream:
            lines = enumerate(stream, start=1) if is_json else [(1, stream.read())]
            for line, raw in lines:
                try:
                    yield from _record(raw, line, config.field) if is_json else [Document(_decode(raw, line), line)]
                except _BadRecordError as bad:
                    if config.bad_records == "error":
                        raise DataError(f"{file.path}:{bad.line}: {bad} ({how_to_skip(config)})") from None
                    skipped[bad.kind] += 1
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.path}: cannot be read: {error}") from error


def _decode(raw: bytes, line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        bad_line = line + raw.count(b"\n", 0, error.start)
        reason = f"byte {error.start} of it, 0x{raw[error.start]:02x}, is not UTF-8: {error.reason}"
        raise _BadRecordError(reason, bad_line, "undecodable") from None


def _record(raw: bytes, line: int, field: str) -> Iterator[Document]:
    """The document of one line of JSON; none of a blank line."""
    if not raw.strip():
        return
    try:
        record = json_object(raw)
    except BadRecordError as bad:
        raise _BadRecordError(str(bad), line, bad.kind) from None
    if field not in record:
        names = ", ".join(map(repr, record)) or "none"
        raise _BadRecordError(f"no field {field!r} (Documents.field); the record has {names}", line, "missing_field")
    if not isinstance(record[field], str):
        raise _BadRecordError(f"field {field!r} is not a string", line, "missing_field")
    try:
        record[field].encode()
    except UnicodeEncodeError as error:
        reason = f"field {field!r} has half of a surrogate pair, character {error.start}, which no UTF-8 text can hold"
        raise _BadRecordError(reason, line, "undecodable") from None
    yield Document(record[field], line)
