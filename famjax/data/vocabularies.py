"""Text to token ids and back: bytes, SentencePiece, Hugging Face. Needs no tensorflow; `as_seqio` brings it."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.added_tokens import tokens_beyond, without_tokens
from famjax.data.chat import Chat, mark_by_beginnings, mark_by_places, open_chat
from famjax.data.chat_template import Rendered
from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary, VocabularyConfig
from famjax.data.marked import Marked
from famjax.data.tokenizer_files import TokenizerFiles, read_tokenizer_files
from famjax.errors import ConfigError, DataError

if TYPE_CHECKING:
    import seqio
    import tokenizers

Ids = Sequence[int] | NDArray[np.integer]

# Ends a word and a sentence, so that nothing joins what follows to it.
ANCHOR = "a."


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

    @property
    def chat(self) -> Chat | None:
        """How conversations are written; None where the vocabulary has no chat template."""

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
    chat: Chat | None = None

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
    """A SentencePiece model, through the sentencepiece library, with the tokens that were added to it.

    Added tokens and the model's control tokens ("<s>") are found in a rendered conversation, and nowhere else.

    Attributes:
      left_out: texts of added tokens that `table_size` leaves out, by id.
    """

    def __init__(self, config: SentencePieceVocabulary) -> None:
        """Reads the model and what lies beside it.

        Raises:
          DataError: a file that is missing or none of its kind, or a token that cannot be left out.
        """
        import sentencepiece

        self._path = path = config.path
        model = _read(path, "SentencePieceVocabulary.path")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise DataError(f"{path}: no SentencePiece model (SentencePieceVocabulary.path): {error}") from error
        self._num_pieces: int = self._processor.GetPieceSize()
        if not self._num_pieces:
            raise DataError(f"{path}: an empty SentencePiece model (SentencePieceVocabulary.path).")
        files = read_tokenizer_files(Path(path).parent, config.chat_template)
        names = "pad_token", "bos_token", "eos_token"
        own = self._processor.pad_id(), self._processor.bos_id(), self._processor.eos_id()
        texts = {name: self._processor.IdToPiece(i) for name, i in zip(names, own, strict=True) if i >= 0}
        texts |= files.special
        # What is a piece of the model already is no added token, but may be a special one.
        ids = {text: added.id for text, added in files.added.items() if added.id >= self._num_pieces}
        self.left_out = tokens_beyond(config, self._num_pieces, ids, texts)
        self._added = {text: files.added[text] for text in ids if text not in self.left_out}
        self._added_texts = {added.id: "" if added.special else text for text, added in self._added.items()}
        self.vocab_size: int = max([self._num_pieces, *(added.id + 1 for added in self._added.values())])
        pad_id, bos_id, self.eos_id = (
            self._special(name, files, own_id) for name, own_id in zip(names, own, strict=True)
        )
        self.pad_id = 0 if pad_id is None else pad_id
        self.bos_id = self.pad_id if bos_id is None else bos_id
        self._is_plain = not self._added and own == tuple(-1 if i is None else i for i in (pad_id, bos_id, self.eos_id))
        unk_id = self._processor.unk_id()
        self.unk_id = unk_id if unk_id >= 0 else None
        pieces = range(self._num_pieces)
        control = {self._processor.IdToPiece(i): i for i in pieces if self._processor.IsControl(i)}
        self._written = {**control, **{text: added.id for text, added in self._added.items()}}
        self._control = {*control.values(), self.pad_id, self.bos_id, self.eos_id}
        self.chat = open_chat(files, texts, self._written, self.left_out, self._encode_rendered)
        self.fingerprint = _fingerprint(model, self._added, files)

    def _special(self, name: str, files: TokenizerFiles, own_id: int) -> int | None:
        """The id of a special token: as the files beside the model say, or else as the model does."""
        text = files.special.get(name)
        if text is None:
            return own_id if own_id >= 0 else None
        if text in self._added:
            return self._added[text].id
        found = self._processor.PieceToId(text)
        if self._processor.IdToPiece(found) != text:
            raise DataError(f"{self._path}: {name} {text!r} of the files beside it is no piece and no added token.")
        return int(found)

    def encode(self, text: str) -> NDArray[np.int32]:
        """See `Vocabulary`."""
        return np.array(self._processor.EncodeAsIds(text), np.int32)

    def _encode_rendered(self, rendered: Rendered) -> Marked:
        """Encodes a text with special tokens in it; a text behind one of them gets no blank before it."""
        parts, place = list[Marked](), 0
        for part in _split(rendered.text, tuple(self._written)):
            encode = self._encode_part if place or part in self._written else self.encode
            parts.append(mark_by_beginnings(part, rendered, place, encode))
            place += len(part)
        tokens = [np.zeros(0, np.int32), *(part.tokens for part in parts)]
        answers = [np.zeros(0, np.bool_), *(part.answers for part in parts)]
        return Marked(np.concatenate(tokens), np.concatenate(answers))

    def _encode_part(self, text: str) -> NDArray[np.int32]:
        """Ids of a special token, or of a text that follows one."""
        if text in self._written:
            return np.array([self._written[text]], np.int32)
        return self.encode(ANCHOR + text)[len(self.encode(ANCHOR)) :]

    def decode(self, ids: Ids) -> str:
        """See `Vocabulary`."""
        kept = [int(i) for i in ids if int(i) not in self._control]
        if not any(i >= self._num_pieces for i in kept):
            return str(self._processor.DecodeIds(kept))
        parts, run = list[str](), list[int]()
        for i in [*kept, None]:
            if i is not None and i < self._num_pieces:
                run.append(i)
                continue
            if i is None or self._added_texts.get(i):
                parts.append(self._decode_run(run, first=not parts))
                run = []
            parts.append("" if i is None else self._added_texts.get(i, ""))
        return "".join(parts)

    def _decode_run(self, ids: list[int], first: bool) -> str:
        """The text of pieces; a blank at their beginning stays, unless they are the first."""
        if first:
            return str(self._processor.DecodeIds(ids))
        anchor = self._processor.EncodeAsIds(ANCHOR)
        return str(self._processor.DecodeIds(anchor + ids)).removeprefix(self._processor.DecodeIds(anchor))

    def as_seqio(self) -> "seqio.Vocabulary":
        """See `Vocabulary`. seqio's own knows the model alone."""
        import seqio

        from famjax.data.seqio_vocabularies import ToSeqio

        return seqio.SentencePieceVocabulary(self._path) if self._is_plain else ToSeqio(self)


class HuggingFace:
    """A tokenizer.json, through the tokenizers library.

    Attributes:
      left_out: texts of added tokens that `table_size` leaves out, by id.
    """

    def __init__(self, config: HuggingFaceVocabulary) -> None:
        """Reads the tokenizer and what lies beside it.

        Raises:
          DataError: a file that is missing or none of its kind, or a token that cannot be left out.
          ConfigError: a token that the settings name is not in it.
        """
        raw = _read(config.path, "HuggingFaceVocabulary.path")
        self._tokenizer = _parse_tokenizer(raw, config.path)
        self._config = config
        files = read_tokenizer_files(Path(config.path).parent, config.chat_template)
        named = {name: getattr(config, name) for name in ("pad_token", "bos_token", "eos_token")}
        texts = dict(files.special) | {name: text for name, text in named.items() if text is not None}
        model = json.loads(raw)["model"]
        unknown = model.get("unk_token")
        ids = {each.content: i for i, each in self._tokenizer.get_added_tokens_decoder().items()}
        ordinary = (i for text, i in self._tokenizer.get_vocab(with_added_tokens=False).items() if text not in ids)
        self.left_out = tokens_beyond(config, max(ordinary, default=-1) + 1, ids, {"unk_token": unknown, **texts})
        if self.left_out:
            raw = without_tokens(raw, self.left_out)
            self._tokenizer = _parse_tokenizer(raw, config.path)
        self.vocab_size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.pad_id = self._special("pad_token", files) or 0
        bos_id = self._special("bos_token", files)
        self.bos_id = self.pad_id if bos_id is None else bos_id
        self.eos_id = self._special("eos_token", files)
        self.unk_id = model.get("unk_id") if unknown is None else self._tokenizer.token_to_id(unknown)
        added = self._tokenizer.get_added_tokens_decoder().items()
        written = [each.content for _, each in added if each.special or each.content in texts.values()]
        self.chat = open_chat(files, texts, written, self.left_out, self._encode_rendered)
        self.fingerprint = _fingerprint(raw, (self.pad_id, self.bos_id, self.eos_id), files)

    def _special(self, name: str, files: TokenizerFiles) -> int | None:
        """The id of a special token: as the settings say, or else the files beside the tokenizer."""
        token = getattr(self._config, name)
        if token is not None:
            found = self._tokenizer.token_to_id(token)
            if found is None:
                raise ConfigError(f"HuggingFaceVocabulary.{name} = {token!r} is no token of {self._config.path}.")
            return int(found)
        token = files.special.get(name)
        if token is None:
            return None
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise DataError(f"{self._config.path}: {name} {token!r} of the files beside it is none of its tokens.")
        return int(found)

    def encode(self, text: str) -> NDArray[np.int32]:
        """See `Vocabulary`."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def _encode_rendered(self, rendered: Rendered) -> Marked:
        encoding = self._tokenizer.encode(rendered.text, add_special_tokens=False)
        places = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return mark_by_places(np.array(encoding.ids, np.int32), places[:, 0], places[:, 1], rendered)

    def decode(self, ids: Ids) -> str:
        """See `Vocabulary`."""
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def as_seqio(self) -> "seqio.Vocabulary":
        """See `Vocabulary`."""
        from famjax.data.seqio_vocabularies import ToSeqio

        return ToSeqio(self)


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
            return SentencePiece(dataclasses.replace(config, path=str(Path(config.path).expanduser())))
        case HuggingFaceVocabulary():
            return HuggingFace(dataclasses.replace(config, path=str(Path(config.path).expanduser())))


def _read(path: str, setting: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({setting}): {error.strerror}") from error


def _parse_tokenizer(raw: bytes, path: str) -> "tokenizers.Tokenizer":
    """The tokenizer that a tokenizer.json holds."""
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(raw)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path}: no tokenizer.json (HuggingFaceVocabulary.path): {error}") from error
    # A file may have been saved with them on: documents would be cut, or padded, at some length.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _fingerprint(model: bytes, special: Any, files: TokenizerFiles) -> str:
    """A digest of a model's file, its special tokens and its chat template."""
    return hashlib.sha256(model + repr((special, files.special, files.chat_template)).encode()).hexdigest()


def _split(text: str, tokens: tuple[str, ...]) -> list[str]:
    """Cuts a text before and behind each of `tokens`, the longest first where several begin at one place."""
    pattern = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    return [part for part in re.split(f"({pattern})", text) if part] if tokens else [text] * bool(text)
