"""Tests of famjax.data.questions.opening: what holds for the questions of every task of the registry."""

import numpy as np
import pytest

from famjax.data import registry
from famjax.data.instructions_config import Instructions
from famjax.data.questions.metrics import METRICS
from famjax.data.questions.opening import has_depth, open_questions
from famjax.data.questions.question import Questions
from famjax.data.questions.reading_config import PublishedData
from famjax.data.task_config import Documents, Mixture, PassKey
from famjax.data.tasks import generates_answers
from famjax.data.vocabularies import Bytes
from famjax.errors import ConfigError
from published_fixtures import published_tasks

ASKS_NOTHING = Documents | Instructions | Mixture
NAMES = [name for name, config in registry.BUILT_IN.items() if not isinstance(config, ASKS_NOTHING)]
GENERATED = [name for name in NAMES if generates_answers(registry.BUILT_IN[name])]
DRAWN = [name for name in GENERATED if not isinstance(registry.BUILT_IN[name], PublishedData)]
LENGTH, COUNT = 3072, 16
# What answers to other questions score, at most: BABILong's answer is one of six words, and texts share words.
FLOORS = {name: 0.4 for name in NAMES if name.startswith("babilong")} | {
    name: 0.5 for name in NAMES if isinstance(registry.BUILT_IN[name], PublishedData)
}


@pytest.fixture(scope="module")
def opened(asking, tmp_path_factory):
    """Opens a task of the registry over small files."""
    tasks = {**asking.tasks, **published_tasks(tmp_path_factory.mktemp("published"))}

    def make(name, **changes):
        values = {"split": "validation", "length": LENGTH, "depth": None, "seed": 0, "vocabulary": Bytes()} | changes
        return open_questions(name, tasks=tasks, **values)

    return make


def score(questions, predictions):
    """The means of a task's metrics over its first questions."""
    references = [questions.question(index).references for index in range(len(predictions))]
    names = [name for name in questions.metrics if name in METRICS]
    return {name: np.mean(list(map(METRICS[name], predictions, references))) for name in names}


@pytest.mark.parametrize("name", GENERATED)
def test_an_oracle_scores_one_and_others_answers_the_floor(opened, name):
    """Guards against a metric that does not fit its task, and answers that any guess hits."""
    questions = opened(name)
    assert questions.output_type == "generate_until"
    examples = [questions[index] for index in range(min(questions.size, COUNT))]
    answers = [Bytes().decode(example.targets[example.answers]) for example in examples]
    right = score(questions, answers)
    assert right
    assert all(value == pytest.approx(1.0) for value in right.values()), right
    wrong = score(questions, [*answers[1:], answers[0]])
    assert all(value <= FLOORS.get(name, 0.05) for value in wrong.values()), wrong
    assert not any(score(questions, [""] * len(answers)).values())


def test_an_oracle_of_choices(opened):
    """Guards against a multiple choice whose right answer is not offered, or offered twice."""
    questions = opened("quality")
    assert questions.output_type == "multiple_choice"
    for index in range(questions.size):
        question = questions.question(index)
        assert len(set(question.choices)) == len(question.choices) > 1
        assert sum(choice in question.references for choice in question.choices) == 1


@pytest.mark.parametrize("name", NAMES)
def test_questions_keep_to_the_length(opened, name):
    """Guards against a prompt without room for its answer, a budget above the length, and lengths not used."""
    questions = opened(name)
    assert isinstance(questions, Questions)
    if questions.output_type == "loglikelihood_rolling":
        assert 0 < len(questions[0].targets) <= LENGTH
        return
    for index in range(3):
        question = questions.question(index)
        assert question.prompt.dtype == np.int32
        assert len(question.prompt) + question.max_new_tokens <= LENGTH
        if name in DRAWN:
            assert len(question.prompt) + question.max_new_tokens > LENGTH - 150
            assert question.num_cut == 0


@pytest.mark.parametrize("name", [name for name in DRAWN if name.startswith("passkey")])
def test_passkeys_are_exactly_as_long(opened, name):
    """Guards against a question in another place of its block than in training."""
    for length in (512, 1024, 1111):
        question = opened(name, length=length).question(0)
        assert len(question.prompt) + question.max_new_tokens == length


def test_lengths_are_not_drawn():
    """Guards against a scan whose questions are shorter than their cell's length, where training draws lengths."""
    tasks = {"mine": PassKey(min_length=300, length_multiple=64)}
    values = {"split": "validation", "depth": None, "seed": 0, "vocabulary": Bytes(), "tasks": tasks}
    questions = open_questions("mine", length=1024, **values)
    lengths = [len(questions.question(index).prompt) + 5 for index in range(10)]
    assert lengths == [1024] * 10
    with pytest.raises(ConfigError, match="no multiple of 64"):
        open_questions("mine", length=1000, **values).question(0)


@pytest.mark.parametrize("name", GENERATED)
def test_the_training_form(opened, name):
    """Guards against a task that trains on another prompt than it asks, or on more than its answer."""
    questions = opened(name)
    for index in range(2):
        question, example = questions.question(index), questions[index]
        np.testing.assert_array_equal(example.targets[~example.answers][: len(question.prompt)], question.prompt)
        assert not example.answers[: len(question.prompt)].any()
        assert len(example.targets) <= LENGTH
        assert example.weights[example.answers].min() == 1.0
        assert not example.weights[: len(question.prompt)].any()
        if name in DRAWN:
            assert example.answers[len(question.prompt) :].all()
            assert len(example.targets) - len(question.prompt) <= question.max_new_tokens


@pytest.mark.parametrize("name", DRAWN)
def test_random_access(opened, name):
    """Guards against a question that depends on those before it, or that no seed, split or index changes."""

    def prompts(indices, **changes):
        questions = opened(name, **changes)
        return {index: questions.question(index).prompt.tobytes() for index in indices}

    forward, back = prompts([0, 1, 2]), prompts([2, 0])
    assert {index: forward[index] for index in back} == back
    assert len(set(forward.values())) == 3
    assert not set(forward.values()) & set(prompts([0, 1, 2], seed=1).values())
    assert not set(forward.values()) & set(prompts([0, 1, 2], split="train").values())


@pytest.mark.parametrize("name", DRAWN)
def test_too_short_a_length(opened, name):
    """Guards against a question without what it asks for, and an error that does not help."""
    with pytest.raises(ConfigError, match=r" 20 tokens .*\d+"):
        opened(name, length=20)


def test_depths(opened):
    """Guards against a depth without effect, and one that is taken by a task that has none."""
    deep = [name for name in DRAWN if has_depth(registry.BUILT_IN[name])]
    assert {"passkey", "passkey_documents", "ruler_niah_single_2", "babilong_qa5"} <= set(deep)
    for name in deep:
        one, other = (opened(name, depth=depth).question(0) for depth in (0.0, 1.0))
        assert one.references == other.references
        assert one.prompt.tobytes() != other.prompt.tobytes()
    with pytest.raises(ConfigError, match=r"'ruler_vt' \(RulerVariableTracking\) takes no depth, but 0\.5"):
        opened("ruler_vt", depth=0.5)
    with pytest.raises(ConfigError, match=r"PassKey\.depth = 1\.5; allowed: 0 to 1"):
        opened("passkey", depth=1.5)


def test_what_asks_nothing(opened):
    """Guards against a scan of a task that has no questions."""
    for name in ("documents", "documents_and_passkeys"):
        with pytest.raises(ConfigError, match=rf"'{name}' .* asks no questions"):
            opened(name, length=512)
    with pytest.raises(ConfigError, match=r"no task 'ruler_niah_single'.*ruler_niah_single_1"):
        opened("ruler_niah_single")
