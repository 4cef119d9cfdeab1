"""Tests of famjax.data.keys."""

import re

import numpy as np
import pytest

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.keys import KeyExamples
from famjax.data.task_config import Documents, PassKey, PassKeyDocuments
from famjax.data.vocabularies import Bytes, make_vocabulary
from famjax.errors import ConfigError, DataError

# The spec's prompt, written out again.
PAPER = (
    r"There is an important info hidden inside a lot of irrelevant text\. Find it and memorize them\. I will quiz you "
    r"about the important information there\. The pass key is (?P<key>\d{5})\. Remember it\. (?P=key) is the pass key\."
    r"(?P<filler>.*) What is the pass key\? The pass key is (?P=key)"
)
FILLER = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
SENTENCE = re.compile(r" The pass key is (\d{5})\. Remember it\. (\d{5}) is the pass key\.")


def text(example, vocabulary=Bytes()):  # noqa: B008 - stateless
    """The text of the targets."""
    return vocabulary.decode(example.targets)


def answer(example, vocabulary=Bytes()):  # noqa: B008 - stateless
    """The text of the answer."""
    return vocabulary.decode(example.targets[example.answers])


def test_the_papers_prompt(reading):
    """Guards against another wording than the paper's, or other filler."""
    for index in range(5):
        example = KeyExamples(PassKey(), reading(longest=700))[index]
        match = re.fullmatch(PAPER, text(example))
        assert match
        assert match["key"] == answer(example)
        assert match["filler"] == (FILLER * 10)[: len(match["filler"])]


def test_lengths_are_exact_where_fixed(reading):
    """Guards against an evaluation whose rows are shorter than the length it reports."""
    for longest in (251, 252, 300, 1111):
        examples = KeyExamples(PassKey(depth=None), reading(longest=longest))
        assert {len(examples[index].targets) for index in range(10)} == {longest}


def test_lengths_are_drawn_over_the_range(reading):
    """Guards against a curriculum whose lengths are not drawn, or leave the range."""
    examples = KeyExamples(PassKey(), reading(shortest=1, longest=400))
    lengths = [len(examples[index].targets) for index in range(300)]
    least = len(text(KeyExamples(PassKey(), reading(longest=400))[0])) - 400 + min(lengths)
    assert min(lengths) == least < 260
    assert max(lengths) > 390
    assert max(lengths) <= 400
    own = KeyExamples(PassKey(min_length=390), reading(longest=400))
    assert {len(own[index].targets) for index in range(100)} == set(range(390, 401))


def test_lengths_are_multiples(reading):
    """Guards against a question that a block's end cuts although it should not, and against an empty range."""
    examples = KeyExamples(PassKey(length_multiple=50), reading(shortest=1, longest=420))
    assert {len(examples[index].targets) for index in range(100)} == {300, 350, 400}
    with pytest.raises(ConfigError, match=r"no multiple of 50 .* 410 to 420"):
        KeyExamples(PassKey(length_multiple=50), reading(shortest=410, longest=420))[0]


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_fixed_depth(reading, depth):
    """Guards against a key at another place than asked for."""
    example = KeyExamples(PassKey(depth=depth, introduction=False), reading(longest=504))[3]
    place = SENTENCE.search(text(example))
    assert place.start() == round(depth * (504 - len(place[0]) - len(" What is the pass key? The pass key is 12345")))


def test_drawn_depth(reading):
    """Guards against a depth that is not uniform."""
    examples = KeyExamples(PassKey(depth=None, introduction=False), reading(longest=1000))
    places = [SENTENCE.search(text(examples[index])).start() / 898 for index in range(300)]
    assert np.histogram(places, 4, (0, 1))[0].min() > 45


def test_answer_and_weights(reading):
    """Guards against a prompt that trains where it should not, and answers that do not count."""
    example = KeyExamples(PassKey(prompt_weight=0.25, digits=7), reading(longest=300))[0]
    assert example.answers.tolist() == [False] * 293 + [True] * 7
    assert example.weights.tolist() == [0.25] * 293 + [1.0] * 7
    assert re.fullmatch(r"\d{7}", answer(example))


def test_keys_are_drawn_anew(reading):
    """Guards against one key for all, for both splits, or for all seeds."""
    keys = [
        tuple(answer(KeyExamples(PassKey(), reading(longest=260, **changes))[index]) for index in range(50))
        for changes in ({}, {"split": "validation"}, {"seed": 1}, {"name": "another"})
    ]
    assert len(set(keys)) == 4
    assert all(len(set(some)) > 45 for some in keys)
    assert keys[0] == tuple(answer(KeyExamples(PassKey(), reading(longest=260))[index]) for index in range(50))


def test_splits_have_their_sizes(reading):
    """Guards against a training split that ends, or an evaluation that does not."""
    assert KeyExamples(PassKey(), reading(longest=300)).size is None
    assert KeyExamples(PassKey(validation_examples=9), reading(longest=300, split="validation")).size == 9


def test_too_short_is_an_error(reading):
    """Guards against an example cut so that its key or question is missing."""
    with pytest.raises(ConfigError, match=r"100 tokens has no room.*PassKeyDocuments.*--gin\.TASK_FEATURE_LENGTHS"):
        KeyExamples(PassKeyDocuments(), reading(longest=100))


def test_documents_as_filler(corpus_dir, reading):
    """Guards against filler that is not the documents' text, or comes twice in an epoch."""
    paths = (f"{corpus_dir}/*/*.txt",)
    tasks = {"corpus": Documents(paths=paths, validation_paths=paths)}
    examples = KeyExamples(PassKeyDocuments(documents="corpus", depth=None), reading(longest=303, tasks=tasks))
    corpus = "".join(path.read_text() for path in sorted(corpus_dir.glob("*/*")))
    marks = []
    for index in range(25):
        written = text(examples[index])
        filler = SENTENCE.sub("", written).removesuffix(
            f" What is the pass key? The pass key is {answer(examples[index])}"
        )
        assert len(filler) >= 195
        assert filler in corpus
        marks += re.findall(r"\d\d:\d{4} ", filler)
    assert len(marks) == len(set(marks)) > 400
    assert marks != sorted(marks)


def test_documents_must_be_documents(reading, corpus_dir):
    """Guards against a traceback for a task of another kind, and for documents too few to fill an example."""
    with pytest.raises(ConfigError, match=r"PassKeyDocuments\.documents = 'passkey'"):
        KeyExamples(PassKeyDocuments(documents="passkey"), reading(longest=300))
    tasks = {"documents": Documents(paths=(f"{corpus_dir}/part0/*",), validation_fraction=0.0)}
    with pytest.raises(DataError, match="no window of 100000 tokens"):
        KeyExamples(PassKeyDocuments(), reading(longest=100_000, tasks=tasks))


def test_subword_vocabularies(reading, sentencepiece_path, tokenizer_path):
    """Guards against answers that are cut by subwords, and lengths that are not counted in tokens."""
    for config in (SentencePieceVocabulary(sentencepiece_path), HuggingFaceVocabulary(tokenizer_path)):
        vocabulary = make_vocabulary(config)
        examples = KeyExamples(PassKey(), reading(longest=400, vocabulary=vocabulary))
        for index in range(20):
            example = examples[index]
            assert len(example.targets) == 400
            match = re.fullmatch(PAPER, text(example, vocabulary))
            assert match
            assert (FILLER * 20).startswith(match["filler"])
            assert re.fullmatch(r" ?\d{5}", answer(example, vocabulary))


# Landmark attention's prompt (llama/run_test.py), line by line; its filler begins anew behind the key.
LANDMARK = (
    r"There is an important info hidden inside a lot of irrelevant text\. Find it and memorize them\. I will quiz you "
    r"about the important information there\.\n(?P<before>.*)\nThe pass key is (?P<key>\d{5})\. Remember it\. (?P=key) "
    r"is the pass key\.\n(?P<behind>.*)\nWhat is the pass key\? The pass key is"
)


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_landmark_attentions_prompt(reading, sentencepiece_path, tokenizer_path, depth):
    """Guards against another wording than landmark attention's, and a length that is not exactly what was asked for."""
    configs = (None, SentencePieceVocabulary(sentencepiece_path), HuggingFaceVocabulary(tokenizer_path))
    for vocabulary in (make_vocabulary(config) if config else Bytes() for config in configs):
        config = PassKey(depth=depth, wording="landmark")
        examples = KeyExamples(config, reading(longest=700, vocabulary=vocabulary))
        for index in range(3):
            question = examples.question(index)
            assert len(question.prompt) + question.max_new_tokens == 700
            match = re.fullmatch(LANDMARK, vocabulary.decode(question.prompt))
            assert match
            assert question.references == (match["key"],)
            assert vocabulary.decode(examples[index].targets).endswith(f"The pass key is {match['key']}")
            garbage = FILLER.strip() + FILLER * 20
            assert garbage.startswith(match["before"])
            assert garbage.startswith(match["behind"])
            before, behind = len(vocabulary.encode(match["before"])), len(vocabulary.encode(match["behind"]))
            assert before == pytest.approx(depth * (before + behind), abs=3)


def test_landmark_wording_around_documents(reading, corpus_dir):
    """Guards against text around the key that is doubled or lost."""
    paths = (f"{corpus_dir}/*/*.txt",)
    tasks = {"documents": Documents(paths=paths, validation_paths=paths)}
    config = PassKeyDocuments(wording="landmark", depth=0.5)
    question = KeyExamples(config, reading(longest=400, tasks=tasks)).question(2)
    corpus = "".join(path.read_text() for path in sorted(corpus_dir.glob("*/*")))
    before, sentence, behind, _ = Bytes().decode(question.prompt).split("\n")
    assert (
        sentence == f"The pass key is {question.references[0]}. Remember it. {question.references[0]} is the pass key."
    )
    assert before + behind in corpus
    assert len(before) > 100


def test_questions_are_the_examples(reading):
    """Guards against a question whose prompt or answer is not that of the example it is trained on."""
    examples = KeyExamples(PassKey(depth=None), reading(longest=512, split="validation"))
    for index in range(5):
        question, example = examples.question(index), examples[index]
        assert len(question.prompt) + question.max_new_tokens == len(example.targets) == 512
        assert question.references == (answer(example),)
        assert not question.prompt.tobytes().startswith(example.targets.tobytes())
        np.testing.assert_array_equal(question.prompt, example.targets[:-5])
