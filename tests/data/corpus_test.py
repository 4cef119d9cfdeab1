"""Tests of famjax.data.corpus."""

import dataclasses

import numpy as np
import pytest

from famjax.data import corpus as corpus_module
from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary
from famjax.data.corpus import open_corpus
from famjax.data.task_config import Documents
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import DataError

BYTES = make_vocabulary(ByteVocabulary())


@pytest.fixture
def config(corpus_dir):
    """All twelve documents as training."""
    return Documents(paths=(f"{corpus_dir}/*/*.txt",), validation_fraction=0.0)


def texts(corpus, vocabulary=BYTES):
    """Each document's text."""
    encoded = corpus.encoded
    return [
        vocabulary.decode(encoded.tokens[a:b]) for a, b in zip(encoded.starts[:-1], encoded.starts[1:], strict=True)
    ]


def test_tokens_are_the_documents(config, corpus_dir):
    """Guards against documents in another order, cut, or without their end token."""
    corpus = open_corpus(config, "train", BYTES)
    files = sorted(corpus_dir.glob("*/*.txt"))
    assert texts(corpus) == [path.read_text() for path in files]
    assert np.all(corpus.encoded.tokens[corpus.encoded.starts[1:] - 1] == BYTES.eos_id)
    assert corpus.place(3) == f"{files[3]}:1"


def test_tokens_lie_in_a_file(config):
    """Guards against memory that grows with the corpus."""
    tokens = open_corpus(config, "train", BYTES).encoded.tokens
    assert isinstance(tokens.base, np.memmap)
    assert tokens.dtype == np.uint16


def test_changed_files_are_read_again(config, corpus_dir):
    """Guards against a corpus remembered beyond a change of its files."""
    before = texts(open_corpus(config, "train", BYTES))
    (corpus_dir / "part0" / "document00.txt").write_text("changed")
    after = texts(open_corpus(config, "train", BYTES))
    assert before[0] != after[0] == "changed"


def test_cache_is_used_and_equal(config, tmp_path, monkeypatch):
    """Guards against a cache that is not read, or differs from what was encoded."""
    cached = dataclasses.replace(config, cache_dir=str(tmp_path / "cache"))
    first = open_corpus(cached, "train", BYTES)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    corpus_module._open_files.cache_clear()

    def forbidden(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(corpus_module, "_encode", forbidden)
    second = open_corpus(cached, "train", BYTES)
    assert texts(first) == texts(second)
    assert first.place(2) == second.place(2)
    assert first.encoded.skipped == second.encoded.skipped


def test_cache_belongs_to_the_vocabulary(config, tmp_path, tokenizer_path):
    """Guards against one vocabulary's ids read with another."""
    cached = dataclasses.replace(config, cache_dir=str(tmp_path / "cache"))
    vocabulary = make_vocabulary(HuggingFaceVocabulary(tokenizer_path))
    assert texts(open_corpus(cached, "train", BYTES)) == texts(open_corpus(cached, "train", vocabulary), vocabulary)


def test_unusable_cache_is_an_error(config, tmp_path):
    """Guards against a traceback where the cache's folder cannot be made."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file.*Documents\.cache_dir"):
        open_corpus(dataclasses.replace(config, cache_dir=str(tmp_path / "file")), "train", BYTES)


def test_skipped_records_are_counted_and_empty_corpora_an_error(tmp_path):
    """Guards against silence about what was left out, up to all of it."""
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n{')
    config = Documents(paths=(str(tmp_path / "a.jsonl"),), bad_records="skip", validation_fraction=0.0)
    corpus = open_corpus(config, "train", BYTES)
    assert corpus.encoded.skipped == {"missing_field": 1, "invalid_json": 1}
    with pytest.raises(DataError, match="No document holds any text"):
        open_corpus(dataclasses.replace(config, field="nothing"), "train", BYTES)


DAMAGE = {
    "cut index": lambda index, tokens: index.write_bytes(index.read_bytes()[:100]),
    "empty index": lambda index, tokens: index.write_bytes(b""),
    "index that is none": lambda index, tokens: index.write_text("index"),
    "altered index": lambda index, tokens: index.write_bytes(index.read_bytes().replace(b"\x00\x01", b"\x01\x00")),
    "index without starts": lambda index, tokens: np.savez(index, dtype="uint16"),
    "no tokens": lambda index, tokens: tokens.unlink(),
    "empty tokens": lambda index, tokens: tokens.write_bytes(b""),
    "cut tokens": lambda index, tokens: tokens.write_bytes(tokens.read_bytes()[:-10]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_again(config, tmp_path, damage):
    """Guards against a traceback, or documents that end early, for a cache that a full disk or a copy has damaged."""
    cached = dataclasses.replace(config, cache_dir=str(tmp_path / "cache"))
    whole = texts(open_corpus(cached, "train", BYTES))
    (index,), (tokens,) = (tmp_path / "cache").glob("*.npz"), (tmp_path / "cache").glob("*.tokens")
    before = index.read_bytes(), tokens.read_bytes()
    DAMAGE[damage](index, tokens)
    assert (index.read_bytes(), tokens.read_bytes() if tokens.exists() else None) != before
    corpus_module._open_files.cache_clear()
    assert texts(open_corpus(cached, "train", BYTES)) == whole
    assert tokens.read_bytes() == before[1]
