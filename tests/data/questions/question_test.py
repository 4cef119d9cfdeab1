"""Tests of famjax.data.questions.question."""

import numpy as np
import pytest

from famjax.data.questions.question import Question, Questions, answer_ids, question_of, training_example
from famjax.data.recall import RecallExamples
from famjax.data.task_config import AssociativeRecall
from famjax.data.vocabularies import Bytes


def test_the_answer_alone_is_marked(vocabulary):
    """Guards against a training form that trains on the prompt, or not on the whole answer."""
    question = Question(vocabulary.encode("What is the pass key?"), ("12345", "others"), 20)
    example = training_example(question, vocabulary, prompt_weight=0.25)
    assert vocabulary.decode(example.targets) == "What is the pass key? 12345"
    np.testing.assert_array_equal(example.targets[~example.answers], question.prompt)
    np.testing.assert_array_equal(example.targets[example.answers], answer_ids("12345", vocabulary))
    assert set(example.weights[~example.answers]) == {0.25}
    assert set(example.weights[example.answers]) == {1.0}
    other = training_example(question, vocabulary, answer="none", separator="\n")
    assert vocabulary.decode(other.targets) == "What is the pass key?\nnone"


def test_an_example_becomes_a_question(reading):
    """Guards against a question whose prompt, answer and budget are not those of the example."""
    examples = RecallExamples(AssociativeRecall(value_digits=4), reading(longest=300))
    assert isinstance(examples, Questions)
    for index in range(5):
        example, question = examples[index], examples.question(index)
        assert len(question.prompt) + question.max_new_tokens == 300
        assert question.max_new_tokens == 4
        np.testing.assert_array_equal(question.prompt, example.targets[:-4])
        assert question.references == (Bytes().decode(example.targets[-4:]),)
        other = question_of(example, Bytes())
        assert other.references == question.references


def test_what_only_predicts_asks_nothing(reading, corpus_dir):
    """Guards against documents that are taken for questions."""
    from famjax.data.documents import DocumentExamples
    from famjax.data.task_config import Documents

    documents = DocumentExamples(Documents(paths=(f"{corpus_dir}/*/*",)), reading())
    assert not isinstance(documents, Questions)


@pytest.mark.parametrize("separator", [" ", "\n", ""])
def test_answer_ids(vocabulary, separator):
    """Guards against an answer that is joined to the prompt with another separator."""
    prompt = vocabulary.encode("The key is:")
    text = vocabulary.decode(np.concatenate([prompt, answer_ids("12345", vocabulary, separator)]))
    assert text == f"The key is:{separator}12345"
