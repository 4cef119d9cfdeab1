"""Long texts, read and encoded piece by piece: memory does not grow with the file."""

import codecs
import contextlib
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from famjax.data.pieces import encode_piece
from famjax.data.vocabularies import Vocabulary
from famjax.errors import DataError

# A text is encoded in sections of so many characters at least, and of twice as many at most.
_SECTION = 1 << 14
_READ_BYTES = 1 << 20
_BYTE_ORDER_MARK = "\ufeff"
# A section ends before a blank between words: a vocabulary of subwords begins a new one there, too.
_BEFORE_WORD = re.compile(r"(?<=\S) (?=\S)")
# Where there is no such blank: before a line's end behind a word, or what else separates words.
_BEHIND_WORD = re.compile(r"(?<=\w)(?=\s)")


def encode_stream(vocabulary: Vocabulary, pieces: Iterable[str], goes_on: bool = False) -> Iterator[NDArray[np.int32]]:
    """Encodes a text that comes in pieces; the ids do not depend on how it is cut into them.

    The text is encoded in sections, which end at places that the text alone decides: before a blank between two words.
    With bytes, and with subwords that do not reach across words, the ids are those of the whole text. A text of less
    than 32768 characters is one section. Where so many have no space among them, a section ends inside of a word, which
    a vocabulary of subwords may then encode otherwise.

    Args:
      vocabulary: encodes.
      pieces: of the text, in order.
      goes_on: whether it follows other text, as a question follows a document.

    Yields:
      Ids [n], n above 0, without beginning or end.
    """
    for section in _sections(pieces):
        ids = encode_piece(vocabulary, section) if goes_on else vocabulary.encode(section)
        goes_on = True
        if ids.size:
            yield ids


def _sections(pieces: Iterable[str]) -> Iterator[str]:
    """Cuts a text into sections; joined they are the text."""
    held: list[str] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length <= 2 * _SECTION:
            continue
        text, start = "".join(held), 0
        # One character more than a section, so that the place of a cut does not depend on where the text ends by now.
        while len(text) - start > 2 * _SECTION:
            end = _end_of_section(text, start)
            yield text[start:end]
            start = end
        held = [text[start:]]
        length = len(text) - start
    if length:
        yield "".join(held)


def _end_of_section(text: str, start: int) -> int:
    """Where the section that begins at `start` ends; more than two sections' least lengths follow it."""
    least, most = start + _SECTION, start + 2 * _SECTION
    found = _BEFORE_WORD.search(text, least, most + 1) or _BEHIND_WORD.search(text, least, most + 1)
    return found.start() if found else most


def read_text(path: str | os.PathLike[str]) -> Iterator[str]:
    """Reads a text file piece by piece.

    Args:
      path: a file in UTF-8; ".gz" is decompressed. A byte order mark at its beginning is left out.

    Yields:
      Its text. Line ends stay as they are.

    Raises:
      DataError: the file cannot be read, or is not UTF-8 (the message has the byte's place, counted from 0 and, in a
        compressed file, behind decompression).
    """
    with open_bytes(path) as stream:
        yield from decode_stream(stream.read, os.fspath(path))


@contextlib.contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[io.BufferedIOBase]:
    """Opens a file; ".gz" is decompressed. DataError where it cannot be opened, or read within the `with`."""
    file = Path(path).expanduser()
    if "\0" in os.fspath(path):
        raise DataError(f"{os.fspath(path)!r} is no path: it has a null character.")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            yield stream
    except IsADirectoryError as error:
        raise DataError(f"{os.fspath(path)} is a folder, not a file.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{os.fspath(path)} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def decode_stream(read: Callable[[int], bytes], name: str) -> Iterator[str]:
    """Decodes UTF-8 piece by piece; see `read_text`.

    Args:
      read: gives so many bytes more at most, none at the end.
      name: of the file, for errors.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_read, is_first = 0, True
    while True:
        raw = read(_READ_BYTES)
        begin = num_read - len(decoder.getstate()[0])
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            place, byte = begin + error.start, error.object[error.start]
            raise DataError(f"{name}: byte {place}, 0x{byte:02x}, is not UTF-8: {error.reason}.") from None
        if is_first and text:
            text, is_first = text.removeprefix(_BYTE_ORDER_MARK), False
        if text:
            yield text
        if not raw:
            return
        num_read += len(raw)
