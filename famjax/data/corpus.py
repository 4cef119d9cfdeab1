"""A corpus as one long array of tokens in a memory-mapped file, so that memory does not grow with it."""

import array
import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus_files import CorpusFile, corpus_files
from famjax.data.instructions_config import Instructions
from famjax.data.records import read_documents
from famjax.data.task_config import Documents
from famjax.data.vocabularies import Vocabulary
from famjax.errors import DataError
from famjax.plurals import counted

# What a cached corpus raises that is not there, or damaged.
_UNUSABLE = (FileNotFoundError, EOFError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile)


@runtime_checkable
class Encoder(Hashable, Protocol):
    """From a file to its encoded documents; equal encoders encode alike.

    Attributes:
      unit: what a document is called, for messages.
    """

    unit: str

    @property
    def config(self) -> Documents | Instructions:
        """The settings of the task: `cache_dir`, and the names of settings for messages."""

    @property
    def num_values(self) -> int:
        """Encoded values are below this."""

    @property
    def identity(self) -> str:
        """All that the encoded values depend on, besides the files."""

    def encode(self, file: CorpusFile, skipped: collections.Counter[str]) -> Iterator[tuple[NDArray[np.integer], int]]:
        """Yields the documents of a file in order.

        Args:
          file: what is read.
          skipped: bad records that are left out are counted here, by kind.

        Yields:
          The values of a document [n], and the line (or row) where it begins, counted from 1.

        Raises:
          DataError: names the file and the line.
        """


@dataclasses.dataclass(frozen=True)
class DocumentEncoder:
    """Encodes text, closed by the vocabulary's end token if it has one; see `Encoder`. Values are ids."""

    config: Documents
    vocabulary: Vocabulary
    unit = "document"

    @property
    def num_values(self) -> int:
        """See `Encoder`."""
        return self.vocabulary.vocab_size

    @property
    def identity(self) -> str:
        """See `Encoder`."""
        return repr((self.config.field, self.config.bad_records, self.vocabulary.fingerprint))

    def encode(self, file: CorpusFile, skipped: collections.Counter[str]) -> Iterator[tuple[NDArray[np.integer], int]]:
        """See `Encoder`."""
        end = np.array([] if self.vocabulary.eos_id is None else [self.vocabulary.eos_id], np.int32)
        for document in read_documents(file, self.config, skipped):
            ids = self.vocabulary.encode(document.text)
            if ids.size:
                yield np.concatenate([ids, end]), document.line


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded documents.

    Attributes:
      tokens: unsigned int [all tokens], document after document: the values that the encoder gives.
      starts: int64 [documents + 1], where each document begins in `tokens`; the last entry is its length.
      file_numbers: int32 [documents], the file of each.
      lines: int32 [documents], where each document begins in its file.
      skipped: bad records that were left out, by kind.
    """

    tokens: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    file_numbers: NDArray[np.int32]
    lines: NDArray[np.int32]
    skipped: dict[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The encoded documents of one split, and the files they came from."""

    encoded: Encoded
    paths: tuple[str, ...]

    @property
    def totals(self) -> str:
        """How much it is, in words."""
        return f"{len(self.encoded.lines)} documents, {self.encoded.starts[-1]} tokens"

    def place(self, document: int) -> str:
        """Where a document is, as "file:line" (of a parquet file: "file, row number")."""
        path, line = self.paths[self.encoded.file_numbers[document]], self.encoded.lines[document]
        return f"{path}, row {line}" if path.endswith(".parquet") else f"{path}:{line}"


def open_corpus(config: Documents, split: str, vocabulary: Vocabulary) -> Corpus:
    """Encodes the documents of a split; see `open_encoded`.

    Raises:
      DataError: also an empty glob or split.
    """
    return open_encoded(tuple(corpus_files(config, split)), DocumentEncoder(config, vocabulary))


def open_encoded(files: tuple[CorpusFile, ...], encoder: Encoder) -> Corpus:
    """Encodes the documents of files, or finds them encoded already, in this process or in the settings' `cache_dir`.

    Raises:
      DataError: a bad record, a file or folder that cannot be read or written.
    """
    try:
        stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in (Path(file.path).stat() for file in files))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return _open_files(files, stamps, encoder)


@functools.lru_cache(maxsize=8)
def _open_files(files: tuple[CorpusFile, ...], stamps: tuple[tuple[int, int], ...], encoder: Encoder) -> Corpus:
    """Opens a corpus once for all its readers in this process."""
    paths = tuple(file.path for file in files)
    cache_dir = encoder.config.cache_dir
    folder = Path(cache_dir or tempfile.gettempdir()).expanduser()
    try:
        if cache_dir is None:
            with tempfile.TemporaryFile(prefix="famjax-corpus-") as stream:
                return Corpus(_encode(files, encoder, stream), paths)
        folder.mkdir(parents=True, exist_ok=True)
        identity = repr((files, stamps, encoder.identity))
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        with contextlib.suppress(*_UNUSABLE):
            return Corpus(_read_cache(folder, name), paths)
        _write_cache(folder, name, files, encoder)
        return Corpus(_read_cache(folder, name), paths)
    except OSError as error:
        raise DataError(
            f"{folder}: encoded {encoder.unit}s cannot be kept there: {error.strerror or error} "
            f"(set {type(encoder.config).__name__}.cache_dir)"
        ) from error


def _encode(files: tuple[CorpusFile, ...], encoder: Encoder, stream: IO[bytes]) -> Encoded:
    """Encodes the documents of all files into `stream`."""
    dtype = np.dtype(np.uint16 if encoder.num_values <= 1 << 16 else np.uint32)
    starts, file_numbers, lines = array.array("q", [0]), array.array("i"), array.array("i")
    skipped: collections.Counter[str] = collections.Counter()
    for number, file in enumerate(files):
        for values, line in encoder.encode(file, skipped):
            stream.write(values.astype(dtype).tobytes())
            starts.append(starts[-1] + values.size)
            file_numbers.append(number)
            lines.append(line)
    if not file_numbers:
        raise DataError(f"No {encoder.unit} holds any text, in {counted(len(files), 'file')} from {files[0].path} on.")
    stream.flush()
    return Encoded(
        tokens=np.asarray(np.memmap(stream, dtype, "r")),
        starts=np.array(starts),
        file_numbers=np.array(file_numbers),
        lines=np.array(lines),
        skipped=dict(skipped),
    )


def _write_cache(folder: Path, name: str, files: tuple[CorpusFile, ...], encoder: Encoder) -> None:
    """Writes an encoded corpus elsewhere, then moves it into place, the index last: it is never seen half written."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as unfinished:
        tokens, index = Path(unfinished, "tokens"), Path(unfinished, "index.npz")
        with tokens.open("w+b") as stream:
            encoded = _encode(files, encoder, stream)
        np.savez(
            index,
            starts=encoded.starts,
            file_numbers=encoded.file_numbers,
            lines=encoded.lines,
            dtype=encoded.tokens.dtype.name,
            skipped=json.dumps(encoded.skipped),
        )
        tokens.replace(folder / f"{name}.tokens")
        index.replace(folder / f"{name}.npz")


def _read_cache(folder: Path, name: str) -> Encoded:
    """Opens what `_write_cache` wrote; one of _UNUSABLE where it is not there whole."""
    with (folder / f"{name}.npz").open("rb") as stream, np.load(stream) as index:
        encoded = Encoded(
            tokens=np.asarray(np.memmap(folder / f"{name}.tokens", index["dtype"].item(), "r")),
            starts=index["starts"],
            file_numbers=index["file_numbers"],
            lines=index["lines"],
            skipped=json.loads(index["skipped"].item()),
        )
    if encoded.tokens.size != encoded.starts[-1]:
        raise ValueError(f"{name}.tokens has {encoded.tokens.size} tokens, not {encoded.starts[-1]}")
    return encoded
