"""A split of a published data set: questions in memory, each document once, in a memory-mapped file."""

import array
import collections
import dataclasses
import functools
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from famjax.data.json_objects import BadRecordError, how_to_skip
from famjax.data.questions.dataset_files import Record, UnreadableError, local_files, read_file
from famjax.data.questions.published_forms import Item, columns_of, item_of
from famjax.data.questions.reading_config import PublishedData
from famjax.data.questions.tfds_records import read_tfds
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError, DataError
from famjax.plurals import counted


@dataclasses.dataclass(frozen=True)
class Entry:
    """One question; the attributes of `Item`, with its document as a number."""

    document: int
    question: str
    references: tuple[str, ...]
    choices: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split.

    Attributes:
      entries: its questions, or its documents where nothing is asked.
      text: uint8, the different documents one after another, in UTF-8, in a file that has no name.
      starts: int64 [documents + 1], where each begins.
      skipped: bad records that were left out, by kind.
    """

    entries: tuple[Entry, ...]
    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    skipped: dict[str, int]

    def document(self, number: int) -> str:
        """The text of a document."""
        return self.text[self.starts[number] : self.starts[number + 1]].tobytes().decode()


def open_dataset(config: PublishedData, split: str) -> Dataset:
    """Reads a split once for all its readers in this process.

    Raises:
      ConfigError: neither files nor a data set of TFDS are named.
      DataError: an empty glob or split, a bad record, a file that cannot be read; TFDS has not prepared the data set.
    """
    paths = config.split_paths(split)
    if not paths:
        return _open(config, split, (), ())
    files = tuple(file.path for file in local_files(paths, config))
    try:
        stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in map(Path.stat, map(Path, files)))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return _open(config, split, files, stamps)


@functools.lru_cache(maxsize=8)
def _open(config: PublishedData, split: str, files: tuple[str, ...], stamps: tuple[tuple[int, int], ...]) -> Dataset:
    """`stamps` are there to tell files apart from what they were before."""
    del stamps
    try:
        with tempfile.TemporaryFile(prefix="famjax-documents-") as stream:
            return _read(config, split, files, stream)
    except UnreadableError as error:
        kind = type(config).__name__
        raise DataError(
            f"{error}\nSet {kind}.{config.paths_setting(split)} to local files, or {kind}.tfds_name, tfds_data_dir and "
            f"tfds_{split}_split to what TFDS has prepared."
        ) from error
    except OSError as error:
        raise DataError(
            f"{tempfile.gettempdir()}: documents cannot be kept there: {error.strerror or error} (set TMPDIR)"
        ) from error


def _records(config: PublishedData, split: str, files: tuple[str, ...]) -> Iterator[Record]:
    """The records of local files, or else of TFDS."""
    kind = type(config).__name__
    if files:
        for path in files:
            yield from read_file(path, columns_of(config))
    elif config.paths or config.validation_paths or config.tfds_name is None:
        raise ConfigError(
            f"{kind} has no files for the {split} split: set --gin.{kind}.{config.paths_setting(split)}=\"['...']\""
            f" (globs of .jsonl, .jsonl.gz or .parquet files), or --gin.{kind}.tfds_name for a data set of TFDS alone."
        )
    else:
        yield from read_tfds(config.tfds_name, config.tfds_data_dir, config.tfds_split(split))


def _items(
    config: PublishedData, split: str, files: tuple[str, ...], skipped: collections.Counter[str]
) -> Iterator[Item]:
    """What the records hold; bad ones are an error, or counted in `skipped`."""
    for record in _records(config, split, files):
        try:
            yield item_of(record.decode(), config)
        except BadRecordError as bad:
            if config.bad_records == "error":
                raise DataError(f"{record.place}: {bad} ({how_to_skip(config)})") from None
            skipped[bad.kind] += 1


def _read(config: PublishedData, split: str, files: tuple[str, ...], stream: IO[bytes]) -> Dataset:
    """Puts each different document into `stream` once, and questions of the same key together."""
    skipped: collections.Counter[str] = collections.Counter()
    starts, numbers = array.array("q", [0]), dict[bytes, int]()
    entries, of_key = list[Entry](), dict[str, int]()
    for item in _items(config, split, files, skipped):
        text = item.document.encode()
        number = numbers.setdefault(hashlib.sha256(text).digest(), len(numbers))
        if number == len(starts) - 1:
            stream.write(text)
            starts.append(starts[-1] + len(text))
        same = len(entries) if item.key is None else of_key.setdefault(item.key, len(entries))
        if same < len(entries):
            references = dict.fromkeys((*entries[same].references, *item.references))
            entries[same] = dataclasses.replace(entries[same], references=tuple(references))
        else:
            entries.append(Entry(number, item.question, item.references, item.choices))
    if not entries:
        place = f"{counted(len(files), 'file')} from {files[0]} on" if files else f"{config.tfds_name} of TFDS"
        raise DataError(
            f"The {split} split of {type(config).__name__} has no record, in {place} (skipped: {dict(skipped)})."
        )
    stream.flush()
    return Dataset(tuple(entries), np.asarray(np.memmap(stream, np.uint8, "r")), np.array(starts), dict(skipped))


@functools.lru_cache(maxsize=8)
def encode_document(dataset: Dataset, number: int, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Encodes a document [n]; the few that were asked for last are kept, whatever reads them."""
    return vocabulary.encode(dataset.document(number))
