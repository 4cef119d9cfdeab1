"""Text to token ids and back: bytes, SentencePiece, Hugging Face. Needs no tensorflow; `as_seqio` brings it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary, VocabularyConfig
from famjax.errors import ConfigError, DataError

if TYPE_CHECKING:
    import seqio

Ids = Sequence[int] | NDArray[np.integer]


@runtime_checkable
class Vocabulary(Hashable, Protocol):
    """What every vocabulary can do."""

    @property
    def fingerprint(self) -> str:
        """Two vocabularies with the same fingerprint encode alike."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this [V]."""

    @property
    def pad_id(self) -> int:
        """Stands where there is no token (validity is told by a mask, not by this id)."""

    @property
    def bos_id(self) -> int:
        """The first input token of every example."""

    @property
    def eos_id(self) -> int | None:
        """Ends a document; None where the vocabulary has no such token."""

    @property
    def unk_id(self) -> int | None:
        """Stands for text that the vocabulary lacks; None where it can encode all text."""

    def encode(self, text: str) -> NDArray[np.int32]:
        """Ids of a text [n], without beginning or end."""

    def decode(self, ids: Ids) -> str:
        """The text of ids [n]; padding and special tokens are left out."""

    def as_seqio(self) -> "seqio.Vocabulary":
        """The same vocabulary for seqio."""


class Bytes:
    """UTF-8 bytes with the ids of seqio.ByteVocabulary: 0 pads and begins, 1 ends, 2 is unused, byte b is b + 3."""

    OFFSET = 3
    fingerprint = "bytes"
    vocab_size = 256 + OFFSET
    pad_id = 0
    bos_id = 0
    eos_id: int | None = 1
    unk_id = None

    def encode(self, text: str) -> NDArray[np.int32]:
        """See `Vocabulary`."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + self.OFFSET

    def decode(self, ids: Ids) -> str:
        """See `Vocabulary`. Bytes that are no UTF-8 become the replacement character."""
        values = np.asarray(ids, np.int64)
        values = values[(values >= self.OFFSET) & (values < self.vocab_size)] - self.OFFSET
        return values.astype(np.uint8).tobytes().decode(errors="replace")

    def as_seqio(self) -> "seqio.Vocabulary":
        """See `Vocabulary`."""
        import seqio

        return seqio.ByteVocabulary()


class SentencePiece:
    """A SentencePiece model, through the sentencepiece library."""

    def __init__(self, path: str) -> None:
        """Reads the .model file at `path`; DataError where it is missing or no such model."""
        import sentencepiece

        self._path = path
        model = _read(path, "SentencePieceVocabulary.path")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise DataError(f"{path}: no SentencePiece model (SentencePieceVocabulary.path): {error}") from error
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self.vocab_size: int = self._processor.GetPieceSize()
        if not self.vocab_size:
            raise DataError(f"{path}: an empty SentencePiece model (SentencePieceVocabulary.path).")
        self.pad_id = max(self._processor.pad_id(), 0)
        bos_id, eos_id = self._processor.bos_id(), self._processor.eos_id()
        self.bos_id = bos_id if bos_id >= 0 else self.pad_id
        self.eos_id = eos_id if eos_id >= 0 else None
        unk_id = self._processor.unk_id()
        self.unk_id = unk_id if unk_id >= 0 else None

    def encode(self, text: str) -> NDArray[np.int32]:
        """See `Vocabulary`."""
        return np.array(self._processor.EncodeAsIds(text), np.int32)

    def decode(self, ids: Ids) -> str:
        """See `Vocabulary`."""
        control = (self.pad_id, self.bos_id, self.eos_id)
        return self._processor.DecodeIds([int(i) for i in ids if int(i) not in control])

    def as_seqio(self) -> "seqio.Vocabulary":
        """See `Vocabulary`."""
        import seqio

        return seqio.SentencePieceVocabulary(self._path)


class HuggingFace:
    """A tokenizer.json, through the tokenizers library."""

    def __init__(self, config: HuggingFaceVocabulary) -> None:
        """Reads the tokenizer; DataError where it is missing or none, ConfigError where a named token is not in it."""
        import tokenizers

        raw = _read(config.path, "HuggingFaceVocabulary.path")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"{config.path}: no tokenizer.json (HuggingFaceVocabulary.path): {error}") from error
        # A file may have been saved with them on: documents would be cut, or padded, at some length.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._config = config
        self.fingerprint = hashlib.sha256(raw + repr(dataclasses.replace(config, path="")).encode()).hexdigest()
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.pad_id = self._special("pad_token") or 0
        bos_id = self._special("bos_token")
        self.bos_id = self.pad_id if bos_id is None else bos_id
        self.eos_id = self._special("eos_token")
        model = json.loads(raw)["model"]
        unknown = model.get("unk_token")
        self.unk_id = model.get("unk_id") if unknown is None else self._tokenizer.token_to_id(unknown)

    def _special(self, name: str) -> int | None:
        token = getattr(self._config, name)
        if token is None:
            return None
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ConfigError(f"HuggingFaceVocabulary.{name} = {token!r} is no token of {self._config.path}.")
        return int(found)

    def encode(self, text: str) -> NDArray[np.int32]:
        """See `Vocabulary`."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Ids) -> str:
        """See `Vocabulary`."""
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def as_seqio(self) -> "seqio.Vocabulary":
        """See `Vocabulary`."""
        from famjax.data.seqio_vocabularies import SeqioHuggingFaceVocabulary

        return SeqioHuggingFaceVocabulary(self)


@functools.lru_cache(maxsize=8)
def make_vocabulary(config: VocabularyConfig) -> Vocabulary:
    """Opens the vocabulary that the settings describe; equal settings share one.

    Raises:
      DataError: its file is missing or of another kind.
      ConfigError: it lacks a token that the settings name.
    """
    match config:
        case ByteVocabulary():
            return Bytes()
        case SentencePieceVocabulary():
            return SentencePiece(str(Path(config.path).expanduser()))
        case HuggingFaceVocabulary():
            return HuggingFace(dataclasses.replace(config, path=str(Path(config.path).expanduser())))


def _read(path: str, setting: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({setting}): {error.strerror}") from error
