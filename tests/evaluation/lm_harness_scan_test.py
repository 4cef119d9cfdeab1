"""One task, asked by famjax's scan and by lm-evaluation-harness: the same to the last example."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra lm_eval)")

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_harness_checkpoint import save_talkative_checkpoint

from famjax.data.questions.opening import open_questions
from famjax.data.questions.question import Question
from famjax.evaluation.lm_harness import evaluate_harness_task
from famjax.evaluation.scan.asking import Asked, ask, ask_harness
from famjax.evaluation.scan.checkpoints import GridCheckpoint
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import make_cells
from famjax.inference.language_model import LanguageModel
from tolerances import FLOAT32, assert_close

CHOICES = (
    ("The mill stands by the", ("river", "road", "Straße", "old stone bridge"), 2),
    ("Of all the birds that came to the garden in winter, the one that stayed was the", ("wren", "robin"), 0),
    ("One, two,", ("three", "four", "seven"), 1),
)
TEXTS = ("A short text.", "A long one, which goes on and on, word after word, and never comes to its point. " * 3, "x")


@pytest.fixture(scope="module", autouse=True)
def _local_tasks_only():
    """Leaves out the harness's own thousands of tasks, whose index takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.tasks, "TaskManager", functools.partial(TaskManager, include_defaults=False))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Reads two rows at a time."""
    return LanguageModel.open(save_talkative_checkpoint(tmp_path_factory.mktemp("runs")), batch_size=2, chunk_blocks=2)


def make_job(folder, **changes):
    """A scan of one cell."""
    return ScanJob("run", str(folder), ("passkey",), (256,), **changes)


def make_cell(model, job):
    """The cell."""
    folder = model.checkpoint
    checkpoint = GridCheckpoint("FAM", str(folder.path), folder.step, model.fingerprint, model.config)
    (cell,) = make_cells(job, [checkpoint], "bytes")
    return cell


def write_task(folder, output_type, documents, **settings):
    """Writes a task of the harness on these documents; returns its name."""
    (folder / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    config = {
        "task": f"famjax_scanned_{output_type}",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "documents.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "output_type": output_type,
        "test_split": "test",
        **settings,
    }
    (folder / "task.yaml").write_text(json.dumps(config))  # which is YAML too
    return config["task"]


def mean_of(*metrics):
    """A task's list of metrics."""
    return [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics]


def test_answers(model, tmp_path):
    """Guards against a harness that prompts, stops or scores otherwise than the scan. Every other answer is right."""
    job, vocabulary = make_job(tmp_path), model.vocabulary
    opened = open_questions(
        "passkey", split="validation", length=256, depth=None, seed=0, vocabulary=vocabulary, tasks={}
    )
    questions = [dataclasses.replace(opened.question(index), max_new_tokens=9) for index in range(5)]
    asking = functools.partial(ask, model, cell=make_cell(model, job), job=job)
    said = asking(Asked(tuple(questions), "generate_until", ("exact_match",))).samples[0]["filtered_resps"][0]
    questions = [dataclasses.replace(question, stop_strings=(said[-3:], "\n")) for question in questions]
    stopped = asking(Asked(tuple(questions), "generate_until", ("exact_match",))).samples
    assert stopped[0]["filtered_resps"][0] != said
    for index, (question, sample) in enumerate(zip(questions, stopped, strict=True)):
        right = sample["filtered_resps"][0] + "!" * (index % 2)
        questions[index] = dataclasses.replace(question, references=(right,))
    own = asking(Asked(tuple(questions), "generate_until", ("exact_match",)))
    name = write_task(
        tmp_path,
        "generate_until",
        [{"prompt": vocabulary.decode(question.prompt), "answer": question.references[0]} for question in questions],
        doc_to_text="{{prompt}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": [said[-3:], "\n"], "max_gen_toks": 9},
        metric_list=mean_of("exact_match"),
    )
    result = evaluate_harness_task(model, name, include_path=str(tmp_path))
    assert [list(sample.responses) for sample in result.samples] == [sample["filtered_resps"] for sample in own.samples]
    assert result.metrics["exact_match"].scores == tuple(sample["exact_match"] for sample in own.samples)
    assert result.metrics["exact_match"].scores == (1, 0, 1, 0, 1)
    assert result.metrics["exact_match"].value == own.metrics["exact_match"].value
    assert result.metrics["exact_match"].stderr == pytest.approx(own.metrics["exact_match"].stderr)
    assert (result.prompt_tokens, result.generated_tokens) == (own.prompt_tokens, own.generated_tokens)


def test_choices(model, tmp_path):
    """Guards against a choice that is ranked otherwise than in the scan, by its length in bytes too."""
    job, encode = make_job(tmp_path), model.vocabulary.encode
    questions = tuple(Question(encode(text), (choices[gold],), 20, choices) for text, choices, gold in CHOICES)
    own = ask(model, Asked(questions, "multiple_choice", ("acc", "acc_norm")), make_cell(model, job), job)
    name = write_task(
        tmp_path,
        "multiple_choice",
        [{"prompt": prompt, "choices": choices, "gold": gold} for prompt, choices, gold in CHOICES],
        doc_to_text="{{prompt}}",
        doc_to_choice="{{choices}}",
        doc_to_target="gold",
        metric_list=mean_of("acc", "acc_bytes"),
    )
    result = evaluate_harness_task(model, name, include_path=str(tmp_path))
    for sample, expected in zip(result.samples, own.samples, strict=True):
        assert_close([list(response) for response in sample.responses], expected["filtered_resps"], FLOAT32)
    assert result.metrics["acc"].scores == tuple(sample["acc"] for sample in own.samples)
    assert result.metrics["acc_bytes"].scores == tuple(sample["acc_norm"] for sample in own.samples)


def test_documents(model, tmp_path):
    """Guards against a document whose likelihood in the harness is not the loss of the scan."""
    job = make_job(tmp_path)
    questions = tuple(Question(model.vocabulary.encode(text), (), 0) for text in TEXTS)
    own = ask(model, Asked(questions, "loglikelihood_rolling", ("loss",)), make_cell(model, job), job)
    name = write_task(
        tmp_path,
        "loglikelihood_rolling",
        [{"text": text} for text in TEXTS],
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    )
    result = evaluate_harness_task(model, name, include_path=str(tmp_path))
    for sample, expected in zip(result.samples, own.samples, strict=True):
        assert_close(list(sample.responses), expected["resps"][0], FLOAT32)
    assert result.metrics["bits_per_byte"].value == pytest.approx(own.metrics["loss"].value / math.log(2))


def test_a_cell_of_a_scan(model, tmp_path):
    """Guards against a harness task that a scan cannot name, or whose outcome it cannot write."""
    documents = [{"prompt": prompt, "choices": choices, "gold": gold} for prompt, choices, gold in CHOICES]
    settings = {"doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}", "doc_to_target": "gold"}
    name = write_task(tmp_path, "multiple_choice", documents, **settings, metric_list=mean_of("acc_bytes", "acc"))
    job = make_job(tmp_path, harness_tasks=(name,), harness_include_path=str(tmp_path), examples=2)
    job = dataclasses.replace(job, tasks=())
    outcome = ask_harness(model, make_cell(model, job), job)
    assert (outcome.metric, outcome.output_type, outcome.examples) == ("acc_bytes", "multiple_choice", 2)
    assert outcome.metrics["acc"].n == 2
    assert np.mean([sample["acc"] for sample in outcome.samples]) == outcome.metrics["acc"].value
    assert json.loads(json.dumps([outcome.to_json(), *outcome.samples]))
