"""Tests of famjax.data.recall."""

import re

import pytest

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.recall import RecallExamples
from famjax.data.task_config import AssociativeRecall
from famjax.data.vocabularies import Bytes, make_vocabulary
from famjax.errors import ConfigError


def parsed(example, vocabulary=Bytes()):  # noqa: B008 - stateless
    """The told pairs in order, the asked key, and the answer."""
    text = vocabulary.decode(example.targets)
    told, asked, value = re.fullmatch(r"(.*) What is ([a-z]+)\? \2=(\d+)", text, re.DOTALL).groups()
    assert vocabulary.decode(example.targets[example.answers]).strip() == value
    return re.findall(r" ([a-z]+)=(\d+);", told), asked, value


def test_the_asked_key_has_the_told_value(reading):
    """Guards against an answer that nobody told, keys that come twice, or examples of another length."""
    examples = RecallExamples(AssociativeRecall(), reading(longest=300))
    for index in range(40):
        pairs, asked, value = parsed(examples[index])
        assert len(examples[index].targets) == 300
        assert len(pairs) == len(dict(pairs)) == 31
        assert dict(pairs)[asked] == value


def test_the_last_value_is_right(reading):
    """Guards against the replaced value as the answer, and replacements that replace nothing."""
    examples = RecallExamples(AssociativeRecall(replaced_fraction=0.5, num_pairs=12), reading(longest=300))
    replaced = 0
    for index in range(60):
        pairs, asked, value = parsed(examples[index])
        assert len(pairs) == 12
        assert len(dict(pairs)) == 8
        values = [told for key, told in pairs if key == asked]
        assert values[-1] == value
        assert len(set(values)) == len(values)
        replaced += len(values) == 2
    assert 15 < replaced < 45


def test_a_fixed_number_of_pairs_leaves_filler(reading):
    """Guards against a number of pairs that grows with the length."""
    example = RecallExamples(AssociativeRecall(num_pairs=3, key_letters=2, value_digits=4), reading(longest=200))[0]
    pairs, _, value = parsed(example)
    assert len(pairs) == 3
    assert len(value) == 4
    assert "The grass is green." in Bytes().decode(example.targets)
    assert len(example.targets) == 200


def test_every_pair_is_asked_for(reading):
    """Guards against questions about the last pairs only."""
    examples = RecallExamples(AssociativeRecall(num_pairs=4), reading(longest=100))
    places = [
        [key for key, _ in pairs].index(asked) for pairs, asked, _ in map(parsed, map(examples.__getitem__, range(80)))
    ]
    assert min(places.count(place) for place in range(4)) > 8


def test_lengths_and_weights(reading):
    """Guards against lengths outside the range, and a prompt weight without effect."""
    config = AssociativeRecall(min_length=60, prompt_weight=0.5)
    lengths = set()
    for index in range(200):
        example = RecallExamples(config, reading(longest=70))[index]
        assert example.weights.tolist() == [0.5] * (len(example.targets) - 3) + [1.0] * 3
        lengths.add(len(example.targets))
    assert lengths == set(range(60, 71))


def test_subword_vocabularies(reading, sentencepiece_path, tokenizer_path):
    """Guards against a pair cut off by subwords before the question about it."""
    for config in (SentencePieceVocabulary(sentencepiece_path), HuggingFaceVocabulary(tokenizer_path)):
        vocabulary = make_vocabulary(config)
        examples = RecallExamples(AssociativeRecall(), reading(longest=150, vocabulary=vocabulary))
        for index in range(30):
            pairs, asked, value = parsed(examples[index], vocabulary)
            assert len(examples[index].targets) == 150
            assert dict(pairs)[asked] == value


def test_impossible_settings(reading):
    """Guards against an endless draw of distinct keys, or an example without its question."""
    with pytest.raises(ConfigError, match=r"AssociativeRecall\.key_letters = 1 gives 26 keys"):
        RecallExamples(AssociativeRecall(key_letters=1), reading(longest=2000))
    with pytest.raises(ConfigError, match="no room for AssociativeRecall's 50 pairs"):
        RecallExamples(AssociativeRecall(num_pairs=50), reading(longest=100))
