"""The tokenizer of a pretrained checkpoint: its files, and the vocabulary that a job reads them by."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
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


def tokenizer_in(folder: Path) -> list[Path]:
    """What there is of a tokenizer's files."""
    return [folder / name for name in _FILES if (folder / name).is_file()]


def vocabulary_in(folder: Path) -> HuggingFaceVocabulary | SentencePieceVocabulary | None:
    """The vocabulary of the tokenizer in a folder, tokenizer.json before tokenizer.model; None: it has neither."""
    path = folder.absolute() / HUGGING_FACE
    if path.is_file():
        return HuggingFaceVocabulary(str(path))
    path = folder.absolute() / SENTENCE_PIECE
    return SentencePieceVocabulary(str(path)) if path.is_file() else None


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
