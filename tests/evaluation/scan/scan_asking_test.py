"""What a model is asked in a cell, and what its answers are worth; the model is a stand-in."""

import dataclasses
import json
import threading

import numpy as np
import pytest

from famjax.data.questions.question import Question, answer_ids
from famjax.data.task_config import PassKey
from famjax.data.vocabularies import Bytes
from famjax.errors import ConfigError
from famjax.evaluation.lm_harness import HarnessMetric, HarnessResult, HarnessSample
from famjax.evaluation.scan import asking
from famjax.evaluation.scan.asking import Asked, QuestionMaker, ask, ask_harness, made_ahead
from famjax.evaluation.scan.checkpoints import GridCheckpoint
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import make_cells
from famjax.inference.config import SamplingConfig
from famjax.inference.decoding import Generation
from famjax.inference.language_model import LanguageModel
from famjax.inference.reading import TokenScores
from tiny_job import MODEL

JOB = ScanJob("runs", "out", ("passkey",), (256,), depths=(0.0, None), seeds=(0, 1), examples=3, position_buckets=2)
CELLS = make_cells(JOB, [GridCheckpoint("FAM", "fam/checkpoint_1", 1, "f", MODEL)], "bytes")
CELL = CELLS[0]


class Model(LanguageModel):
    """Has a vocabulary and nothing else: what is asked of it is answered by the test."""

    vocabulary = Bytes()

    def __init__(self):
        pass


def questions(*references, **values):
    """One for each right answer, with a budget of 4, 5, ... tokens."""
    prompt = Bytes().encode("What? ")
    return tuple(
        Question(prompt, (reference,), max_new_tokens=4 + index, **values) for index, reference in enumerate(references)
    )


def stand_in(monkeypatch, name, answer):
    """Replaces a function of `famjax.inference.requests`; returns the arguments that it is given."""
    given = []

    def function(model, *arguments):
        given.append(arguments)
        return answer(*arguments)

    monkeypatch.setattr(asking.requests, name, function)
    # The stand-in for a model passes for one.
    return given


def run(asked, job=JOB, cell=CELL):
    """Asks the stand-in."""
    return ask(Model(), asked, cell, job)


def generation(text):
    """An answer."""
    return Generation(Bytes().encode(text), text, None, "stop")


def test_generated_answers(monkeypatch):
    """Guards against a budget or stop strings that are not the question's, and against answers of other questions."""
    given = stand_in(
        monkeypatch, "generate", lambda prompts, samplings: ([generation(text)] for text in ("12", " 7 ", "x"))
    )
    asked = Asked(
        questions("12", "7", "9", stop_strings=("\n",), num_cut=2), "generate_until", ("exact_match", "token_f1")
    )
    job = dataclasses.replace(JOB, sampling=SamplingConfig(stop_strings=("END", "\n")))
    outcome = run(asked, job)
    ((prompts, samplings),) = given
    assert [bytes(prompt) for prompt in prompts] == [bytes(question.prompt) for question in asked.questions]
    assert [sampling.max_new_tokens for sampling in samplings] == [4, 5, 6]
    assert {sampling.stop_strings for sampling in samplings} == {("\n", "END")}
    assert {sampling.seed for sampling in samplings} == {0}, "greedy answers need no seed of their own"
    assert (outcome.metric, outcome.metrics["exact_match"].value) == ("exact_match", pytest.approx(2 / 3))
    assert (outcome.examples, outcome.prompt_tokens, outcome.generated_tokens) == (3, 18, 6)
    assert (outcome.cut_examples, outcome.cut_tokens) == (3, 6)
    assert [sample["exact_match"] for sample in outcome.samples] == [1.0, 1.0, 0.0]
    assert outcome.samples[1]["doc"]["prompt_end"] == "What? "
    assert outcome.samples[1]["resps"] == [[" 7 "]]
    values = outcome.to_json()
    assert "samples" not in values
    assert "by_position" not in values
    json.dumps(values)


def test_drawn_answers(monkeypatch):
    """Guards against the same random numbers for every question, or for every seed of the grid."""
    given = stand_in(
        monkeypatch, "generate", lambda prompts, samplings: ([generation("12"), generation("x")] for _ in prompts)
    )
    job = dataclasses.replace(JOB, sampling=SamplingConfig(temperature=1.0, num_samples=2))
    asked = Asked(questions("12", "12", "9"), "generate_until", ("exact_match",))
    outcome = run(asked, job)
    run(asked, job, CELLS[1])
    run(asked, job)
    assert outcome.metrics["exact_match"].value == pytest.approx(1 / 3), "half of two thirds"
    seeds = [[sampling.seed for sampling in samplings] for _, samplings in given]
    assert len({*seeds[0], *seeds[1]}) == 6
    assert seeds[0] == seeds[2]


def test_multiple_choice(monkeypatch):
    """Guards against choices that are encoded otherwise than answers are, and against log-probabilities of others."""

    def score(prompts, continuations):
        for several in continuations:
            yield [TokenScores(np.full(len(ids), -1.0, np.float32), np.ones(len(ids), np.bool_)) for ids in several]

    given = stand_in(monkeypatch, "score_continuations", score)
    asked = Asked(questions("yes", "no", choices=("yes", "no")), "multiple_choice", ("acc", "acc_norm"))
    outcome = run(asked)
    assert [ids.tolist() for ids in given[0][1][0]] == [
        answer_ids(choice, Bytes()).tolist() for choice in ("yes", "no")
    ]
    assert outcome.metrics["acc"].value == 0.5, "the shorter one each time"
    assert outcome.samples[0]["resps"] == [[[-4.0, True], [-3.0, True]]]


def test_documents(monkeypatch):
    """Guards against positions that do not begin at each document's beginning."""

    def score(documents):
        return (
            TokenScores(np.where(np.arange(len(ids)) < 128, -2.0, -1.0).astype(np.float32), np.ones(len(ids), np.bool_))
            for ids in documents
        )

    given = stand_in(monkeypatch, "score_documents", score)
    documents = [Question(np.ones(length, np.int32), (), 0, num_cut=cut) for length, cut in ((256, 9), (128, 0))]
    outcome = run(Asked(tuple(documents), "loglikelihood_rolling", ("token_accuracy", "perplexity", "loss")))
    assert [len(ids) for ids in given[0][0]] == [256, 128]
    assert outcome.metric == "token_accuracy"
    assert outcome.metrics["loss"].value == pytest.approx((256 * 2 + 128) / 384)
    assert [(part["begin"], part["loss"], part["tokens"]) for part in outcome.by_position] == [
        (0, 2.0, 256),
        (128, 1.0, 128),
    ]
    assert (outcome.cut_examples, outcome.cut_tokens, outcome.prompt_tokens) == (1, 9, 384)


def test_the_harness(monkeypatch):
    """Guards against a value of the harness that is computed anew, and against one without its interval."""
    samples = tuple(HarnessSample(index, "b", ((-1.0, True),), {"acc": float(index)}) for index in range(2))
    metrics = {"acc": HarnessMetric(0.5, 0.5, 2, (0.0, 1.0)), "word_perplexity": HarnessMetric(9.0, None, 2)}
    result = HarnessResult("lambada", "multiple_choice", "acc", metrics, samples, 11, 0)
    given = {}

    def evaluate(model, task, **settings):
        given.update(settings, task=task)
        return result

    monkeypatch.setattr(asking, "evaluate_harness_task", evaluate)
    job = dataclasses.replace(JOB, tasks=(), depths=(None,), harness_tasks=("lambada",), harness_include_path="tasks")
    (cell,) = make_cells(job, [CELL.checkpoint], "bytes")
    outcome = ask_harness(Model(), cell, job)
    assert given == {"task": "lambada", "include_path": "tasks", "limit": 3, "seed": 0}
    assert outcome.metrics["acc"].ci95[0] > 0, "Wilson's"
    assert np.isnan(outcome.metrics["word_perplexity"].stderr)
    assert outcome.samples[1] == {"doc_id": 1, "target": "b", "resps": [(-1.0, True)], "acc": 1.0}


def test_questions_of_a_cell():
    """Guards against questions of another depth, seed or number; the same cell has the same ones."""
    maker = QuestionMaker(JOB)
    maker.check()
    by_cell = {(cell.depth, cell.seed): maker.make(cell) for cell in CELLS}
    assert all(len(asked.questions) == 3 for asked in by_cell.values())
    prompts = {key: Bytes().decode(asked.questions[0].prompt) for key, asked in by_cell.items()}
    assert prompts[0.0, 0] != prompts[0.0, 1]
    for asked in by_cell.values():
        for question in asked.questions:
            assert len(question.prompt) + question.max_new_tokens <= 256
    again = QuestionMaker(JOB).make(CELLS[1])
    assert [bytes(question.prompt) for question in again.questions] == [
        bytes(question.prompt) for question in by_cell[CELLS[1].depth, CELLS[1].seed].questions
    ]


def test_fewer_questions_than_asked_for():
    """Guards against an IndexError, or questions that come twice, where the split has fewer."""
    job = dataclasses.replace(JOB, task_configs={"passkey": PassKey(validation_examples=2)})
    assert len(QuestionMaker(job).make(CELL).questions) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (256, 32)}, "32 tokens"),
        ({"tasks": ("passkee",)}, "no task 'passkee'"),
        ({"tasks": ("documents",), "depths": (None,)}, "asks no questions"),
        ({"tasks": ("associative_recall",), "depths": (0.5,)}, "takes no depth"),
    ],
)
def test_mistakes_are_found_first(changes, message):
    """Guards against a grid whose last cells cannot be, which is told after hours."""
    with pytest.raises(ConfigError, match=message):
        QuestionMaker(dataclasses.replace(JOB, **changes)).check()


def test_the_harness_is_not_installed(monkeypatch):
    """Guards against cells of the harness that all fail, one after the other, for want of a package."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="lm-eval is not installed"):
        QuestionMaker(dataclasses.replace(JOB, harness_tasks=("lambada",))).check()


def test_a_metric_that_does_not_exist(monkeypatch):
    """Guards against a KeyError after the answers are there."""
    real = asking.open_questions

    def open_questions(*arguments, **settings):
        found = real(*arguments, **settings)
        found.metrics = ("exact_math",)
        return found

    monkeypatch.setattr(asking, "open_questions", open_questions)
    with pytest.raises(ConfigError, match="names the metric 'exact_math'; allowed: exact_match"):
        QuestionMaker(JOB).check()


def test_questions_are_made_ahead():
    """Guards against devices that wait for questions, and against all questions of a scan in memory at once."""
    made, second = [], threading.Event()

    def make(item):
        made.append(item)
        if item == 1:
            second.set()
        if item == 3:
            raise ConfigError("no")
        return item * 10

    pairs = made_ahead(range(5), make)
    item, asked = next(pairs)
    assert (item, asked.result()) == (0, 0)
    assert second.wait(10), "the next one is made while the first is asked"
    assert len(made) <= 2
    assert [item for item, _ in [next(pairs), next(pairs)]] == [1, 2]
    item, asked = next(pairs)
    with pytest.raises(ConfigError, match="no"):
        asked.result()
    assert next(pairs)[1].result() == 40
    assert list(pairs) == []
    pairs.close()
