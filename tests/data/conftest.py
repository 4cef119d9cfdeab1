"""What the tests of the data share: ways of reading, corpora of a few files, trained vocabularies."""

import functools
from pathlib import Path

import pytest

from famjax.data import registry
from famjax.data.config import ByteVocabulary
from famjax.data.examples import Reading
from famjax.data.vocabularies import make_vocabulary
from vocabulary_files import train_sentencepiece, train_tokenizer

SENTENCES = ["The pass key is 12345.", "def read(path): return path.read_bytes()", "hello world, 67890", "it's a día"]


@pytest.fixture
def reading():
    """Makes a `Reading` of bytes, with defaults."""

    def make(longest=64, shortest=None, tasks=None, vocabulary=None, **changes):
        values = {"name": "task", "split": "train", "shuffle": True, "seed": 0} | changes
        return Reading(
            shortest=shortest,
            longest=longest,
            vocabulary=vocabulary or make_vocabulary(ByteVocabulary()),
            task_config=functools.partial(registry.task_config, tasks=tasks or {}),
            **values,
        )

    return make


@pytest.fixture
def corpus_dir(tmp_path) -> Path:
    """Twelve documents, of 100, 200, ... bytes, whose text tells their place: "<document>:<count> " over and over."""
    folder = tmp_path / "corpus"
    for number in range(12):
        path = folder / f"part{number % 3}" / f"document{number:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{number:02d}:{count:04d} " for count in range(200))
        path.write_text(text[: 100 * (number + 1)])
    return folder


@pytest.fixture(scope="session")
def sentencepiece_path(tmp_path_factory) -> str:
    """A SentencePiece model that loses nothing: bytes where it has no piece, no normalisation."""
    return train_sentencepiece(
        tmp_path_factory.mktemp("sentencepiece"),
        SENTENCES * 20,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory) -> str:
    """A byte-level BPE tokenizer.json with special tokens <pad>, <s>, </s>."""
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"), SENTENCES * 20, vocab_size=320)
