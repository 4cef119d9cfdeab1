"""Reads the records of published data sets from local files: JSON lines, gzipped or not, and parquet."""

import dataclasses
import functools
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from famjax.data.corpus_files import CorpusFile, corpus_files
from famjax.data.json_objects import BadRecordError, Fields, json_object
from famjax.data.task_config import Documents
from famjax.errors import FamjaxError

_JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_PARQUET = (".parquet",)
_SETTINGS_OF_DOCUMENTS = re.compile(
    r"\bDocuments\.(?=(?:paths|validation_paths|validation_fraction|bad_records|cache_dir)\b)"
)


class UnreadableError(Exception):
    """A whole file, or data set, that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A record that is not decoded yet, so that one bad record is not the end of its file.

    Attributes:
      place: where it is: file and line, file and row, or data set and number.
      number: the line, row or number, counted from 1 (TFDS: from 0).
      decode: gives its fields; BadRecordError where it has none.
    """

    place: str
    number: int
    decode: Callable[[], Fields]


def renamed(error: FamjaxError, config: object) -> FamjaxError:
    """An error about settings of `Documents`, as one about those of the same names of `config`."""
    return type(error)(_SETTINGS_OF_DOCUMENTS.sub(f"{type(config).__name__}.", str(error)))


def local_files(paths: tuple[str, ...], config: object) -> tuple[CorpusFile, ...]:
    """The files of globs, sorted by name; DataError of an empty glob, which names the settings of `config`."""
    try:
        return tuple(corpus_files(Documents(validation_paths=paths), "validation"))
    except FamjaxError as error:
        raise renamed(error, config) from error


def read_file(path: str, columns: Sequence[str]) -> Iterator[Record]:
    """Yields the records of a file, in order.

    Args:
      path: its name tells its form: .jsonl or .ndjson (behind which .gz may stand), or .parquet.
      columns: the fields that are wanted, as "document.text"; of a parquet file no others are read.

    Raises:
      UnreadableError: no file of these forms, or one that is broken off.
    """
    try:
        if path.endswith(_PARQUET):
            yield from _parquet_records(path, columns)
        elif path.endswith(_JSON_LINES):
            with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as stream:
                for line, raw in enumerate(stream, start=1):
                    if raw.strip():
                        yield Record(f"{path}:{line}", line, functools.partial(json_object, raw))
        else:
            raise UnreadableError(f"{path}: allowed: files whose names end in {', '.join(_JSON_LINES + _PARQUET)}.")
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"{path}: cannot be read: {error}") from error


def _parquet_records(path: str, columns: Sequence[str]) -> Iterator[Record]:
    """The rows of a parquet file; of a file without any of the columns, all fields, so that they can be told."""
    import pyarrow as pa
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = [name for name in columns if name.split(".")[0] in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=64, columns=names or None):
                for number in range(batch.num_rows):
                    row += 1
                    yield Record(f"{path}, row {row}", row, functools.partial(_row, batch.slice(number, 1)))
    except pa.ArrowException as error:
        raise UnreadableError(f"{path}: cannot be read as parquet: {error}") from error


def _row(batch: Any) -> Fields:
    """The fields of the only row of a record batch."""
    try:
        (row,) = batch.to_pylist()
    except UnicodeDecodeError as error:
        raise BadRecordError(f"a text that is not UTF-8: {error.reason}, byte {error.start}", "undecodable") from None
    return row


def text_field(fields: Any, *names: str) -> str:
    """The text at `fields[names[0]][names[1]]...`; BadRecordError where there is none, or an empty one."""
    path = ".".join(names)
    for name in names:
        if not isinstance(fields, Mapping) or name not in fields:
            known = ", ".join(map(repr, fields)) if isinstance(fields, Mapping) and fields else "none"
            raise BadRecordError(f"no field {path!r}; what should have {name!r} has {known}", "missing_field")
        fields = fields[name]
    if not isinstance(fields, str):
        raise BadRecordError(f"field {path!r} is not a string", "missing_field")
    if not fields.strip():
        raise BadRecordError(f"field {path!r} is empty", "missing_field")
    try:
        fields.encode()
    except UnicodeEncodeError as error:
        reason = f"field {path!r} has half of a surrogate pair, character {error.start}, which no UTF-8 text can hold"
        raise BadRecordError(reason, "undecodable") from None
    return fields
