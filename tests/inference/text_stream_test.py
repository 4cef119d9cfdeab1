"""famjax.inference.text_stream: long texts, piece by piece."""

import gzip
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import DataError
from famjax.inference import text_stream as module
from famjax.inference.text_stream import encode_stream, read_text
from vocabulary_files import SENTENCES, train_sentencepiece, train_tokenizer

KINDS = ("bytes", "sentencepiece", "sentencepiece as Llama", "sentencepiece as Gemma", "tokenizer")
SECTION = 64


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """Each kind of vocabulary."""
    folders = [tmp_path_factory.mktemp("vocabulary") for _ in range(4)]
    as_llama = {"remove_extra_whitespaces": False, "normalization_rule_name": "identity", "byte_fallback": True}
    as_gemma = {"add_dummy_prefix": False, **as_llama}
    return dict(
        zip(
            KINDS,
            [
                make_vocabulary(ByteVocabulary()),
                make_vocabulary(SentencePieceVocabulary(train_sentencepiece(folders[0]))),
                make_vocabulary(SentencePieceVocabulary(train_sentencepiece(folders[1], **as_llama))),
                make_vocabulary(SentencePieceVocabulary(train_sentencepiece(folders[2], **as_gemma))),
                make_vocabulary(HuggingFaceVocabulary(train_tokenizer(folders[3]))),
            ],
            strict=True,
        )
    )


@pytest.fixture
def short_sections(monkeypatch):
    """Sections of 64 to 128 characters, so that a text of a few thousand has many."""
    monkeypatch.setattr(module, "_SECTION", SECTION)


def joined(vocabulary, pieces):
    """All ids of a text that comes in pieces."""
    return np.concatenate([np.zeros(0, np.int32), *encode_stream(vocabulary, pieces)])


def cut(text, size):
    """The text in pieces of `size` characters."""
    return (text[i : i + size] for i in range(0, len(text), size))


def words(count):
    """Sentences of at least `count` characters."""
    return "".join(itertools.islice(itertools.cycle(SENTENCES), count // 40 + 1))


TEXTS = {
    "words": words(2000),
    "lines of code": "".join(f"def f{i}(x):\n\n    return\tx +  {i}\n" for i in range(60)),
    "lines without blanks": "".join(f"{i},{i * i},key\n" for i in range(200)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXTS)
def test_a_stream_is_encoded_as_the_whole_text(vocabularies, short_sections, kind, name):
    """Guards against a section that ends inside of a token, and against a blank added or lost where one begins."""
    vocabulary, text = vocabularies[kind], TEXTS[name]
    assert len(list(module._sections([text]))) > 10, "many sections"
    np.testing.assert_array_equal(joined(vocabulary, [text]), vocabulary.encode(text))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*TEXTS.values(), "ab,cd;" * 300, "日本語テキスト" * 100, " " * 500 + "\n" * 500])
def test_the_pieces_do_not_matter(vocabularies, short_sections, kind, text):
    """Guards against ids that change with the size of a read, as a resumed or piped text would have it."""
    expected = joined(vocabularies[kind], [text])
    for size in (1, 7, SECTION, 2 * SECTION, 2 * SECTION + 1, 1000):
        np.testing.assert_array_equal(joined(vocabularies[kind], cut(text, size)), expected)
    decoded = vocabularies[kind].decode(vocabularies[kind].encode(text))
    if "\u2047" not in decoded:  # its text for what it has no piece for: once for a run of any length
        assert vocabularies[kind].decode(expected) == decoded


@pytest.mark.parametrize("text", ["", "a", "x" * (2 * SECTION), "x" * (2 * SECTION + 1), "x" * 1000, "\u00e9 " * 300])
def test_bytes_are_those_of_the_text(vocabularies, short_sections, text):
    """Guards against a lost or doubled character at the limits of a section, where no word ends."""
    sections = list(module._sections(cut(text, 50)))
    assert "".join(sections) == text
    assert all(0 < len(section) <= 2 * SECTION for section in sections)
    np.testing.assert_array_equal(joined(vocabularies["bytes"], cut(text, 50)), vocabularies["bytes"].encode(text))


def test_an_empty_text_gives_nothing(vocabularies):
    """Guards against empty arrays, which a reader might take for the end."""
    assert list(encode_stream(vocabularies["sentencepiece"], ["", " ", ""])) == []


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_a_file_is_read_as_it_is(tmp_path, monkeypatch, name):
    """Guards against characters split between two reads, translated line ends, and a byte order mark taken for text."""
    monkeypatch.setattr(module, "_READ_BYTES", 5)
    text = "día\r\n日本語 \U0001f469\u200d\U0001f467 \ufeff end"
    with gzip.open(tmp_path / name, "wb") if name.endswith(".gz") else (tmp_path / name).open("wb") as file:
        file.write(b"\xef\xbb\xbf" + text.encode())
    assert "".join(read_text(tmp_path / name)) == text


@pytest.mark.parametrize("place", [0, 4, 5, 1003])
def test_the_place_of_a_wrong_byte(tmp_path, monkeypatch, place):
    """Guards against a place counted from the last read, or a bad file read with replacement characters."""
    monkeypatch.setattr(module, "_READ_BYTES", 5)
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * place + "día".encode("latin-1")[1:] + b"b" * 20)
    with pytest.raises(DataError, match=rf"latin\.txt: byte {place}, 0xed, is not UTF-8: ") as error:
        list(read_text(path))
    assert error.value.exit_code == 3


def test_a_file_that_ends_in_a_character(tmp_path):
    """Guards against the rest of a cut character that is dropped at the end of a file."""
    path = tmp_path / "cut.txt"
    path.write_bytes(b"abc" + "日".encode()[:2])
    with pytest.raises(DataError, match="byte 3, 0xe6, is not UTF-8: unexpected end of data"):
        list(read_text(path))


def test_files_that_cannot_be_read(tmp_path):
    """Guards against a traceback of the system's, or of gzip's, for a misspelled path."""
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read: No such file"):
        next(read_text(tmp_path / "nowhere.txt"))
    with pytest.raises(DataError, match="is a folder, not a file"):
        next(read_text(tmp_path))
    Path(tmp_path / "text.gz").write_text("no gzip")
    with pytest.raises(DataError, match=r"text\.gz cannot be read: Not a gzipped file"):
        next(read_text(tmp_path / "text.gz"))
    Path(tmp_path / "cut.gz").write_bytes(gzip.compress(b"text" * 1000)[:-9])
    with pytest.raises(DataError, match=r"cut\.gz cannot be read: Compressed file ended"):
        list(read_text(tmp_path / "cut.gz"))


def test_memory_does_not_grow_with_the_file(tmp_path, vocabularies):
    """Guards against a text, or its tokens, held as a whole: 32 MB are read with 8 MB at most."""
    path = tmp_path / "long.txt"
    block = words(1 << 20).encode()[: 1 << 20]
    with path.open("wb") as file:
        for _ in range(32):
            file.write(block)
    tracemalloc.start()
    try:
        count = sum(len(ids) for ids in encode_stream(vocabularies["bytes"], read_text(path)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == path.stat().st_size
    assert peak < 8 << 20
