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
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus_files import CorpusFile, corpus_files
from famjax.data.records import read_documents
from famjax.data.task_config import Documents
from famjax.data.vocabularies import Vocabulary
from famjax.errors import DataError

# What a cached corpus raises that is not there, or damaged.
_UNUSABLE = (FileNotFoundError, EOFError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded documents.

    Attributes:
      tokens: unsigned int [all tokens], document after document, each closed by the vocabulary's end token if it has
        one.
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

    def place(self, document: int) -> str:
        """Where a document is, as "file:line"."""
        return f"{self.paths[self.encoded.file_numbers[document]]}:{self.encoded.lines[document]}"


def open_corpus(config: Documents, split: str, vocabulary: Vocabulary) -> Corpus:
    """Encodes the documents of a split, or finds them encoded already, in this process or in `config.cache_dir`.

    Raises:
      DataError: an empty glob or split, a bad record, a file or folder that cannot be read or written.
    """
    files = tuple(corpus_files(config, split))
    try:
        stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in (Path(file.path).stat() for file in files))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return _open_files(files, stamps, config, vocabulary)


@functools.lru_cache(maxsize=8)
def _open_files(
    files: tuple[CorpusFile, ...], stamps: tuple[tuple[int, int], ...], config: Documents, vocabulary: Vocabulary
) -> Corpus:
    """Opens a corpus once for all its readers in this process."""
    paths = tuple(file.path for file in files)
    folder = Path(config.cache_dir or tempfile.gettempdir()).expanduser()
    try:
        if config.cache_dir is None:
            with tempfile.TemporaryFile(prefix="famjax-corpus-") as stream:
                return Corpus(_encode(files, config, vocabulary, stream), paths)
        folder.mkdir(parents=True, exist_ok=True)
        identity = repr((files, stamps, config.field, config.bad_records, vocabulary.fingerprint))
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        with contextlib.suppress(*_UNUSABLE):
            return Corpus(_read_cache(folder, name), paths)
        _write_cache(folder, name, files, config, vocabulary)
        return Corpus(_read_cache(folder, name), paths)
    except OSError as error:
        raise DataError(
            f"{folder}: encoded documents cannot be kept there: {error.strerror or error} (set Documents.cache_dir)"
        ) from error


def _encode(files: tuple[CorpusFile, ...], config: Documents, vocabulary: Vocabulary, stream: IO[bytes]) -> Encoded:
    """Encodes the documents of all files into `stream`."""
    dtype = np.dtype(np.uint16 if vocabulary.vocab_size <= 1 << 16 else np.uint32)
    end = np.array([] if vocabulary.eos_id is None else [vocabulary.eos_id], dtype)
    starts, file_numbers, lines = array.array("q", [0]), array.array("i"), array.array("i")
    skipped: collections.Counter[str] = collections.Counter()
    for number, file in enumerate(files):
        for document in read_documents(file, config, skipped):
            ids = vocabulary.encode(document.text)
            if ids.size:
                stream.write(ids.astype(dtype).tobytes() + end.tobytes())
                starts.append(starts[-1] + ids.size + end.size)
                file_numbers.append(number)
                lines.append(document.line)
    if not file_numbers:
        raise DataError(f"No document holds any text, in {len(files)} files from {files[0].path} on.")
    stream.flush()
    return Encoded(
        tokens=np.asarray(np.memmap(stream, dtype, "r")),
        starts=np.array(starts),
        file_numbers=np.array(file_numbers),
        lines=np.array(lines),
        skipped=dict(skipped),
    )


def _write_cache(
    folder: Path, name: str, files: tuple[CorpusFile, ...], config: Documents, vocabulary: Vocabulary
) -> None:
    """Writes an encoded corpus elsewhere, then moves it into place, the index last: it is never seen half written."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as unfinished:
        tokens, index = Path(unfinished, "tokens"), Path(unfinished, "index.npz")
        with tokens.open("w+b") as stream:
            encoded = _encode(files, config, vocabulary, stream)
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
