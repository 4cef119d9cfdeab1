"""The tokenizer of a pretrained checkpoint: its files, and the vocabulary that a job reads them by."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import HuggingFace, SentencePiece
from famjax.errors import CheckpointError

HUGGING_FACE, SENTENCE_PIECE = "tokenizer.json", "tokenizer.model"
# What a tokenizer is made of; small files, copied as they are.
_FILES = (
    HUGGING_FACE,
    SENTENCE_PIECE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


FileVocabulary = HuggingFaceVocabulary | SentencePieceVocabulary


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A folder's tokenizer.

    Attributes:
      files: all that belong to it.
      vocabulary: by which a job reads them.
      fingerprint: of the vocabulary.
      left_out: texts of the added tokens that the vocabulary leaves out.
    """

    files: tuple[Path, ...]
    vocabulary: FileVocabulary
    fingerprint: str
    left_out: tuple[str, ...]

    def copied_to(self, folder: Path) -> FileVocabulary:
        """The vocabulary of the same files in another folder."""
        return dataclasses.replace(self.vocabulary, path=str(folder.absolute() / Path(self.vocabulary.path).name))


def read_tokenizer(folder: Path, table_size: int) -> Tokenizer | None:
    """The tokenizer in a folder: tokenizer.json, or else tokenizer.model; None: it has neither.

    Args:
      folder: of the checkpoint.
      table_size: rows of its embedding table [V]; added tokens beyond it are left out of the vocabulary.

    Raises:
      DataError: it cannot be read, or other tokens than added ones lie beyond the table.
    """
    vocabulary: FileVocabulary
    if (folder / HUGGING_FACE).is_file():
        vocabulary = HuggingFaceVocabulary(str(folder.absolute() / HUGGING_FACE))
    elif (folder / SENTENCE_PIECE).is_file():
        vocabulary = SentencePieceVocabulary(str(folder.absolute() / SENTENCE_PIECE))
    else:
        return None
    opened = _open(vocabulary)
    if opened.vocab_size > table_size:
        vocabulary = dataclasses.replace(vocabulary, table_size=table_size)
        opened = _open(vocabulary)
    return Tokenizer(tuple(tokenizer_files(folder)), vocabulary, opened.fingerprint, opened.left_out)


def _open(vocabulary: FileVocabulary) -> HuggingFace | SentencePiece:
    return HuggingFace(vocabulary) if isinstance(vocabulary, HuggingFaceVocabulary) else SentencePiece(vocabulary)


def tokenizer_files(folder: Path) -> list[Path]:
    """What there is of a tokenizer's files."""
    return [folder / name for name in _FILES if (folder / name).is_file()]


def copy_files(paths: Sequence[Path], output: Path) -> None:
    """Copies files into a folder.

    Raises:
      CheckpointError: one cannot be read, or the folder cannot be written to.
    """
    for path in paths:
        try:
            shutil.copyfile(path, output / path.name)
        except OSError as error:
            raise CheckpointError(f"{path} could not be copied to {output}: {error.strerror or error}.") from error
