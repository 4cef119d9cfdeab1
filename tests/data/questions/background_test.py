"""Tests of famjax.data.questions.background."""

import re

import numpy as np
import pytest

from famjax.data.questions.background import Background, needed_tokens, place_at, split_sentences
from famjax.data.task_config import Documents
from famjax.data.vocabularies import Bytes
from famjax.errors import ConfigError, DataError
from prose import NUM_FILES, NUM_SENTENCES, sentence, write_prose

ALL = [sentence(file, number) for file in range(NUM_FILES) for number in range(NUM_SENTENCES)]


@pytest.fixture
def background(reading, tmp_path):
    """Opens the small corpus with a vocabulary."""

    def make(vocabulary=None):
        tasks = write_prose(tmp_path)
        return Background("Mine.documents", "documents", reading(vocabulary=vocabulary, tasks=tasks))

    return make


def at(*places):
    """Hides texts at these places."""
    return lambda _sizes: places


def test_text_is_consecutive_and_whole(background, vocabulary):
    """Guards against sentences that are left out, doubled, cut inside, or not those of the corpus."""
    ids = background(vocabulary).hide(np.random.default_rng(0), [], at(), 2500)
    assert 2496 <= len(ids) <= 2500
    found = [match[0] for match in re.finditer(r"In chapter.*?ends\.", vocabulary.decode(ids))]
    start = ALL.index(found[0])
    doubled = ALL + ALL
    assert found == doubled[start : start + len(found)]
    assert len(found) > 10


def test_hidden_texts_lie_where_they_are_put(background, vocabulary):
    """Guards against a needle at another place, in another order, or not in whole."""
    places = []

    def placing(sizes):
        places[:] = [len(sizes), 0, 0, len(sizes) // 2]
        return places

    texts = ["Last one.", "First one.", "Second one.", "A third in the middle."]
    ids = background(vocabulary).hide(np.random.default_rng(1), texts, placing, 3000)
    text = vocabulary.decode(ids)
    assert text.startswith("First one. Second one. ")
    assert text.endswith(" Last one.")
    before, _, behind = text.removesuffix(" Last one.").partition(" A third in the middle. ")
    assert before.count("ends.") == places[3]
    assert abs(before.count("In chapter") - behind.count("In chapter")) <= 2


def test_length_is_exact(background, vocabulary):
    """Guards against a prompt that is longer than was asked for, or far shorter."""
    opened = background(vocabulary)
    texts = ["A needle."]
    least = needed_tokens(vocabulary, texts)
    for size in [*range(least, least + 40), 777, 20_000]:
        for seed in range(3):
            ids = opened.hide(np.random.default_rng(seed), texts, at(0), size)
            assert size - 4 <= len(ids) <= size
            assert vocabulary.decode(ids).startswith("A needle.")


class Joining(Bytes):
    """Bytes in which a blank joins the character behind it, and a text without one before it costs a token more."""

    vocab_size, eos_id, fingerprint = 600, None, "joining"

    def encode(self, text):
        """See `Vocabulary`."""
        ids = super().encode(text.removeprefix(" "))
        return np.array([ids[0] + 256, *ids[1:]] if text.startswith(" ") else [2, *ids], np.int32)

    def decode(self, ids):
        """See `Vocabulary`."""
        return "".join(f" {chr(i - 259)}" if i >= 259 else chr(i - 3) for i in np.asarray(ids, np.int64) if i > 2)


def test_length_where_the_first_sentence_costs_more(background):
    """Guards against a first sentence that, without a blank before it, is a token longer than the length allows."""
    opened = background(Joining())
    for places in (at(0), lambda sizes: [len(sizes)]):
        for size in range(200, 260):
            ids = opened.hide(np.random.default_rng(size), ["A needle."], places, size)
            assert size - 4 <= len(ids) <= size
            assert "A needle." in Joining().decode(ids)
    for size in range(200, 260):
        assert size - 4 <= len(opened.hide(np.random.default_rng(size), [], at(), size)) <= size


def test_no_character_is_parted(reading, tmp_path):
    """Guards against half a character at the cut."""
    tmp_path.joinpath("a.txt").write_text("Día tras día, ñandú y más. " * 200)
    tasks = {"documents": Documents(paths=(f"{tmp_path}/a.txt",), validation_fraction=0.0)}
    opened = Background("Mine.documents", "documents", reading(tasks=tasks))
    for size in range(100, 140):
        text = opened.hide(np.random.default_rng(0), [], at(), size).astype(np.uint8) - 3
        assert text.tobytes().decode()


def test_a_drawn_place(background):
    """Guards against the same text in every question."""
    opened = background()
    firsts = {bytes(opened.hide(np.random.default_rng(seed), [], at(), 60).astype(np.uint8)) for seed in range(20)}
    assert len(firsts) > 10


def test_text_without_sentences(reading, corpus_dir):
    """Guards against a table, or a file of one endless word, that no length can be cut from."""
    corpus_dir.joinpath("part0/long.txt").write_text("x" * 5000)
    tasks = {"documents": Documents(paths=(f"{corpus_dir}/*/*",), validation_fraction=0.0)}
    opened = Background("Mine.documents", "documents", reading(tasks=tasks))
    for seed in range(10):
        assert len(opened.hide(np.random.default_rng(seed), ["Here."], lambda sizes: [len(sizes)], 3000)) >= 2999


def test_documents_without_words(reading, tmp_path):
    """Guards against an endless search for text in a corpus that has none."""
    tmp_path.joinpath("a.txt").write_text(" \n" * 50)
    tasks = {"documents": Documents(paths=(f"{tmp_path}/a.txt",), validation_fraction=0.0)}
    opened = Background("Mine.documents", "documents", reading(tasks=tasks))
    with pytest.raises(DataError, match=r"Mine\.documents = 'documents': .* no words"):
        opened.hide(np.random.default_rng(0), [], at(), 10)


def test_documents_must_be_documents(reading):
    """Guards against a traceback for a task of another kind."""
    with pytest.raises(ConfigError, match=r"Mine\.documents = 'passkey' is no task of type Documents"):
        Background("Mine.documents", "passkey", reading())


def test_split_sentences():
    """Guards against sentences that are joined, or words that are lost."""
    assert split_sentences('He said "so." Then  he\nleft! v1.2 is out? Yes.') == [
        'He said "so."',
        "Then he left!",
        "v1.2 is out?",
        "Yes.",
    ]
    assert split_sentences("好\u3002再见\uff01ok") == ["好\u3002", "再见\uff01", "ok"]
    words = " ".join(f"word{number}" for number in range(300))
    pieces = split_sentences(words)
    assert " ".join(pieces) == words
    assert all(len(piece) <= 400 for piece in pieces)
    assert "".join(split_sentences("y" * 1000)) == "y" * 1000


def test_place_at():
    """Guards against a depth that counts sentences, not tokens."""
    assert [place_at(depth, [10, 10, 80]) for depth in (0.0, 0.1, 0.25, 0.7, 1.0)] == [0, 1, 2, 3, 3]
    assert place_at(0.5, []) == 0
