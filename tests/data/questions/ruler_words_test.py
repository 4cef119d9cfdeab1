"""Tests of famjax.data.questions.ruler_words: words are counted in the prompt's text alone."""

import collections
import re

import pytest

from famjax.data.questions import words
from famjax.data.questions.ruler_config import RulerCommonWords, RulerFrequentWords
from famjax.data.vocabularies import Bytes
from famjax.errors import ConfigError

# RULER's prompts (scripts/data/synthetic/constants.py).
COMMON = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the {number} most common words in the above list? Answer: The "
    "top {number} words that appear most often in the list are:"
)
FREQUENT = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text? Answer: According to the coded text above, the "
    "three most frequently appeared words are:"
)


def listed(text):
    """The words of a numbered list, whose numbers are checked."""
    pairs = re.findall(r"(\d+)\. (\S+)", text)
    assert " ".join(f"{number}. {word}" for number, word in pairs) == text
    assert [int(number) for number, _ in pairs] == list(range(1, len(pairs) + 1))
    return [word for _, word in pairs]


def split(text):
    """The example with its answer, and the question proper."""
    place = text.rindex("Below is a numbered list")
    return text[:place], text[place:]


def counts(text):
    """How often each word is in the list of a prompt."""
    return collections.Counter(listed(text.split("\n")[1]))


@pytest.mark.parametrize(
    ("config", "length", "common", "uncommon"),
    [
        (RulerCommonWords(), 4095, 6, 1),
        (RulerCommonWords(), 9000, 30, 3),
        (RulerCommonWords(example=False), 9000, 30, 3),
        (RulerCommonWords(num_common=4, common_repeats=5, uncommon_repeats=2), 4000, 5, 2),
    ],
)
def test_common_words(asking, vocabulary, config, length, common, uncommon):
    """Guards against another prompt than RULER's, wrong numbers of words, and wrong answers, in the example, too."""
    questions = asking("mine", length, config=config, vocabulary=vocabulary)
    for index in range(4):
        question = questions.question(index)
        example, proper = split(vocabulary.decode(question.prompt))
        assert proper == COMMON.format(context=proper.split("\n")[1], number=config.num_common)
        found = counts(proper)
        assert {word for word, count in found.items() if count == common} == set(question.references)
        assert set(found.values()) == {common, uncommon}
        assert len(found) >= 2 * config.num_common == 2 * len(question.references)
        assert bool(example) == config.example
        if example:
            asked, answer = example.removesuffix("\n").rsplit(" are: ", 1)
            best = counts(asked + " are:").most_common(config.num_common)
            assert sorted(listed(answer)) == sorted(word for word, _ in best)
            assert best[-1][1] == (3 if length < 4096 else 10)
        entry = max(len(vocabulary.encode(f" 1000. {word}")) for word in found)
        assert length - (entry + 4) * uncommon <= len(question.prompt) + question.max_new_tokens <= length


def test_more_words_than_the_list_has(asking):
    """Guards against a long list that ends early, or words that come twice as often."""
    config = RulerCommonWords(common_repeats=3, uncommon_repeats=1, example=False)
    question = asking("mine", 60_000, config=config).question(0)
    found = counts(Bytes().decode(question.prompt))
    assert len(found) > len(words.ALL) > 1000
    assert set(found.values()) == {1, 3}


def test_short_lists_from_4096_tokens_on(asking):
    """Guards against a byte vocabulary that has no question below some 7000 tokens."""
    question = asking("ruler_cwe", 4096).question(0)
    assert set(counts(split(Bytes().decode(question.prompt))[1]).values()) == {6, 1}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (RulerFrequentWords(), 1000),
        (RulerFrequentWords(), 6000),
        (RulerFrequentWords(alpha=1.3, word_length=4), 6000),
        (RulerFrequentWords(alpha=3.5, num_words=9), 3000),
    ],
)
def test_frequent_words(asking, vocabulary, config, length):
    """Guards against another prompt than RULER's, ties among the answers, and another distribution."""
    questions = asking("mine", length, config=config, vocabulary=vocabulary)
    for index in range(4):
        question = questions.question(index)
        text = vocabulary.decode(question.prompt)
        context = re.fullmatch(r".* coded words\. (.*)\nQuestion: .*", text)[1]
        assert text == FREQUENT.format(context=context)
        found = collections.Counter(context.split(" ")).most_common()
        assert found[0][0] == "..."
        assert tuple(word for word, _ in found[1:4]) == question.references or found[2][1] == found[1][1]
        assert {word for word, _ in found[1:4]} == set(question.references)
        assert len(found) == 4 or found[3][1] > found[4][1]
        assert found[1][1] / found[0][1] == pytest.approx(2**-config.alpha, abs=0.05)
        assert all(re.fullmatch(f"[a-z]{{{config.word_length}}}", word) for word, _ in found[1:])
        assert 0.95 * length - 50 < len(question.prompt) + question.max_new_tokens <= length


@pytest.mark.parametrize("config", [RulerCommonWords(), RulerFrequentWords(), RulerFrequentWords(alpha=1.2)])
def test_every_length_from_the_least_on(asking, vocabulary, config):
    """Guards against a prompt above its length, and an error that does not say what is needed."""
    with pytest.raises(ConfigError) as caught:
        asking("mine", 200, config=config, vocabulary=vocabulary)
    least = int(re.search(r"needs (\d+)", str(caught.value))[1])
    for length in (least, least + 1, least + 77):
        questions = asking("mine", length, config=config, vocabulary=vocabulary)
        for index in range(10):
            question = questions.question(index)
            assert len(question.prompt) + question.max_new_tokens <= length


def test_no_ties(asking):
    """Guards against a third word that another comes as often as, at some lengths."""
    config = RulerFrequentWords(alpha=1.05, num_words=5)
    for length in range(500, 700, 3):
        question = asking("mine", length, config=config).question(0)
        context = Bytes().decode(question.prompt).split(" coded words. ")[1].split("\n")[0]
        found = collections.Counter(context.split(" ")).most_common(5)
        assert len(found) == 4 or found[3][1] > found[4][1]
        assert {word for word, _ in found[1:4]} == set(question.references)


def test_word_lists():
    """Guards against words that could be taken for others, or for a number."""
    for some in (words.ADJECTIVES, words.NOUNS, words.VERBS, words.ALL):
        assert len(set(some)) == len(some) > 400
        assert all(re.fullmatch("[a-z]+", word) for word in some)
