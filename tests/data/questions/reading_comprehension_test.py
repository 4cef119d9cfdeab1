"""Tests of famjax.data.questions.reading_comprehension."""

import dataclasses

import numpy as np
import pytest

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.questions.metrics import METRICS
from famjax.data.questions.question import Questions
from famjax.data.questions.reading_comprehension import open_reading_comprehension
from famjax.data.questions.reading_config import NarrativeQA, Qasper, Quality, XLSum
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import ConfigError
from published_fixtures import STORIES, published_tasks, qasper_rows, write_rows, xlsum_rows

LENGTH = 2000
WHO_TELLS_IT = "\n\nQuestion: Who tells it?\n (A) Ahab\n (B) Queequeg\n (C) Starbuck\n (D) Ishmael\nAnswer:"
KINDS = (NarrativeQA, Qasper, Quality, XLSum)


@pytest.fixture
def configs(tmp_path):
    """Settings of every kind, over small files."""
    by_kind = {type(config): config for config in published_tasks(tmp_path).values()}
    return lambda kind, **settings: dataclasses.replace(by_kind[kind], **settings)


@pytest.fixture
def opened(configs, reading):
    """Opens a task, in the order of its records."""

    def make(kind, longest=LENGTH, split="validation", vocabulary=None, shuffle=False, **settings):
        given = reading(longest=longest, split=split, vocabulary=vocabulary, shuffle=shuffle, name=kind.__name__)
        return open_reading_comprehension(configs(kind, **settings), given)

    return make


def text_of(question):
    """A prompt as text, of bytes."""
    return bytes((question.prompt - 3).astype(np.uint8)).decode()


@pytest.mark.parametrize(
    ("kind", "index", "prompt", "references"),
    [
        (
            NarrativeQA,
            2,
            f"{STORIES[1]}\n\nQuestion: What is the narrator's name?\nAnswer:",
            ("Ishmael", "Call him Ishmael"),
        ),
        (
            Qasper,
            0,
            f"{STORIES[0].strip()}\n\nQuestion: What do they measure?\nAnswer:",
            ("The accuracy of the model", "accuracy"),
        ),
        (
            Quality,
            1,
            STORIES[1].strip() + WHO_TELLS_IT,
            ("Ishmael",),
        ),
        (
            XLSum,
            2,
            f"{xlsum_rows()[2]['text']}\n\nSummarize the article above in one sentence.\nSummary:",
            ("ঢাকা বাংলাদেশের রাজধানী।",),
        ),
    ],
)
def test_prompts(opened, kind, index, prompt, references):
    """Guards against another prompt, or the answers of another question."""
    questions = opened(kind)
    question = questions.question(index)
    assert isinstance(questions, Questions)
    assert text_of(question) == prompt
    assert question.references == references
    assert question.num_cut == 0
    assert question.prompt.dtype == np.int32


def test_the_question_first(opened):
    """Guards against a setting without effect, and against an answer that is not asked for at the end."""
    question = opened(Qasper, question_first=True).question(2)
    assert text_of(question) == f"Question: Which corpus is used?\n\n{STORIES[1].strip()}\n\nAnswer:"
    options = opened(Quality, question_first=True).question(0)
    assert text_of(options).startswith("Question: Why did he go to sea?\n (A) He was bored\n")


def test_settings_of_summaries_and_budgets(opened):
    """Guards against settings without effect."""
    assert text_of(opened(XLSum, instruction="Résumé:").question(0)).endswith("\n\nRésumé:")
    assert " A summary of story 1." in text_of(opened(NarrativeQA, context="summary").question(2))
    for kind in (NarrativeQA, Qasper, XLSum):
        assert opened(kind, max_new_tokens=7).question(0).max_new_tokens == 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("question_first", [False, True])
def test_only_the_document_is_cut(opened, kind, question_first):
    """Guards against a question, options or budget that are cut, and against tokens cut that nobody counts."""
    settings = {} if kind is XLSum else {"question_first": question_first}
    whole, short = opened(kind, **settings), opened(kind, longest=260, **settings)
    cut = 0
    for index in range(whole.size):
        full, question = whole.question(index), short.question(index)
        assert len(question.prompt) == len(full.prompt) - question.num_cut
        assert len(question.prompt) + question.max_new_tokens <= 260
        if question.num_cut:
            assert len(question.prompt) + question.max_new_tokens == 260
            cut += 1
        shared = len(question.prompt) - (question.prompt != full.prompt[: len(question.prompt)]).argmax()
        assert np.array_equal(question.prompt[-shared:], full.prompt[len(full.prompt) - shared :])
        marker = "Summary:" if kind is XLSum else "Answer:"
        assert text_of(question).endswith(marker)
        assert (question.references, question.choices) == (full.references, full.choices)
    assert cut


@pytest.mark.parametrize("kind", KINDS)
def test_a_length_too_short_says_what_is_needed(opened, kind):
    """Guards against a question that is cut, or a document of no token, and against an error without the number."""
    with pytest.raises(ConfigError, match=r"too short; [0-9]+ are needed") as caught:
        opened(kind, longest=10)
    needed = int(str(caught.value).split("; ")[1].split()[0])
    with pytest.raises(ConfigError, match=f"{needed} are needed"):
        opened(kind, longest=needed - 1)
    questions = opened(kind, longest=needed)
    assert max(len(q.prompt) + q.max_new_tokens for q in map(questions.question, range(questions.size))) == needed


def test_choices_have_room(opened):
    """Guards against options that are longer than their budget, or answers that are not among them."""
    questions = opened(Quality)
    for index in range(2):
        question = questions.question(index)
        assert question.max_new_tokens == max(len(f" {choice}") for choice in question.choices)
        assert set(question.references) < set(question.choices)
        assert question.stop_strings == ()
    assert questions.output_type == "multiple_choice"
    assert questions.metrics == ("acc", "acc_norm")


@pytest.mark.parametrize("kind", [NarrativeQA, Qasper, XLSum])
def test_the_metric_of_an_oracle_is_one_and_of_another_answer_low(opened, kind):
    """Guards against metrics under which the right answers are wrong, or any answer is right."""
    questions = opened(kind)
    asked = [questions.question(index) for index in range(questions.size)]
    assert questions.output_type == "generate_until"
    for name in questions.metrics:
        assert all(METRICS[name](question.references[0], question.references) == 1.0 for question in asked)
        others = [METRICS[name]("zebra xylophone", question.references) for question in asked]
        assert max(others) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_examples_to_train_on(opened, kind):
    """Guards against training on prompts, on answers that never end, or on examples longer than asked for."""
    questions = opened(kind, longest=420, split="train", prompt_weight=0.25)
    assert questions.size is None
    for index in range(6):
        question, example = questions.question(index), questions[index]
        ending = "" if kind is Quality else "\n"
        answer = example.targets[example.answers]
        assert bytes((answer - 3).astype(np.uint8)).decode() == f" {question.references[0]}{ending}"
        assert np.array_equal(example.targets[~example.answers], question.prompt)
        assert example.answers[-len(answer) :].all()
        assert example.weights.tolist() == [0.25] * len(question.prompt) + [1.0] * len(answer)
        assert len(example.targets) <= 420


def test_a_reference_longer_than_the_budget_is_cut_in_training(opened):
    """Guards against an example longer than was asked for."""
    example = opened(Qasper, longest=200, max_new_tokens=5, split="train")[0]
    assert int(example.answers.sum()) == 5
    assert len(example.targets) == 200


def test_epochs(opened):
    """Guards against questions that an epoch repeats or loses, an unseeded order, and a validation without an end."""
    plain, shuffled = opened(NarrativeQA), opened(NarrativeQA, shuffle=True)
    assert plain.size == shuffled.size == 4
    one, two = ([questions.question(i).references for i in range(4)] for questions in (plain, shuffled))
    assert sorted(one) == sorted(two)
    again = opened(NarrativeQA, shuffle=True)
    assert [again.question(i).references for i in range(4)] == two


@pytest.mark.parametrize("kind", KINDS)
def test_any_vocabulary(opened, kind, sentencepiece_path, tokenizer_path):
    """Guards against lengths counted in bytes, and prompts that other vocabularies do not give back."""
    configs = SentencePieceVocabulary(sentencepiece_path), HuggingFaceVocabulary(tokenizer_path)
    for vocabulary in map(make_vocabulary, configs):
        questions = opened(kind, vocabulary=vocabulary, longest=600)
        expected = text_of(opened(kind).question(1))
        for index in range(questions.size):
            question = questions.question(index)
            assert len(question.prompt) + question.max_new_tokens <= 600
            assert len(questions[index].targets) <= 600
        ending = expected[expected.rindex("Summar" if kind is XLSum else "Question:") :]
        assert vocabulary.decode(questions.question(1).prompt).endswith(ending)


def test_skipped_records_are_told(configs, reading, tmp_path):
    """Guards against records left out that no result mentions."""
    path = write_rows(tmp_path / "bad.jsonl", [*qasper_rows(), {"id": "x"}])
    config = dataclasses.replace(configs(Qasper), validation_paths=(path,), bad_records="skip")
    questions = open_reading_comprehension(config, reading(longest=LENGTH, split="validation"))
    assert questions.skipped == {"missing_field": 1}
